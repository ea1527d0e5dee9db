// The tables of one database.

import { confirmKick } from "./dialogs.js";
import { h, setAttribute, setText } from "./dom.js";
import { bytes, clock, count, day, duration, plain } from "./format.js";
import { Table } from "./table.js";

function text(id, title, width, value = (row) => row[id]) {
  return { id, title, width, value, text: (row) => plain(value(row)) };
}

function number(id, title, width, shown = count, value = (row) => row[id], hint = null) {
  return { id, title, width, value, hint, number: true, text: (row) => shown(value(row)) };
}

function name(id, title, width, mark = () => "") {
  return {
    id,
    title,
    width,
    value: (row) => row[id],
    build: (cell) => {
      const label = h("span", { class: "name" });
      const badge = h("span", { class: "badge" });
      cell.append(label, badge);
      return (row) => {
        setText(label, plain(row[id]));
        setAttribute(label, "title", plain(row[id]));
        setText(badge, mark(row));
        badge.hidden = mark(row) === "";
      };
    },
  };
}

const access = {
  id: "write",
  title: "Access",
  width: 5,
  value: (row) => Number(row.write),
  text: (row) => (row.write ? "write" : "read"),
};

const age = number("age", "For", 6, duration);

/** Returns the time of a day, or the day if that is another one than today. */
function since(time) {
  const date = new Date(time);
  const isToday = date.toDateString() === new Date().toDateString();
  return isToday ? clock(date) : day(date);
}

/** Returns the table of a database's peers. */
export function peers(database, notify) {
  return new Table({
    label: "Peers",
    key: (row) => row.id,
    sort: "-connected",
    empty: "This database has no peers.",
    columns: [
      name("id", "Peer", 13.5, (row) => (row.is_master ? "master" : "")),
      {
        id: "state",
        title: "State",
        width: 7,
        value: (row) => row.state,
        text: (row) => row.state,
        build: (cell) => {
          cell.append(h("span", { class: "dot", "aria-hidden": "true" }), h("span"));
          return (row) => {
            const state = row.is_full ? "full" : row.state;
            setText(cell.lastChild, state);
            setAttribute(cell, "data-state", state);
            setAttribute(cell, "title", row.is_full ? "Its connection accepts no more for now" : null);
          };
        },
      },
      text("dialect", "Dialect", 6.5),
      text("address", "Address", 9.5),
      number("connected", "Since", 5.5, since, undefined, "When its last connection was opened"),
      number("silent", "Silent", 4.75, duration, undefined, "Time since anything was received"),
      number("lag", "Lag", 4.25, duration, undefined, "Time its process takes to answer a ping"),
      number("queued", "Queue", 4, count, undefined, "Messages that wait for it"),
      number("memory", "Memory", 5, bytes),
      number("locks", "Locks", 3.75),
      number("requests", "Requests", 5, count, undefined, "Open requests"),
      number("in", "In", 4.5, count, (row) => row.traffic.received, "Messages received from it"),
      number("in_bytes", "In bytes", 5, bytes, (row) => row.traffic.received_bytes),
      number("out", "Out", 4.5, count, (row) => row.traffic.sent, "Messages sent to it"),
      number("out_bytes", "Out bytes", 5.25, bytes, (row) => row.traffic.sent_bytes),
      {
        id: "kick",
        title: "Disconnect",
        width: 4.5,
        build: (cell) => {
          let peer;
          const button = h(
            "button",
            { type: "button", class: "small", onclick: () => confirmKick(database, peer, notify) },
            "Kick",
          );
          cell.append(button);
          return (row) => {
            peer = row;
            setAttribute(button, "aria-label", `Kick ${plain(row.id)}`);
          };
        },
      },
    ],
  });
}

/** Returns the table of the locks that are held. */
export function locksHeld() {
  return new Table({
    label: "Locks held",
    key: (row) => `${row.id} ${row.holder}`,
    sort: "-age",
    empty: "No worker holds a lock.",
    columns: [
      name("holder", "Holder", 15),
      access,
      text("path", "Path", 14, (row) => row.path || "(root)"),
      text("comment", "Comment", 14),
      text("tid", "Transaction", 12),
      text("granted_by", "By", 5.5, (row) => row.granted_by + (row.is_kept ? ", kept" : "")),
      age,
    ],
  });
}

/** Returns the table of requests that the master has not answered. */
export function openRequests() {
  return new Table({
    label: "Open requests",
    key: (row) => `${row.id} ${row.worker}`,
    sort: "-age",
    empty: "The master has answered all requests.",
    columns: [
      name("worker", "Peer", 15),
      text("kind", "Request", 9),
      { ...access, text: (row) => (row.kind === "lock-request" ? access.text(row) : "") },
      text("path", "Path", 14),
      text("comment", "Comment", 14),
      age,
    ],
  });
}

/** Returns the table of large messages that wait to be downloaded. */
export function largeMessages() {
  return new Table({
    label: "Large messages",
    key: (row) => row.id,
    sort: "expires",
    empty: "No large message waits to be downloaded.",
    columns: [
      text("recipients", "Recipients", 24, (row) => row.recipients.join(", ")),
      number("size", "Size", 6, bytes),
      number("unfetched", "Not fetched", 7, count, undefined, "Recipients that have not downloaded it"),
      number("expires", "Dropped in", 7, duration),
    ],
  });
}
