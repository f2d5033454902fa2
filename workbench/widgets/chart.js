// A chart of plotly's FigureWidget. plotly.js has 5 MB, which each widget would hold and a notebook would save: here a page gets it once,
// from the kernel, with the first chart. Without a kernel, the plotly of the front end draws the saved chart.

const WAIT = 30_000; // milliseconds

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

/** Save the state of all widgets in the notebook, to be shown without a kernel; JupyterLab does so only with a setting. */
function keep(model) {
  const manager = model.widget_manager, notebook = manager?.context?.model;
  if (!notebook?.setMetadata || !manager.get_state_sync) return;
  notebook.setMetadata("widgets", { "application/vnd.jupyter.widget-state+json": manager.get_state_sync({ drop_defaults: true }) });
}

async function drawSaved(model, el) {
  const type = "application/vnd.plotly.v1+json";
  const renderer = model.widget_manager?.rendermime?.createRenderer(type);
  if (!renderer) return;
  el.append(renderer.node);
  const data = { [type]: { data: model.get("_widget_data"), layout: model.get("_widget_layout") } };
  await renderer.renderModel({ data, metadata: {}, trusted: true, setData() {} });
}

export default () => {
  let ready; // plotly's widget, or null if it cannot be loaded
  return {
    initialize({ model }) { // not async: Jupyter would wait too, and deliver no message
      const updates = [];
      const remember = () => model.get("_py2js_update") && updates.push(model.get("_py2js_update"));
      model.on("change:_py2js_update", remember);
      model.on("msg:custom", (content) => content.kind === "keep" && keep(model));
      ready = plotly(model).then((module) => {
        const figure = module.default();
        model.off("change:_py2js_update", remember);
        figure.initialize({ model });
        for (const update of [...updates, null]) model.set("_py2js_update", update); // updates that arrived meanwhile
        return figure;
      }).catch(() => null);
    },
    async render({ model, el }) {
      const figure = await ready;
      return figure ? figure.render({ model, el }) : drawSaved(model, el);
    },
  };
};
