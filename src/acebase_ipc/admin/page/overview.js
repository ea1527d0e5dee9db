// The overview: the relay's state, its course over the last minutes, and recent warnings.

import { facts, h, setText } from "./dom.js";
import { bytes, count, dateTime, duration, NONE, plain } from "./format.js";
import { Graph } from "./graph.js";
import { eventItem } from "./events.js";

const MOST_WARNINGS = 8;
const MEMORY = ["queues", "stored", "connections", "ledger"];
const STATES = { serving: "Serving", draining: "Draining", closing: "Closing" };

/** Returns the view: {element, title, update(model)}. */
export function overview() {
  const state = h("span", { class: "state" }, NONE);
  const about = facts("Version", "Host", "Up for", "Started", "Endpoints");
  const figures = facts("Databases", "Peers", "Connections", "Locks held", "Open requests");
  figures.element.classList.add("figures");
  const traffic = card("Traffic", ["in", "out"], {
    label: "Messages in and out per second in the last minutes",
    series: [
      { name: "in", value: (each) => each.received },
      { name: "out", value: (each) => each.sent },
    ],
    format: (value) => `${count(value)}/s`,
    least: 10,
  });
  const wait = card("Wait for a lock", ["mean since the start", "open requests"], {
    label: "Seconds that workers have waited for a lock in the last minutes",
    series: [{ name: "mean", value: (each) => each.wait }],
    format: duration,
    least: 0.01,
  });
  const lag = card("Event loop lag", ["now", "highest in a minute"], {
    label: "Lag of the relay's event loop in the last minutes",
    series: [{ name: "lag", value: (each) => each.lag }],
    format: duration,
    least: 0.01,
  });
  const memory = card("Memory", ["in use", "limit"], {
    label: "Bytes that the relay holds in the last minutes",
    series: [{ name: "used", value: (each) => each.memory }],
    format: bytes,
    least: 2 ** 20,
    base: 1024,
  });
  const parts = MEMORY.map((name) => h("span", { class: `part part-${name}` }));
  const partFacts = facts(...MEMORY.map((name) => name[0].toUpperCase() + name.slice(1)), "Process");
  const warnings = h("ol", { class: "events" });
  const calm = h("p", { class: "empty" }, "No warnings among the last 1,000 events.");
  const limits = h("dl", { class: "limits" });
  const element = h(
    "div",
    { class: "view overview" },
    h("div", { class: "head" }, h("h1", { tabindex: -1 }, "Overview"), state),
    about.element,
    figures.element,
    h("div", { class: "cards" }, traffic.element, wait.element, lag.element, memory.element),
    h(
      "section",
      { class: "parts" },
      h("h2", {}, "Memory in use"),
      h("div", { class: "meter", "aria-hidden": "true" }, ...parts),
      partFacts.element,
    ),
    h("section", {}, h("h2", {}, "Recent warnings"), calm, warnings),
    h("details", {}, h("summary", {}, "Limits"), limits),
  );

  let warned = "";
  const showWarnings = (events) => {
    const found = events.filter((each) => each.severity === "warn" || each.severity === "error");
    const newest = found.slice(-MOST_WARNINGS).reverse();
    const ids = newest.map((each) => each.id).join();
    calm.hidden = newest.length > 0;
    if (ids === warned) return;
    warned = ids;
    warnings.replaceChildren(...newest.map(eventItem));
  };

  return {
    element,
    title: "Overview",
    update({ status, rates, samples, events }) {
      showWarnings(events);
      if (status === null) return;
      const { connections, memory: held, loop_lag: lagging, lock_waits: waits } = status;
      setText(state, STATES[status.state] ?? plain(status.state));
      state.dataset.state = status.state;
      about.show([
        `${plain(status.version)} (Python ${plain(status.python)})`,
        `${plain(status.hostname)}, process ${status.pid}`,
        duration(Math.floor(status.uptime)),
        dateTime(new Date(status.started)),
        status.endpoints.map((each) => plain(each)).join("  "),
      ]);
      figures.show([
        count(status.databases),
        count(status.peers),
        `${count(connections.websockets + connections.http)} of ${count(connections.max)}`,
        count(status.locks),
        count(status.requests),
      ]);
      const perSecond = (name) =>
        rates ? `${count(rates[name])}/s, ${bytes(rates[`${name}_bytes`])}/s` : NONE;
      traffic.show(samples, [perSecond("received"), perSecond("sent")]);
      wait.show(samples, [
        waits.count > 0 ? duration(waits.sum / waits.count) : NONE,
        count(status.requests),
      ]);
      lag.show(samples, [duration(lagging.last), duration(lagging.max)]);
      memory.show(samples, [bytes(held.used), held.limit ? bytes(held.limit) : "none"], held.limit);
      const whole = held.limit || held.used || 1;
      MEMORY.forEach((name, i) => {
        parts[i].style.inlineSize = `${Math.min(100, (100 * held[name]) / whole).toFixed(2)}%`;
      });
      partFacts.show([...MEMORY.map((name) => bytes(held[name])), bytes(held.resident)]);
      if (limits.childElementCount === 0) {
        const pairs = Object.entries(status.limits);
        const shown = (value) => (typeof value === "number" ? count(value) : "default");
        limits.append(
          ...pairs.map(([name, value]) => h("div", {}, h("dt", {}, name), h("dd", {}, shown(value)))),
        );
      }
    },
  };
}

/** Returns a graph with its title and two figures. */
function card(title, names, options) {
  const graph = new Graph(options);
  const values = names.map(() => h("dd", {}, NONE));
  const element = h(
    "section",
    { class: "card" },
    h("h2", {}, title),
    h(
      "dl",
      { class: options.series.length > 1 ? "now keyed" : "now" },
      ...names.map((name, i) => h("div", {}, h("dt", {}, name), values[i])),
    ),
    graph.element,
  );
  return {
    element,
    show(samples, texts, limit = null) {
      texts.forEach((text, i) => setText(values[i], text));
      graph.update(samples, limit);
    },
  };
}
