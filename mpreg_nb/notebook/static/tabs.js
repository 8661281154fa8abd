// tabs.js: the tabs of a panel, as the ARIA Authoring Practices have them: one of
// them takes part in the order of Tab, the arrow keys move among all.

import { make, ownId, put } from "./dom.js";

export function makeTabs(names, { label, choose }) {
  const list = make("div", { class: "mpreg-tabs", role: "tablist", "aria-label": label });
  const panels = make("div", { class: "mpreg-panels" });
  const tabs = new Map();

  for (const [key, word] of names) {
    const [tabId, panelId] = [ownId("tab"), ownId("panel")];
    const tab = make("button", {
      type: "button",
      role: "tab",
      id: tabId,
      "aria-controls": panelId,
      text: word,
      onclick: () => choose(key),
      onkeydown: (event) => move(event, key),
    });
    const panel = make("div", {
      role: "tabpanel",
      id: panelId,
      "aria-labelledby": tabId,
      class: `mpreg-view mpreg-view-${key}`,
      hidden: true,
    });
    tabs.set(key, { tab, panel });
    list.append(tab);
    panels.append(panel);
  }
  if (names.length < 2) {
    list.hidden = true;
    for (const { panel } of tabs.values()) {
      put(panel, "role", "group");
      put(panel, "aria-labelledby", null);
      put(panel, "aria-label", names[0][1]);
    }
  }

  function move(event, key) {
    const keys = [...tabs.keys()];
    const here = keys.indexOf(key);
    const places = {
      ArrowRight: (here + 1) % keys.length,
      ArrowLeft: (here + keys.length - 1) % keys.length,
      Home: 0,
      End: keys.length - 1,
    };
    if (!(event.key in places)) return;
    event.preventDefault();
    const next = keys[places[event.key]];
    choose(next);
    tabs.get(next).tab.focus();
  }

  function show(key) {
    for (const [name, { tab, panel }] of tabs) {
      const chosen = name === key;
      put(tab, "aria-selected", chosen ? "true" : "false");
      put(tab, "tabindex", chosen ? "0" : "-1");
      panel.hidden = !chosen;
    }
  }

  return { list, panels, show, panel: (key) => tabs.get(key).panel };
}
