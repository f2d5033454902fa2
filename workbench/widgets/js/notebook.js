// The notebook around a widget: what it saves.

/** Save the state of all widgets in the notebook, to be shown without a kernel; JupyterLab does so only with a setting. */
export function keepInNotebook(model) {
  const manager = model.widget_manager, notebook = manager?.context?.model;
  if (!notebook?.setMetadata || !manager.get_state_sync) return;
  const saved = manager.get_state_sync({ drop_defaults: true });
  for (const { state } of Object.values(saved.state)) delete state.contents; // of a Page: the outputs hold it
  notebook.setMetadata("widgets", { "application/vnd.jupyter.widget-state+json": saved });
}
