// The effect of the intervention in numbers: means over samples with intervals, beside those of random keys (studies/effects.py).

import { button } from "./controls.js";
import { html, say } from "./dom.js";
import { format } from "./numbers.js";

const SAMPLES = 64;
const COLUMNS = [["change", "change", ""], ["null", "random keys", "null_"], ["more", "difference", "more_"]];

/** `requests` are those for the effects of the shown intervention, one for each run; `onError(text)` tells why there are none. */
export function measureCard({ store, change, onNews, onError }) {
  const start = button(`Measure over ${SAMPLES} samples`, "The mean change over samples, with a 95 % interval", () => change({ measure: true }));
  const stop = button("Cancel", "Without these numbers", () => change({ measure: false }));
  const state = html("span", { class: "muted", role: "status" }), bar = html("progress", { max: SAMPLES, "aria-label": "Measured samples" });
  const tables = html("div", { class: "effects" }), note = html("p", { class: "muted" });
  const node = html("div", { class: "measure" }, html("div", { class: "row" }, start, bar, stop, state), tables, note);
  let wanted = "", running = "", done = 0, shown = "";

  /** One batch after the other, each with a message of its own: what else the kernel is asked for comes in between. */
  async function measure(requests, key) {
    running = key;
    done = 0;
    await null; // a call is news, which draws: not while drawing
    try {
      for (const request of requests) {
        for (let batch = 0, reply = null; !reply?.rows && !store.peek(request); batch++) {
          reply = await store.call({ ...request, batch });
          if (wanted !== key) return;
          done = reply.done;
          if (reply.rows) store.put(request, reply);
          onNews();
        }
      }
    } catch (error) {
      if (wanted === key) {
        change({ measure: false });
        onError(error.message);
      }
    } finally {
      if (running === key) running = "";
      onNews();
    }
  }

  const cell = (row, name, prefix) => {
    const [value, low, high] = [name, `${prefix}low`, `${prefix}high`].map((part) => row[part]);
    const short = (number) => format(Number(number.toPrecision(2)));
    return value === null ? html("td", {}, "–") : html("td", {}, short(value), html("small", {}, html("span", {}, `[${short(low)},`), " ", html("span", {}, `${short(high)}]`)));
  };

  function tableOf(rows, label) {
    const columns = COLUMNS.filter(([name]) => rows.some((row) => row[name] !== null));
    const before = (row) => (row.before === null ? [] : [html("small", {}, `, before: ${format(Number(row.before.toPrecision(2)))}`)]);
    // The quantity has a line of its own: where it is narrow, the numbers need the width.
    const group = (row) => html("tbody", {}, html("tr", {}, html("th", { scope: "rowgroup", colspan: columns.length }, row.quantity, ...before(row))),
      html("tr", {}, ...columns.map(([name, , prefix]) => cell(row, name, prefix))));
    const heads = columns.length > 1 ? [html("thead", {}, html("tr", {}, ...columns.map(([, title]) => html("th", { scope: "col" }, title))))] : [];
    return html("table", {}, ...(label ? [html("caption", {}, label)] : []), ...heads, ...rows.map(group));
  }

  return {
    node,
    draw({ view, catalog }, requests, frozen) {
      const measurable = catalog[0].tools.includes("measure") && ["samples", "real"].includes(view.source) && (view.gamma0 || view.gamma != null || view.replace || view.forbid.length);
      const answers = requests.map((request) => (measurable && view.measure ? store.peek(request) : null)), complete = answers.every(Boolean);
      node.hidden = !measurable || (frozen && !complete);
      wanted = measurable && view.measure && !frozen && !store.gone ? store.keyOf(requests) : "";
      if (wanted && !complete && running !== wanted) measure(requests, wanted);
      start.hidden = frozen || Boolean(wanted) || complete;
      start.disabled = store.gone;
      stop.hidden = frozen || !(wanted || complete);
      stop.textContent = complete ? "Hide" : "Cancel";
      bar.hidden = !wanted || complete;
      bar.value = done;
      say(state, wanted && !complete ? `${done} of ${SAMPLES}` : "");
      tables.hidden = note.hidden = !complete;
      const text = JSON.stringify(answers);
      if (!complete || text === shown) return;
      shown = text;
      tables.replaceChildren(...answers.map(({ rows }, i) => tableOf(rows, catalog.length > 1 ? `${"ab"[i]} · ${catalog[i].label}` : "")));
      const real = view.source === "real", images = real ? "real images" : "samples", random = answers.some(({ rows }) => rows.some((row) => row.null !== null));
      const ofWhat = [...(catalog[0].classes.length ? [view.class < 0 ? "all classes" : "this class"] : []), ...(real ? [] : ["this seed"])].join(" and ");
      note.textContent = `Means over ${SAMPLES} ${images} of ${ofWhat || "the data"}, the same places in each, with 95 % bootstrap intervals.`
        + `${random ? " Random keys: as many in place of these, drawn for each image; the difference is paired." : ""}`
        + `${view.paint.length ? " What is painted on this image is left out." : ""}`
        + `${view.directions.length || view.towards ? " Each sample has its own latent, which is not moved." : ""}`;
    },
  };
}
