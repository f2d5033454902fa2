// Elements of a page, without libraries.

export function html(tag, attributes = {}, ...children) {
  return fill(document.createElement(tag), attributes, children);
}

export function svg(tag, attributes = {}, ...children) {
  return fill(document.createElementNS("http://www.w3.org/2000/svg", tag), attributes, children);
}

export function fill(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  node.append(...children);
  return node;
}

/** Download a file by a link, which stays for another time. */
export function download(link, name, content) {
  URL.revokeObjectURL(link.href);
  fill(link, { href: URL.createObjectURL(new Blob([content])), download: name }, []);
  link.textContent = `download ${name}`;
  link.hidden = false;
  link.click();
}

/** Set a status only when it changes: screen readers speak at every write. */
export function say(node, text) {
  node.hidden = !text;
  if (node.textContent !== text) node.textContent = text;
}
