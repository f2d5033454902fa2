// A chart of plotly's FigureWidget. plotly.js has 5 MB, which each such widget would hold and a notebook would keep: here a page gets it
// once, from the kernel, when the first chart is shown. Where no kernel runs any more, the front end's own plotly draws the saved chart.

const WAIT = 15_000; // milliseconds

function plotly(model) {
  globalThis.workbenchPlotly ??= new Promise((resolve, reject) => {
    model.on("msg:custom", (content, buffers) => {
      if (content.kind === "plotly") resolve(import(URL.createObjectURL(new Blob(buffers, { type: "text/javascript" }))));
    });
    setTimeout(() => reject(new Error("the kernel does not answer")), WAIT);
    model.send({ kind: "plotly" });
  }).catch((error) => {
    delete globalThis.workbenchPlotly; // the next chart asks again
    throw error;
  });
  return globalThis.workbenchPlotly;
}

/** Leave the state of all widgets in the notebook, for when no kernel runs any more: JupyterLab does that only if a setting asks for it. */
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
  await renderer.renderModel({ data: { [type]: { data: model.get("_widget_data"), layout: model.get("_widget_layout") } }, metadata: {} });
}

export default () => {
  let figure = null;
  return {
    async initialize({ model }) {
      model.on("msg:custom", (content) => content.kind === "keep" && keep(model));
      try {
        figure = (await plotly(model)).default();
        figure.initialize({ model });
      } catch {
        figure = null;
      }
    },
    render: ({ model, el }) => (figure ? figure.render({ model, el }) : drawSaved(model, el)),
  };
};
