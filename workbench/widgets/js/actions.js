// What the user does to the view: changes, undo, layers, pins, image files, and the address of a page.

import { addressedView } from "./address.js";
import { PIN_COLOURS, catalogOf, movePins } from "./state.js";
import { undoStack } from "./undo.js";

/**
 * `now()` is the state that is shown; `update()` draws anew; `report(problem)` gives the reason why something failed, or "", and `painted()` is
 * called for each change, which a painting follows.
 */
export function actionsOf({ model, store, now, update, report, painted }) {
  const frozen = Boolean(model.get("frozen")), opened = { ...model.get("view") }, past = undoStack();

  function change(patch) {
    report("");
    painted();
    const view = store.view(), keys = (entries) => store.keyOf(now().catalog.map((_, run) => ({ kind: "measure", run, view: entries })));
    past.note(view, patch);
    const outdated = view.measure && !frozen && keys(view) !== keys({ ...view, ...patch }); // the numbers of another intervention
    store.change(outdated ? { ...patch, measure: false } : patch);
  }

  function undo() {
    const patch = past.take();
    if (!patch) return;
    change(patch);
    past.take(); // not a change of its own
    update();
  }

  function pickLayer(id, more = {}) {
    const { view, layer, layers } = now(), to = layers.find((other) => other.id === id);
    const { forbid, paint } = frozen && id === opened.layer ? opened : { forbid: [], paint: [] }; // a page holds this layer with these keys
    change({ layer: id, pins: movePins(view.pins, layer, to), forbid, paint, ...more });
    past.clear(); // keys of the other layer
  }

  /** In a page: go to the view of the address, as far as the page holds it, and say what it does not hold. */
  function openAddress() {
    const { view, lost } = addressedView(location.hash.slice(1), catalogOf(model), model.get("defaults"), opened);
    if (view) change(view);
    report(lost);
    update();
  }

  /** Replace all pins by one at a position; with `add`, add or remove it. A pinned position becomes active. */
  function pin(query, add) {
    const { view } = now(), at = view.pins.indexOf(query);
    if (add && at >= 0) return unpin(at);
    if (at >= 0) return change({ active: at });
    const pins = add ? [...view.pins, query].slice(-PIN_COLOURS.length) : [query];
    change({ pins, active: pins.length - 1 });
  }

  function unpin(at) {
    const { view } = now(), pins = view.pins.filter((_, i) => i !== at);
    change({ pins, active: Math.min(view.active - (at < view.active), pins.length - 1) });
  }

  async function drop(file) {
    try {
      const { sample } = await store.call({ kind: "drop", name: file.name }, [await file.arrayBuffer()]);
      store.forget("strip");
      const { layer, layers } = now();
      if (layer.network !== "D") pickLayer(layers.find(({ network }) => network === "D").id);
      change({ source: "dropped", sample });
    } catch (error) {
      report(error.message);
    }
    update();
  }

  return { change, undo, undoable: past.any, pickLayer, openAddress, pin, unpin, drop };
}

/** Take files that are dropped on a node, while `droppable()`. */
export function acceptFiles(node, droppable, onFile) {
  node.addEventListener("dragover", (event) => {
    if (!droppable() || !event.dataTransfer.types.includes("Files")) return;
    event.preventDefault();
    event.stopPropagation(); // else the notebook would open the file
    node.classList.add("dropping");
  });
  node.addEventListener("dragleave", (event) => node.contains(event.relatedTarget) || node.classList.remove("dropping"));
  node.addEventListener("drop", (event) => {
    if (!node.classList.contains("dropping")) return;
    node.classList.remove("dropping");
    event.preventDefault();
    event.stopPropagation();
    if (event.dataTransfer.files[0]) onFile(event.dataTransfer.files[0]);
  });
}
