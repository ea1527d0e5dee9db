// The list of databases.

import { h, setAttribute, setText } from "./dom.js";
import { bytes, count, plain } from "./format.js";
import { get } from "./live.js";
import { filterField, Table } from "./table.js";

const INTERVAL = 5000; // ms between two reads of the whole list

/** Returns the hash of a database's view. */
export function databaseLink(name, part = "") {
  return `#/databases/${encodeURIComponent(name)}${part && `/${part}`}`;
}

/** Returns the view: {element, title, update(model), close()}. */
export function databases() {
  let rates = new Map();
  const perSecond = (row, name) => rates.get(row.name)?.[name] ?? null;
  const number = (id, title, value, width, text = (row) => count(value(row)), hint = null) => ({
    id,
    title,
    value,
    text,
    width,
    hint,
    number: true,
  });
  const table = new Table({
    label: "Databases",
    key: (row) => row.name,
    sort: "name",
    empty: "No database is open: none has a peer.",
    columns: [
      {
        id: "name",
        title: "Database",
        width: 16,
        value: (row) => row.name,
        build: (cell) => {
          const link = h("a", { class: "name" });
          cell.append(link);
          return (row) => {
            const name = plain(row.name);
            setText(link, name);
            setAttribute(link, "href", databaseLink(row.name));
            setAttribute(link, "title", name);
          };
        },
      },
      {
        id: "master",
        title: "Master",
        width: 6,
        value: (row) => Number(row.has_master),
        text: () => "",
        build: (cell) => (row) => {
          const isMissed = !row.has_master && row.awaiting_master + row.requests > 0;
          setText(cell, row.has_master ? "present" : "absent");
          setAttribute(cell, "class", isMissed ? "warn" : row.has_master ? null : "soft");
        },
      },
      number("peers", "Peers", (row) => row.peers, 5),
      number("connected", "Connected", (row) => row.connected, 6),
      number(
        "awaiting",
        "Queued",
        (row) => row.awaiting_master,
        5,
        undefined,
        "Messages that wait for a master",
      ),
      number("locks", "Locks", (row) => row.locks, 5),
      number("requests", "Requests", (row) => row.requests, 5.5, undefined, "Open requests"),
      number("memory", "Memory", (row) => row.memory, 6, (row) => bytes(row.memory)),
      number("in", "In/s", (row) => perSecond(row, "received"), 5, undefined, "Messages received"),
      number("out", "Out/s", (row) => perSecond(row, "sent"), 5, undefined, "Messages sent"),
      number(
        "bytes",
        "Bytes in/s",
        (row) => perSecond(row, "received_bytes"),
        6,
        (row) => bytes(perSecond(row, "received_bytes")),
      ),
    ],
  });
  const filter = filterField(table, "database", (row) => row.name);
  const element = h(
    "div",
    { class: "view" },
    h("div", { class: "head" }, h("h1", { tabindex: -1 }, "Databases"), filter.element),
    table.element,
  );

  // The stream has those with most peers only, where there are many.
  let whole = null;
  let reading = null;
  let last = null;
  const aborted = new AbortController();
  const read = async () => {
    try {
      whole = (await get("databases", aborted.signal)).databases;
      update(last);
    } catch {
      if (aborted.signal.aborted) return; // otherwise the banner says what is wrong
    }
    reading = setTimeout(read, INTERVAL);
  };

  function update(model) {
    last = model;
    rates = model.databaseRates;
    const isPart = model.databases.length < (model.status?.databases ?? 0);
    if (isPart && reading === null) {
      reading = 0;
      read();
    }
    table.setRows((isPart && whole) || model.databases);
    filter.show();
  }

  return {
    element,
    title: "Databases",
    update,
    close() {
      aborted.abort();
      clearTimeout(reading);
    },
  };
}
