// One database: its peers, locks, open requests and large messages.

import { databaseLink } from "./databases.js";
import { facts, h, setAttribute, setText } from "./dom.js";
import { bytes, count, plain, plural } from "./format.js";
import { get, Refused } from "./live.js";
import { LockPicture, waiting } from "./locks.js";
import { largeMessages, locksHeld, openRequests, peers } from "./tables.js";
import { filterField } from "./table.js";

const INTERVAL = 2000; // ms between two reads
const PER_PEER = 2; // ms more for each peer, so that a big database costs the relay no more

const PARTS = {
  peers: "Peers",
  locks: "Locks",
  requests: "Requests",
  large: "Large messages",
};

/**
 * Returns the view: {element, title, update(model), close()}.
 * @param {string} name the database.
 * @param {string} part one of peers, locks, requests, large.
 * @param {function} notify shows a sentence.
 */
export function database(name, part, notify) {
  const shownName = plain(name);
  const summary = facts("Connected", "Master", "Queued for it", "Memory", "In", "Out");
  const missing = h("p", { class: "notice", hidden: true });
  const tabs = Object.entries(PARTS).map(([id, title]) => {
    const number = h("span", { class: "number" });
    const link = h("a", { href: databaseLink(name, id === "peers" ? "" : id) }, title, " ", number);
    if (id === part) link.setAttribute("aria-current", "page");
    return { link, number };
  });
  const content = PART_VIEWS[part](name, notify);
  const element = h(
    "div",
    { class: "view" },
    h(
      "div",
      { class: "head" },
      h("h1", { tabindex: -1 }, h("a", { href: "#/databases" }, "Databases"), " / ",
        h("span", { class: "name", title: shownName }, shownName)),
      h("a", { class: "more", href: `#/events?database=${encodeURIComponent(name)}` }, "Its events"),
    ),
    summary.element,
    missing,
    h("nav", { class: "tabs", "aria-label": "Parts of the database" },
      ...tabs.map((each) => each.link)),
    content.element,
  );

  const show = (status) => {
    const { summary: figures } = status;
    summary.show([
      `${count(figures.connected)} of ${count(figures.peers)}`,
      figures.has_master ? "present" : "absent",
      count(figures.awaiting_master),
      bytes(figures.memory),
      `${plural(figures.traffic.received, "message")}, ${bytes(figures.traffic.received_bytes)}`,
      `${plural(figures.traffic.sent, "message")}, ${bytes(figures.traffic.sent_bytes)}`,
    ]);
    const asking = waiting(status.requests).length;
    const numbers = [status.peers, status.locks, status.requests, status.large_messages];
    tabs.forEach((each, i) => setText(each.number, count(numbers[i].length)));
    setAttribute(tabs[1].link, "class", status.locks.length > 0 && asking > 0 ? "warn" : null);
    content.update(status);
  };

  const aborted = new AbortController();
  let timer;
  const read = async () => {
    let pause = INTERVAL;
    try {
      const status = await get(`databases/${encodeURIComponent(name)}`, aborted.signal);
      pause += PER_PEER * status.peers.length;
      missing.hidden = true;
      show(status);
    } catch (error) {
      if (aborted.signal.aborted) return;
      // Without a connection the banner says so.
      if (error instanceof Refused) {
        const isGone = error.status === 404;
        setText(missing, isGone ? "This database is not open: it has no peers." : error.message);
        missing.hidden = false;
        if (isGone) content.update(NOTHING);
      }
    }
    timer = setTimeout(read, pause);
  };
  read();
  return {
    element,
    title: shownName,
    update() {},
    close() {
      aborted.abort();
      clearTimeout(timer);
    },
  };
}

const NOTHING = { peers: [], locks: [], requests: [], large_messages: [] };

const PART_VIEWS = {
  peers(name, notify) {
    const table = peers(name, notify);
    const filter = filterField(table, "peer", (row) => `${row.id} ${row.address} ${row.state} ${row.dialect}`);
    return {
      element: h("div", {}, filter.element, table.element),
      update(status) {
        table.setRows(status.peers);
        filter.show();
      },
    };
  },
  locks() {
    const picture = new LockPicture();
    const table = locksHeld();
    return {
      element: h("div", {}, picture.element, h("h2", {}, "Locks held"), table.element),
      update(status) {
        picture.update(status.locks, status.requests);
        table.setRows(status.locks);
      },
    };
  },
  requests() {
    const table = openRequests();
    return { element: table.element, update: (status) => table.setRows(status.requests) };
  },
  large() {
    const table = largeMessages();
    return {
      element: table.element,
      update: (status) => table.setRows(status.large_messages.map((each, id) => ({ ...each, id }))),
    };
  },
};
