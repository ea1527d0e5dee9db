// Builds elements. Texts are only ever set as text, never parsed as HTML.

const SVG = "http://www.w3.org/2000/svg";

/**
 * Returns a new element.
 * @param {string} tag
 * @param {object} attributes `on…` are listeners; true and false set and omit an attribute.
 * @param {...(Node|string|null)} children strings become text nodes, null is left out.
 */
export function h(tag, attributes = {}, ...children) {
  return fill(document.createElement(tag), attributes, children);
}

/** Like h(), for SVG. */
export function svg(tag, attributes = {}, ...children) {
  return fill(document.createElementNS(SVG, tag), attributes, children);
}

function fill(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (value === true) element.setAttribute(name, "");
    else if (value !== false && value != null) element.setAttribute(name, value);
  }
  element.append(...children.filter((each) => each != null));
  return element;
}

/** Sets the text of an element, unless it has it already: a selection in it is kept. */
export function setText(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

/** Sets an attribute, or removes it where the value is null. */
export function setAttribute(element, name, value) {
  if (value == null) element.removeAttribute(name);
  else if (element.getAttribute(name) !== value) element.setAttribute(name, value);
}

/** Returns a list of terms with a method that updates it: `show([[term, text], …])`. */
export function facts(...names) {
  const values = names.map(() => h("dd", {}, "–"));
  const element = h(
    "dl",
    { class: "facts" },
    ...names.map((name, i) => h("div", {}, h("dt", {}, name), values[i])),
  );
  return {
    element,
    show(texts) {
      texts.forEach((text, i) => {
        setText(values[i], text);
        setAttribute(values[i], "title", text.length > 24 ? text : null);
      });
    },
  };
}
