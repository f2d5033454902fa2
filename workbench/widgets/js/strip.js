// The images to choose from, and their sources.

import { numberField, button, segmented, slider, toggle } from "./controls.js";
import { html } from "./dom.js";
import { canvasOf, paintPicture } from "./paint.js";

const PAGED = ["samples", "real"]; // sources with several pages

export function stripCard({ change, drop, page }) {
  const sources = segmented("Source of the images", (source) => change({ source, sample: 0 }));
  const classes = html("select", { "aria-label": "Class" });
  const seed = numberField("Seed", (value) => change({ seed: value }));
  const writeTruncation = (value) => (value ? value.toFixed(2) : "none");
  const truncation = slider("Truncation", { min: 0, max: 2, step: 0.05, write: writeTruncation }, (value) => change({ truncation: value }));
  const walking = "Walk from this latent to that of another seed; the map follows";
  const walk = toggle("Interpolate", walking, (on) =>
    change({ towards: on ? [view.seed + 1, view.sample] : null, mix: on ? 0.5 : 0 }));
  const target = numberField("To seed", (value) => change({ towards: [value, view.towards[1]] }));
  const mix = slider("Mix", { min: 0, max: 1, step: 0.02, write: (value) => value.toFixed(2) }, (value) => change({ mix: value }));
  const latent = html("div", { class: "latent" }, seed.node, truncation.node, walk.node, target.node, mix.node);
  const file = html("input", { type: "file", accept: "image/*", "aria-label": "Image file", hidden: "" });
  const open = html("div", { class: "open" }, button("Open an image…", "Or drop one onto this view", () => file.click()), file);
  const thumbs = html("div", { class: "thumbs", role: "group", "aria-label": "Images" }), empty = html("p", { class: "muted" });
  const back = button("‹", "Earlier images", () => page(-1)), on = button("›", "Further images", () => page(1));
  const at = html("span", { class: "muted" }), pages = html("div", { class: "row pages" }, back, at, on);
  const node = html("section", { class: "card strip", "aria-label": "Images" }, sources.node, classes, latent, open, thumbs, empty, pages);
  let view, shownClasses;
  classes.addEventListener("change", () => change({ class: Number(classes.value) }));
  file.addEventListener("change", () => {
    if (file.files[0]) drop(file.files[0]);
    file.value = ""; // the same file may be opened again
  });

  function thumb() {
    const node = html("button", { type: "button" }, canvasOf("thumb"), html("span"));
    node.addEventListener("click", () => {
      const sample = Number(node.dataset.sample);
      change({ sample, ...(view.towards && { towards: [view.towards[0], sample] }) });
    });
    return node;
  }

  function drawClasses(names) {
    if (shownClasses === names) return;
    shownClasses = names;
    classes.replaceChildren(...["every class in turn", ...names].map((name, i) => html("option", { value: i - 1 }, name)));
  }

  return {
    node,
    /** `strip` is the answer, or null; `first` an image that it shows. */
    draw(state, strip, first, frozen) {
      view = state.view;
      const info = state.catalog[0], generated = view.source === "samples";
      const names = { samples: "samples", recorded: "recorded", real: "real", dropped: "yours" };
      const kinds = { recorded: "Snapshots of the training: at more steps than there are checkpoints", dropped: "Images that you open or drop here" };
      sources.show(state.sources.map((value) => ({ value, name: names[value], about: kinds[value] })), view.source);
      sources.node.hidden = frozen || state.sources.length < 2;
      drawClasses(info.classes);
      classes.options[0].textContent = { samples: "every class in turn", real: "all classes" }[view.source] ?? "no class";
      classes.value = view.class;
      classes.hidden = frozen || !info.classes.length || view.source === "recorded";
      latent.hidden = frozen || !generated || !info.latents; // given inputs have no seed
      truncation.node.hidden = walk.node.hidden = info.latents !== "latents";
      seed.show(view.seed);
      truncation.show(view.truncation);
      walk.show(view.towards);
      target.node.hidden = mix.node.hidden = !view.towards || walk.node.hidden;
      target.show(view.towards?.[0] ?? 0);
      mix.show(view.mix);
      open.hidden = frozen || view.source !== "dropped";
      pages.hidden = frozen || !PAGED.includes(view.source);
      back.disabled = first < info.page;
      on.disabled = first + info.page >= ({ real: info.real, samples: info.count }[view.source] ?? Infinity);
      at.textContent = strip ? `${strip.start} – ${strip.start + strip.count - 1}` : "…";
      empty.hidden = strip?.count !== 0;
      empty.textContent = "No image yet: open one, or drop it anywhere here.";
      thumbs.classList.toggle("stale", !strip);
      if (!strip) return;
      while (thumbs.children.length < strip.count) thumbs.append(thumb());
      [...thumbs.children].forEach((thumb, i) => {
        const sample = strip.start + i, label = strip.labels[i] ?? "";
        thumb.hidden = i >= strip.count || Boolean(info.samples && !info.samples.includes(sample));
        if (thumb.hidden) return;
        thumb.dataset.sample = sample;
        thumb.setAttribute("aria-pressed", sample === view.sample);
        thumb.setAttribute("aria-label", `Image ${sample}${label && `, ${label}`}`);
        paintPicture(thumb.firstChild, strip.images[i], strip.size);
        thumb.title = label;
        thumb.lastChild.textContent = label.split(",")[0];
      });
    },
  };
}
