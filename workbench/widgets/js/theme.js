// The theme of JupyterLab.

export const isDark = () => document.body.dataset.jpThemeLight === "false";

/** Call a function at every change of the theme; returns a function that ends this. */
export function onTheme(callback) {
  const observer = new MutationObserver(callback);
  observer.observe(document.body, { attributeFilter: ["data-jp-theme-light"] });
  return () => observer.disconnect();
}
