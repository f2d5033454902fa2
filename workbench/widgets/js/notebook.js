// The notebook around a widget: what it saves, and its theme.

/** Save the state of all widgets in the notebook, to be shown without a kernel; JupyterLab does so only with a setting. */
export function keepInNotebook(model) {
  const manager = model.widget_manager, notebook = manager?.context?.model;
  if (!notebook?.setMetadata || !manager.get_state_sync) return;
  notebook.setMetadata("widgets", { "application/vnd.jupyter.widget-state+json": manager.get_state_sync({ drop_defaults: true }) });
}

export const isDark = () => document.body.dataset.jpThemeLight === "false";

/** Call a function at every change of the theme; returns a function that ends this. */
export function onTheme(callback) {
  const observer = new MutationObserver(callback);
  observer.observe(document.body, { attributeFilter: ["data-jp-theme-light"] });
  return () => observer.disconnect();
}
