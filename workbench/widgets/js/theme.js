// Whether the page around a view is dark.

/** JupyterLab says so; of other hosts, the colour of the text around the view tells. */
export function isDark(host = document.body) {
  const { jpThemeLight } = document.body.dataset;
  if (jpThemeLight) return jpThemeLight === "false";
  const context = new OffscreenCanvas(1, 1).getContext("2d"); // reads colours of any notation
  context.fillStyle = getComputedStyle(host).color;
  context.fillRect(0, 0, 1, 1);
  const [red, green, blue] = context.getImageData(0, 0, 1, 1).data;
  return 0.2126 * red + 0.7152 * green + 0.0722 * blue > 128;
}

/** Call a function when the page turns dark or light; returns a function that ends this. */
export function onTheme(callback, host = document.body) {
  let dark = isDark(host);
  const check = () => {
    if (isDark(host) === dark) return;
    dark = !dark;
    callback();
  };
  const observer = new MutationObserver(check), preference = matchMedia("(prefers-color-scheme: dark)");
  for (const node of [document.documentElement, document.body]) observer.observe(node, { attributes: true });
  preference.addEventListener("change", check);
  return () => {
    observer.disconnect();
    preference.removeEventListener("change", check);
  };
}
