// dom.js: elements of the panel's frame, made by text and attribute, never by markup.

export const SVG_SPACE = "http://www.w3.org/2000/svg";

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

// Bring children into order without moving the one that has the focus: an element
// that is taken out and put back loses it.
export function order(parent, elements) {
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

const naturalOrder = new Intl.Collator("en", { numeric: true, sensitivity: "base" });

// Order of names in which n2 comes before n10.
export function byName(left, right) {
  return naturalOrder.compare(left, right) || (left < right ? -1 : left > right ? 1 : 0);
}
