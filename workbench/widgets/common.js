// What the front ends of all widgets share. Python puts this text before that of the widget: both are one module, so nothing is
// exported or imported here. No libraries, nothing from the network.

function html(tag, attributes = {}, ...children) {
  return fill(document.createElement(tag), attributes, children);
}

function svg(tag, attributes = {}, ...children) {
  return fill(document.createElementNS("http://www.w3.org/2000/svg", tag), attributes, children);
}

function fill(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  node.append(...children);
  return node;
}

/** Screen readers speak a status whenever it is touched, so touch it only when it changes. */
function say(node, text) {
  node.hidden = !text;
  if (node.textContent !== text) node.textContent = text;
}

/** Send a message to Python; false if the kernel is known to be gone. */
function send(model, message, buffers = []) {
  try {
    model.send(message, undefined, buffers);
    return true;
  } catch {
    return false;
  }
}

const clamp = (value, low, high) => Math.min(Math.max(value, low), high);

/** A number as people write it: 1,500 · 0.41 · 2e−4. Numbers of one axis share the size that decides the form. */
function format(value, size = Math.abs(value)) {
  const text = value && (size < 1e-3 || size >= 1e7) ? Number(value.toPrecision(3)).toExponential().replace("e+", "e")
    : size >= 1000 ? Math.round(value).toLocaleString("en") : String(Number(value.toPrecision(3)));
  return text.replaceAll("-", "−");
}

/** Index of the value in the ascending list that is nearest to x. */
function nearest(ascending, x) {
  let low = 0, high = ascending.length - 1;
  while (high - low > 1) {
    const middle = (low + high) >> 1;
    if (ascending[middle] < x) low = middle; else high = middle;
  }
  return x - ascending[low] <= ascending[high] - x ? low : high;
}

/**
 * Leave the state of all widgets in the notebook. JupyterLab looks for it there when no kernel runs any more, but puts it there
 * only if asked to by a setting.
 */
function keepInNotebook(model) {
  const manager = model.widget_manager, notebook = manager?.context?.model;
  if (!notebook?.setMetadata || !manager.get_state_sync) return;
  notebook.setMetadata("widgets", { "application/vnd.jupyter.widget-state+json": manager.get_state_sync({ drop_defaults: true }) });
}
