// panel.js: a page with a stand-in for the widget's model, driven by the tests.

import { render } from "/static/live.js";

// The views, whose drawings come as bytes.
const VIEWS = ["members", "topology", "routes", "latency", "calls", "runs"];

const encoded = (name, value) =>
  VIEWS.includes(name) ? new TextEncoder().encode(JSON.stringify(value)) : value;

// What of anywidget's model the panel uses.
class Model {
  constructor(traits) {
    const values = Object.entries(traits).map(([name, value]) => [name, encoded(name, value)]);
    this.traits = Object.fromEntries(values);
    this.sent = [];
    this.listeners = new Map();
  }

  get(name) {
    return this.traits[name];
  }

  set(name, value) {
    this.traits[name] = encoded(name, value);
    for (const listener of this.listeners.get(`change:${name}`) ?? []) listener();
  }

  on(event, listener) {
    if (!this.listeners.has(event)) this.listeners.set(event, new Set());
    this.listeners.get(event).add(listener);
  }

  off(event, listener) {
    this.listeners.get(event)?.delete(listener);
  }

  fire(event) {
    for (const listener of this.listeners.get(event) ?? []) listener();
  }

  send(message) {
    this.sent.push(message);
  }

  get listening() {
    return [...this.listeners.values()].reduce((sum, set) => sum + set.size, 0);
  }
}

const frames = (number) =>
  new Promise((resolve) => {
    const wait = () => (number-- > 0 ? requestAnimationFrame(wait) : resolve());
    wait();
  });

window.panel = {
  model: null,
  ends: [],

  async theme(folder) {
    const link = document.querySelector("#theme");
    const href = `/themes/${folder}/index.css`;
    if (link.getAttribute("href") === href) return; // it would not be loaded again
    await new Promise((resolve) => {
      link.addEventListener("load", resolve, { once: true });
      link.href = href;
    });
    // As JupyterLab says which theme it has.
    document.body.dataset.jpThemeLight = String(!folder.includes("dark"));
  },

  // Show a panel of `traits`; a second call with null shows the same model again.
  async show(traits, width) {
    if (traits !== null) this.model = new Model(traits);
    const el = document.createElement("div");
    if (width) el.style.width = `${width}px`;
    document.querySelector("#panel-holder").append(el);
    this.ends.push(render({ model: this.model, el }));
    await frames(3);
  },

  async set(changes) {
    for (const [name, value] of Object.entries(changes)) this.model.set(name, value);
    await frames(2);
  },

  async end() {
    this.ends.pop()();
    await frames(1);
  },

  // As it was when the page was opened.
  async clear() {
    while (this.ends.length) this.ends.pop()();
    document.querySelector("#panel-holder").replaceChildren();
    document.querySelector("#still-holder").replaceChildren();
    await this.theme("theme-light-extension");
  },

  // Draw `pictures` of one trait one after the other, layout included.
  async draw(name, pictures) {
    for (const picture of pictures) {
      this.model.set(name, picture);
      await frames(2);
      document.body.getBoundingClientRect();
    }
  },

  frames,
};
