// The script of a living page: the inspector with the answers of a worker that runs the generator. The page holds the worker's source in
// <script type="text/plain" id="wb-worker">, and the networks in its state.

import { button } from "./controls.js";
import { html } from "./dom.js";
import { showGallery } from "./gallery.js";
import { heldState, host, hostedModel } from "./hosted.js";
import { bytesOf } from "./numbers.js";
import { pictureOf } from "./picture.js";

const TIMED = 21; // images

/** A model whose messages a worker answers; `ask(request)` promises the reply to one from outside of the view. */
function livingModel({ living, ...traits }) {
  const source = document.getElementById("wb-worker").textContent;
  const worker = new Worker(URL.createObjectURL(new Blob([source], { type: "text/javascript" })));
  const networks = living.networks.map(({ half, single, ...rest }) => ({ ...rest, half: bytesOf(half), single: bytesOf(single) }));
  worker.postMessage({ state: { ...living, networks } }, networks.flatMap(({ half, single }) => [half, single]));
  const model = hostedModel(traits, async ({ id, request }) => {
    if (request.kind !== "export") return worker.postMessage({ id, request });
    const picture = await pictureOf(document.querySelector(".stage")), { seed, sample } = request.view;
    model.tell("msg:custom", { id, reply: { text: "", name: `seed-${seed}-sample-${sample}.png` } }, [picture]);
  });
  worker.addEventListener("message", ({ data: { buffers, ...content } }) => model.tell("msg:custom", content, buffers));
  worker.addEventListener("error", () => model.tell("comm_live_update"));
  model.ask = (request) => new Promise((resolve) => {
    worker.addEventListener("message", function receive({ data: { id, reply } }) {
      if (id !== request.kind) return;
      worker.removeEventListener("message", receive);
      resolve(reply);
    });
    worker.postMessage({ id: request.kind, request });
  });
  return model;
}

/** The foot of the page: what runs in it, and how fast. */
function footOf(model, text) {
  const took = html("output", { class: "muted" });
  const time = button("Time it", `Generate ${TIMED} images, and take the median`, async () => {
    time.disabled = true;
    took.textContent = "…";
    const { milliseconds } = await model.ask({ kind: "time", view: model.get("view"), count: TIMED });
    const median = milliseconds.sort((a, b) => a - b)[(TIMED - 1) / 2];
    took.textContent = `${median.toFixed(1)} ms an image, median of ${TIMED}`;
    time.disabled = false;
  });
  return html("footer", { class: "row exports" }, html("span", { class: "muted" }, text), time, took);
}

const traits = heldState();
const model = livingModel(traits);
host(model, ...(traits.catalog[0].layers.length ? [] : [showGallery]));
document.querySelector(".wb").append(footOf(model, traits.living.about));
