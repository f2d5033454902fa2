// Undo for what changes the image: the latent and the interventions.

const UNDOABLE = ["directions", "gamma0", "gamma", "replace", "forbid", "scope", "paint", "paint_from", "paint_shift"];
const PAUSE = 800; // ms; what follows sooner, such as the moves of a drag, is one change
const DEPTH = 50;

export function undoStack() {
  const past = [];
  let since = 0;
  return {
    /** Remember what a patch of the view replaces. */
    note(view, patch) {
      const former = Object.fromEntries(UNDOABLE.filter((name) => name in patch).map((name) => [name, view[name]]));
      if (!Object.keys(former).length) return;
      const continued = performance.now() - since < PAUSE && past.length && Object.keys(former).join() === Object.keys(past.at(-1)).join();
      since = performance.now();
      if (!continued) past.push(former);
      if (past.length > DEPTH) past.shift();
    },
    /** The patch that takes back the last change, or null. */
    take() {
      since = 0;
      return past.pop() ?? null;
    },
    any: () => past.length > 0,
    clear: () => past.splice(0),
  };
}
