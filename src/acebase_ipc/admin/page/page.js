// The status page: which view is shown, the state of the connection, and the shortcuts.

import { database } from "./database.js";
import { databases } from "./databases.js";
import { askToken, hasShortcuts, showShortcuts } from "./dialogs.js";
import { setText } from "./dom.js";
import { events } from "./events.js";
import { clock, plain } from "./format.js";
import { Connection } from "./live.js";
import { Model } from "./model.js";
import { overview } from "./overview.js";

const TOAST = 6000; // ms

const main = document.getElementById("main");
const connectionState = document.getElementById("connection");
const banner = document.getElementById("banner");
const bannerText = document.getElementById("banner-text");
const toast = document.getElementById("toast");

let view = null;
let scheduled = false;
const model = new Model(schedule);

function schedule() {
  if (scheduled) return;
  scheduled = true;
  requestAnimationFrame(() => {
    scheduled = false;
    view?.update(model);
  });
}

let toastTimer;
function notify(text) {
  setText(toast, text);
  clearTimeout(toastTimer);
  toastTimer = setTimeout(() => setText(toast, ""), TOAST);
}

/** Returns the view of a hash such as #/databases/shop/locks. */
function route(hash) {
  const [path, query] = hash.replace(/^#\/?/, "").split("?");
  const [name, ...rest] = path.split("/");
  if (name === "events") return ["events", events(new URLSearchParams(query))];
  if (name === "databases" && rest.length > 0) {
    const [encoded, part = "peers"] = rest;
    const known = ["peers", "locks", "requests", "large"].includes(part) ? part : "peers";
    try {
      return ["databases", database(decodeURIComponent(encoded), known, notify)];
    } catch (error) {
      if (!(error instanceof URIError)) throw error;
    }
  }
  return name === "databases" ? [name, databases()] : ["overview", overview()];
}

function show(isFirst) {
  view?.close?.();
  const [name, next] = route(location.hash);
  view = next;
  main.replaceChildren(view.element);
  document.title = `${view.title} · acebase-ipc`;
  for (const link of document.querySelectorAll("nav a[data-view]")) {
    if (link.dataset.view === name) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  if (!isFirst) {
    window.scrollTo(0, 0);
    main.querySelector("h1").focus({ preventScroll: true });
  }
  view.update(model);
}

const STATES = { live: "Live", lost: "Connection lost", token: "Token needed" };
let lastHeard = null;

function showState(state, why) {
  if (connectionState.dataset.state === "live" && state !== "live") lastHeard = new Date();
  connectionState.dataset.state = state;
  setText(connectionState, STATES[state]);
  const since = lastHeard ? `The figures are those of ${clock(lastHeard)}. ` : "";
  setText(bannerText, `${since}${plain(why)} Trying again …`);
  banner.hidden = state !== "lost";
  document.body.classList.toggle("stale", state !== "live");
}

const SHORTCUTS = {
  1: ["Overview", () => (location.hash = "#/")],
  2: ["Databases", () => (location.hash = "#/databases")],
  3: ["Events", () => (location.hash = "#/events")],
  "/": ["Filter", () => main.querySelector(".filter")?.focus()],
  p: ["Pause and continue the events", () => view.toggle?.()],
  r: ["Try now to connect again", () => connection.retry()],
  "?": ["This list", help],
};

function help() {
  const keys = Object.entries(SHORTCUTS).map(([key, [what]]) => [key, what]);
  showShortcuts([...keys, ["Esc", "Close, or clear the filter"]]);
}

document.addEventListener("keydown", (event) => {
  const isTyping = event.target.closest("input, select, textarea, dialog");
  if (isTyping || event.ctrlKey || event.metaKey || event.altKey || !hasShortcuts()) return;
  const shortcut = SHORTCUTS[event.key];
  if (shortcut === undefined) return;
  event.preventDefault();
  shortcut[1]();
});
document.getElementById("help").addEventListener("click", help);
document.getElementById("retry").addEventListener("click", () => connection.retry());
document.getElementById("skip").addEventListener("click", (event) => {
  event.preventDefault(); // the hash is that of the view
  main.focus();
});
window.addEventListener("hashchange", () => show(false));
window.addEventListener("online", () => connection.retry());

const connection = new Connection(model, showState, askToken);
show(true);
connection.run();
