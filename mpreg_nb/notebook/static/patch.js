// patch.js: makes the elements that the kernel drew, and changes them in place.
//
// An element comes as [tag, attributes, ...children]; a child is an element or a text
// (view/markup.py). Whatever a user can name (nodes, functions, steps) is a text or the
// value of an attribute here, never markup. An element lives as long as its key, or its
// place among its siblings, so that focus, hover and scroll survive.

import { order, SVG_SPACE } from "./dom.js";

const PROPERTIES = new Set(["key", "tip", "sort", "ask", "ends", "title_text"]);

const sources = new WeakMap(); // node -> the element or text that it was made from

// A property, such as the tip, of an element that the kernel drew.
export function propertyOf(node, name) {
  return sources.get(node)?.[1]?.[name];
}

// The nearest element around `node`, within `place`, that has a tip; or null.
export function toldAt(node, place) {
  while (node !== null && node !== place && !propertyOf(node, "tip")) node = node.parentNode;
  return node === place ? null : node;
}

// The children that `changes` make of those `before`: view/markup.py has the changes.
export function changedBy(before, changes) {
  if (changes === null) return before;
  return changes.flatMap((change) => {
    if (typeof change === "string" || typeof change[0] === "string") return [change];
    const [place, second, inner] = change;
    if (change.length === 2) return before.slice(place, place + second);
    const [tag, attributes, ...children] = before[place];
    const now = { ...attributes, ...second };
    for (const [name, value] of Object.entries(now)) if (value === null) delete now[name];
    return [[tag, now, ...changedBy(children, inner)]];
  });
}

// Returns a function that makes the children of `place` those of a list.
//
// name: begins the ids in this panel, so that no other panel of the page has them.
// made: called with each new element. arrange: gives the order of a parent's children.
export function makePatcher({ place, name, made, arrange }) {
  const own = (attribute, value) =>
    attribute === "id" ? `${name}-${value}` : value.replace("url(#", `url(#${name}-`);

  function create(source, space) {
    if (typeof source === "string") {
      const text = document.createTextNode(source);
      sources.set(text, source);
      return text;
    }
    const [tag, attributes, ...children] = source;
    const inner = tag === "svg" ? SVG_SPACE : space;
    const node = inner ? document.createElementNS(inner, tag) : document.createElement(tag);
    dress(node, {}, attributes);
    sources.set(node, source);
    fill(node, children, inner);
    made(node);
    return node;
  }

  function dress(node, before, now) {
    for (const attribute of Object.keys(before)) {
      if (!(attribute in now) && !PROPERTIES.has(attribute)) node.removeAttribute(attribute);
    }
    for (const [attribute, value] of Object.entries(now)) {
      if (before[attribute] === value || PROPERTIES.has(attribute)) continue;
      node.setAttribute(attribute, own(attribute, value));
    }
  }

  function update(node, source, space) {
    const before = sources.get(node);
    if (before === source) return;
    sources.set(node, source);
    if (typeof source === "string") {
      node.data = source;
      return;
    }
    dress(node, before[1], source[1]);
    fill(node, source.slice(2), source[0] === "svg" ? SVG_SPACE : space);
  }

  function fill(parent, list, space) {
    const keyed = new Map();
    const loose = [];
    for (const node of parent.childNodes) {
      const source = sources.get(node);
      if (source === undefined) continue; // not drawn by the kernel
      const key = keyOf(source);
      if (key === undefined) loose.push(node);
      else keyed.set(key, node);
    }
    let next = 0;
    const nodes = list.map((source) => {
      const key = keyOf(source);
      const node = key === undefined ? loose[next++] : keyed.get(key);
      if (node === undefined || tagOf(sources.get(node)) !== tagOf(source)) {
        return create(source, space);
      }
      update(node, source, space);
      return node;
    });
    const kept = new Set(nodes);
    for (const node of [...loose, ...keyed.values()]) if (!kept.has(node)) node.remove();
    order(parent, arrange(parent, nodes));
  }

  return (list) => fill(place, list, null);
}

const keyOf = (source) => (typeof source === "string" ? undefined : source[1].key);
const tagOf = (source) => (typeof source === "string" ? "" : source[0]);
