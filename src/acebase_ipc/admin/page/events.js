// The events, the newest first.

import { databaseLink } from "./databases.js";
import { h, setText } from "./dom.js";
import { clock, count, dateTime, plain } from "./format.js";

const FIRST = 100; // events that are shown before somebody asks for more
const SEVERITIES = { debug: "Debug", info: "Info", warn: "Warning", error: "Error" };

/** Returns an event as an item of a list. */
export function eventItem(event) {
  const time = new Date(event.time);
  return h(
    "li",
    { class: "event", "data-severity": event.severity },
    h("time", { datetime: event.time, title: dateTime(time) }, clock(time)),
    h("span", { class: "severity" }, SEVERITIES[event.severity] ?? plain(event.severity)),
    event.database == null
      ? h("span", { class: "kind" }, plain(event.kind))
      : h(
        "a",
        {
          class: "kind",
          href: databaseLink(event.database),
          title: `Show ${plain(event.database)}`,
        },
        plain(event.kind),
      ),
    h("span", { class: "text name" }, plain(event.text, 2000)),
  );
}

/**
 * Returns the view: {element, title, update(model), toggle()}.
 * @param {URLSearchParams} query has `kind`, `database` and `severity` to filter by.
 */
export function events(query) {
  let model = null;
  let most = FIRST;
  let paused = null; // the events that are shown meanwhile
  const list = h("ol", { class: "events" });
  const items = new Map();
  const empty = h("p", { class: "empty" }, "No events.");
  const left = h("span", { class: "left", role: "status" });
  const filters = Object.fromEntries(
    ["kind", "database", "severity"].map((name) => [name, selection(name, query.get(name))]),
  );
  for (const each of Object.values(filters)) each.field.addEventListener("change", changed);
  const pause = h(
    "button",
    { type: "button", "aria-pressed": "false", "aria-keyshortcuts": "p", onclick: toggle },
    "Pause",
  );
  const older = h("button", { type: "button", class: "older", onclick: showOlder }, "Show more");
  const box = h(
    "div",
    { class: "events-box", role: "region", tabindex: 0, "aria-label": "Events, scrollable" },
    list,
    empty,
    older,
  );

  function changed() {
    const chosen = new URLSearchParams();
    for (const [name, { field }] of Object.entries(filters)) {
      if (field.value) chosen.set(name, field.value);
    }
    const tail = chosen.size > 0 ? `?${chosen}` : "";
    history.replaceState(null, "", `#/events${tail}`);
    most = FIRST;
    draw();
  }

  function toggle() {
    paused = paused ? null : [...model.events];
    pause.setAttribute("aria-pressed", String(paused !== null));
    draw();
  }

  function showOlder() {
    most += FIRST;
    draw();
    if (older.hidden) box.focus();
  }

  function draw() {
    if (model === null) return;
    const known = paused ?? model.events;
    const values = Object.entries(filters).filter(([, { field }]) => field.value);
    const matching = known.filter((each) =>
      values.every(([name, { field }]) => each[name] === field.value),
    );
    const wanted = matching.slice(-most).reverse();
    const keys = new Set(wanted.map((each) => `${each.time} ${each.id}`));
    for (const [key, item] of items) {
      if (keys.has(key)) continue;
      item.remove();
      items.delete(key);
    }
    let next = list.firstChild;
    for (const event of wanted) {
      const key = `${event.time} ${event.id}`;
      const item = items.get(key) ?? eventItem(event);
      items.set(key, item);
      if (item === next) next = item.nextSibling;
      else list.insertBefore(item, next);
    }
    empty.hidden = wanted.length > 0;
    older.hidden = matching.length <= most;
    const last = known.at(-1)?.id ?? 0;
    const held = model.events.filter((each) => each.id > last).length;
    const shown = `${count(matching.length)} of ${count(known.length)}`;
    setText(left, paused ? `Paused, ${count(held)} new` : shown);
    filters.kind.offer(model.events.map((each) => each.kind));
    filters.database.offer(model.events.map((each) => each.database));
    filters.severity.offer(Object.keys(SEVERITIES), SEVERITIES);
  }

  return {
    element: h(
      "div",
      { class: "view" },
      h(
        "div",
        { class: "head" },
        h("h1", { tabindex: -1 }, "Events"),
        h("div", { class: "tools" }, ...Object.values(filters).map((each) => each.label), pause, left),
      ),
      box,
    ),
    title: "Events",
    toggle,
    update(newest) {
      model = newest;
      draw();
    },
  };
}

/** Returns a field to select one of the values that occur. */
function selection(name, value) {
  const title = name[0].toUpperCase() + name.slice(1);
  const field = h("select", { class: "filter" }, h("option", { value: "" }, "All"));
  const known = new Set();
  const offer = (values, names = {}) => {
    const added = [...new Set(values)].filter((each) => each != null && !known.has(each));
    for (const each of added.sort()) {
      known.add(each);
      field.append(h("option", { value: each }, names[each] ?? plain(each, 60)));
    }
  };
  if (value) {
    offer([value], SEVERITIES);
    field.value = value;
  }
  return { field, offer, label: h("label", {}, `${title} `, field) };
}
