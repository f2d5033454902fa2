// A chart of plotly's FigureWidget. plotly.js has 5 MB, which each widget would hold and a notebook would save: here a page gets it once,
// from the kernel, with the first chart. Without a kernel, the plotly of the front end draws the saved chart.

import { isDark, onTheme } from "./theme.js";

const WAIT = 30_000; // milliseconds until a kernel counts as gone
const SOON = 5_000; // and until the saved chart is drawn, which the kernel's plotly then replaces

function plotly(model) {
  globalThis.workbenchPlotly ??= new Promise((resolve, reject) => {
    model.on("msg:custom", (content, buffers) => {
      if (content.kind === "plotly") resolve(unpacked(buffers));
    });
    setTimeout(() => reject(new Error("the kernel does not answer")), WAIT);
    model.send({ kind: "plotly" });
  }).catch((error) => {
    delete globalThis.workbenchPlotly; // the next chart asks again
    throw error;
  });
  return globalThis.workbenchPlotly;
}

async function unpacked(buffers) {
  const text = await new Response(new Blob(buffers).stream().pipeThrough(new DecompressionStream("gzip"))).text();
  return import(URL.createObjectURL(new Blob([text], { type: "text/javascript" })));
}

/** Wait until a new model has its chart: FigureWidget sends that after it has opened. */
function described(model) {
  return new Promise((resolve) => {
    const check = () => model.get("_widget_layout")?.template && model.get("_widget_data")?.length && resolve();
    for (const name of ["_widget_layout", "_widget_data"]) model.on(`change:${name}`, check);
    check();
  });
}

/** The template of a chart in the colours of the theme. */
function themed(template) {
  const [paper, ink, line] = isDark() ? ["#111", "#d5d9de", "#3c4249"] : ["white", "#2a3f5f", "#ebf0f8"];
  const axis = (of) => ({ ...of, gridcolor: line, linecolor: line, zerolinecolor: line }), { layout } = template;
  const buttons = { bgcolor: "white", font: { color: "#2a3f5f" } }; // plotly draws the pressed one white in every theme
  const colours = { paper_bgcolor: paper, plot_bgcolor: paper, font: { ...layout.font, color: ink }, updatemenudefaults: buttons };
  return { ...template, layout: { ...layout, ...colours, xaxis: axis(layout.xaxis), yaxis: axis(layout.yaxis) } };
}

/** A model that knows what the views listen to: plotly's views would go on when they are removed, fail, and keep the others from changes. */
function scoped(model) {
  let heard = null; // what the view listens to that is being drawn
  const listen = (event, callback) => {
    heard?.push([event, callback]);
    model.on(event, callback);
  };
  const proxy = new Proxy(model, {
    get(target, name) {
      if (name === "on") return listen;
      return typeof target[name] === "function" ? target[name].bind(target) : target[name];
    },
  });
  const draw = (figure, el) => {
    const listeners = heard = [], clean = figure.render({ model: proxy, el });
    heard = null;
    return () => {
      listeners.forEach(([event, callback]) => model.off(event, callback));
      clean?.();
    };
  };
  return { proxy, draw };
}

async function drawSaved(model, el) {
  const type = "application/vnd.plotly.v1+json", rendermime = model.widget_manager?.rendermime;
  const draw = () => {
    const renderer = rendermime?.createRenderer(type), layout = model.get("_widget_layout"); // anew: a renderer draws only once
    if (!renderer) return null;
    el.replaceChildren(renderer.node);
    const data = { [type]: { data: model.get("_widget_data"), layout: { ...layout, template: themed(layout.template) }, config: model.get("_config") } };
    return renderer.renderModel({ data, metadata: {}, trusted: true, setData() {} });
  };
  await draw();
  return onTheme(draw);
}

export default () => {
  let ready, views; // plotly's widget, or null if it cannot be loaded
  return {
    initialize({ model }) { // not async: Jupyter would wait too, and deliver no message
      const updates = [];
      views = scoped(model);
      const remember = () => model.get("_py2js_update") && updates.push(model.get("_py2js_update"));
      model.on("change:_py2js_update", remember);
      ready = Promise.all([plotly(model), described(model)]).then(([module]) => {
        const figure = module.default();
        model.off("change:_py2js_update", remember);
        model.get("_widget_layout").template = themed(model.get("_widget_layout").template);
        figure.initialize({ model: views.proxy });
        for (const update of [...updates, null]) model.set("_py2js_update", update); // updates that arrived meanwhile
        return figure;
      }).catch(() => null);
      return onTheme(() => { // like a change that Python makes
        const template = themed(model.get("_widget_layout").template);
        for (const change of [{ relayout_data: { template } }, null]) model.set("_py2js_relayout", change);
      });
    },
    async render({ model, el }) {
      let removed = false, clean = null, width = 0;
      const sizes = new ResizeObserver(([{ contentRect }]) => { // plotly watches the window alone
        if (Math.abs(contentRect.width - width) < 2) return;
        width = contentRect.width;
        dispatchEvent(new Event("resize"));
      });
      sizes.observe(el);
      const draw = async (figure) => {
        clean?.();
        el.replaceChildren();
        clean = figure ? views.draw(figure, el) : await drawSaved(model, el);
        dispatchEvent(new Event("resize")); // it may have been drawn before it had its place
      };
      const early = await Promise.race([ready, new Promise((resolve) => setTimeout(resolve, SOON))]);
      await draw(early);
      if (early === undefined) ready.then((figure) => figure && !removed && draw(figure));
      return () => {
        removed = true;
        sizes.disconnect();
        clean?.();
      };
    },
  };
};
