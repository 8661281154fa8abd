// dom.js: elements, made and changed by text and attribute, never by markup.
// Whatever a user can name (nodes, functions, steps) passes through here as text.

const SVG_SPACE = "http://www.w3.org/2000/svg";

// Make an HTML element. `attributes`: `text` is its text, `on…` a listener.
export function make(tag, attributes = {}, ...children) {
  return dress(document.createElement(tag), attributes, children);
}

// Make an SVG element, in the same way.
export function draw(tag, attributes = {}, ...children) {
  return dress(document.createElementNS(SVG_SPACE, tag), attributes, children);
}

function dress(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (name === "text") element.textContent = value;
    else if (typeof value === "function") element.addEventListener(name.slice(2), value);
    else put(element, name, value);
  }
  element.append(...children);
  return element;
}

// Set an attribute if it differs; null and false take it away, true leaves it empty.
export function put(element, name, value) {
  if (value === null || value === undefined || value === false) {
    if (element.hasAttribute(name)) element.removeAttribute(name);
    return;
  }
  const text = value === true ? "" : String(value);
  if (element.getAttribute(name) !== text) element.setAttribute(name, text);
}

// Set the text of an element if it differs, so that nothing is laid out in vain.
export function write(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

// Children of `parent` that follow a list of values, each known by its key.
//
// `create(key)` makes a part: an object with `element` and `update(value)`. Parts live
// as long as their key is in the list, so that focus, hover and scroll survive.
export function keyedList(parent, create) {
  const parts = new Map();

  function update(items, keyOf, { hold = false } = {}) {
    const keys = new Set();
    let elements = [];
    for (const item of items) {
      const key = keyOf(item);
      if (keys.has(key)) continue;
      keys.add(key);
      if (!parts.has(key)) parts.set(key, create(key));
      const part = parts.get(key);
      part.update(item);
      elements.push(part.element);
    }
    for (const [key, part] of parts) {
      if (keys.has(key)) continue;
      part.element.remove();
      part.end?.();
      parts.delete(key);
    }
    if (hold) {
      const there = new Set(elements);
      const standing = [...parent.children].filter((child) => there.has(child));
      const known = new Set(standing);
      elements = [...standing, ...elements.filter((element) => !known.has(element))];
    }
    order(parent, elements);
  }

  return { update, parts };
}

// Bring children into order without moving the one that has the focus: an element
// that is taken out and put back loses it.
function order(parent, elements) {
  const focused = parent.ownerDocument.activeElement;
  const fixed = elements.findIndex(
    (element) => element.parentNode === parent && element.contains(focused),
  );
  if (fixed < 0) {
    placeBefore(parent, elements, parent.firstChild, null);
    return;
  }
  const pivot = elements[fixed];
  placeBefore(parent, elements.slice(0, fixed), parent.firstChild, pivot);
  while (pivot.previousSibling !== (elements[fixed - 1] ?? null)) {
    parent.append(pivot.previousSibling);
  }
  placeBefore(parent, elements.slice(fixed + 1), pivot.nextSibling, null);
}

function placeBefore(parent, elements, first, end) {
  let next = first;
  for (const element of elements) {
    if (element === next) {
      next = next.nextSibling;
      continue;
    }
    parent.insertBefore(element, next ?? end);
  }
}

let lastNumber = 0;

// An id that no other element of the page has, for ARIA and SVG references.
export function ownId(word) {
  lastNumber += 1;
  return `mpreg-${word}-${lastNumber}-${Math.random().toString(36).slice(2, 8)}`;
}

const textRuler = { context: null, widths: new Map() };

// Width of `text` in pixels, in a CSS font such as "600 13px sans-serif".
export function textWidth(text, font) {
  const key = `${font}|${text}`;
  if (!textRuler.widths.has(key)) {
    textRuler.context ??= document.createElement("canvas").getContext("2d");
    if (textRuler.widths.size > 5000) textRuler.widths.clear();
    textRuler.context.font = font;
    textRuler.widths.set(key, textRuler.context.measureText(text).width);
  }
  return textRuler.widths.get(key);
}

// `text`, cut with an ellipsis so that it is at most `width` pixels wide.
export function fitted(text, width, font) {
  if (textWidth(text, font) <= width) return text;
  const letters = [...text];
  let [low, high] = [0, letters.length];
  while (low < high) {
    const middle = (low + high + 1) >> 1;
    const cut = letters.slice(0, middle).join("") + "…";
    if (textWidth(cut, font) <= width) low = middle;
    else high = middle - 1;
  }
  return letters.slice(0, low).join("") + "…";
}
