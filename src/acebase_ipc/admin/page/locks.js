// The locks of a database as a picture: who holds one, who waits for whom.

import { h, svg } from "./dom.js";
import { duration, plain, plural } from "./format.js";

const MOST_HOLDERS = 8;
const MOST_WAITING = 16; // boxes; the tables below the picture list all
const LINES = 3;
const LINE = 17; // pixels
const BOX = LINES * LINE + 13;
const GAP = 12;
const STEP = BOX + GAP;
const NARROW = 480; // pixels of a picture in which two boxes side by side have no room
const CHARACTER = 7.3; // pixels of one character of the picture's font, a monospace one
const LOCK = "lock-request";

/** Returns the transactions that hold locks, the oldest first, each with its first lock. */
export function holders(locks) {
  const found = new Map();
  for (const lock of locks) {
    const key = JSON.stringify([lock.holder, lock.tid]);
    const known = found.get(key);
    if (known === undefined) found.set(key, { ...lock, locks: 1 });
    else {
      known.locks += 1;
      known.write ||= lock.write;
      known.age = Math.max(known.age, lock.age);
    }
  }
  return [...found.values()].sort((a, b) => b.age - a.age);
}

/** Returns the requests for a lock. */
export function waiting(requests) {
  return requests.filter((each) => each.kind === LOCK);
}

/**
 * Returns the holders that a request waits for. Whatever their paths, a lock to write excludes
 * all other transactions, and one to read those that write.
 */
export function blockers(request, held) {
  return held.filter((each) => each.tid !== request.tid && (each.write || request.write));
}

/** Returns whether a request waits for another one that is before it, as a text in a list. */
function queued(request, held) {
  return held.length > 0 && blockers(request, held).length === 0 ? ["after a waiting one"] : [];
}

/** Returns a sentence that says what the picture shows. */
export function describe(held, asking) {
  if (held.length === 0 && asking.length === 0) return "No lock is held and nobody waits for one.";
  const first = held[0];
  const holding = first
    ? `${plain(first.holder)} holds a ${access(first)} lock at ${path(first)} for ${duration(first.age)}` +
      (held.length > 1 ? `, ${plural(held.length - 1, "more transaction")} hold locks.` : ".")
    : "No worker holds a lock.";
  const names = asking.slice(0, 5).map((each) => plain(each.worker));
  const others = asking.length > 5 ? ` and ${asking.length - 5} more` : "";
  return asking.length > 0 ? `${holding} Waiting: ${names.join(", ")}${others}.` : holding;
}

function access(each) {
  return each.write ? "write" : "read";
}

function path(each) {
  return each.path === "" ? "the root" : `“${plain(each.path)}”`;
}

/** Returns the picture for a width in pixels. */
export function draw(locks, requests, width) {
  const held = holders(locks);
  const asking = waiting(requests);
  const left = held.slice(0, MOST_HOLDERS).map((each) => ({
    name: each.holder,
    path: each.path,
    comment: each.comment,
    facts: `${access(each)} · ${duration(each.age)}${each.locks > 1 ? ` · ${each.locks} locks` : ""}`,
    kind: "holder",
  }));
  if (held.length > left.length) left.push(more(held.length - left.length, "holder"));
  const right = asking.slice(0, MOST_WAITING).map((each) => ({
    name: each.worker,
    path: each.path,
    comment: each.comment,
    facts: [access(each), duration(each.age), ...queued(each, held)].join(" · "),
    kind: "waiter",
  }));
  if (asking.length > right.length) right.push(more(asking.length - right.length, "waiter"));
  if (left.length === 0 && right.length > 0) {
    left.push({
      name: "The master",
      path: null,
      comment: "has not answered yet",
      facts: "it may hold a lock itself",
      kind: "unknown",
    });
  }
  const layout = width < NARROW ? below(left, right, width) : beside(left, right, width);
  const edges = [];
  asking.slice(0, MOST_WAITING).forEach((request, to) => {
    const blocked = blockers(request, held);
    left.forEach((each, from) => {
      if (each.kind === "unknown" || blocked.includes(held[from])) edges.push([from, to]);
    });
  });
  return svg(
    "svg",
    {
      class: "locks",
      width: layout.width,
      height: layout.height,
      role: "img",
      "aria-label": describe(held, asking),
    },
    svg(
      "defs",
      {},
      svg(
        "marker",
        { id: "tip", viewBox: "0 0 8 8", refX: 1, refY: 4, markerWidth: 7, markerHeight: 7 },
        svg("path", { class: "tip", d: "M0 0 8 4 0 8Z" }),
      ),
    ),
    ...edges.map(([from, to]) =>
      svg("path", { class: "edge", d: layout.edge(from, to), "marker-end": "url(#tip)" }),
    ),
    ...left.map((each, i) => drawBox(each, ...layout.holder(i), layout.box)),
    ...right.map((each, i) => drawBox(each, ...layout.waiter(i), layout.box)),
  );
}

/** Returns where boxes and edges are: those who wait to the right of those who hold. */
function beside(left, right, width) {
  const between = Math.min(width * 0.2, 160);
  const box = Math.min((width - between - 4) / 2, 340);
  const height = Math.max(left.length, right.length) * STEP - GAP + 4;
  const top = (height - left.length * STEP + GAP) / 2;
  const start = 2 + box;
  const end = start + between;
  return {
    box,
    width: end + box + 2,
    height,
    holder: (i) => [2, top + i * STEP],
    waiter: (i) => [end, 2 + i * STEP],
    edge(from, to) {
      const a = top + from * STEP + BOX / 2;
      const b = 2 + to * STEP + BOX / 2;
      const bend = between / 2;
      return `M${start} ${a}C${start + bend} ${a} ${end - bend} ${b} ${end - 7} ${b}`;
    },
  };
}

/** Returns the same for a narrow picture: those who wait below those who hold. */
function below(left, right, width) {
  const margin = 36;
  const y = (i) => 2 + i * STEP;
  return {
    box: width - margin - 2,
    width,
    height: y(left.length + right.length) - GAP + 2,
    holder: (i) => [margin, y(i)],
    waiter: (i) => [margin, y(left.length + i)],
    edge(from, to) {
      const x = margin - 14 - (from * 20) / MOST_HOLDERS;
      return `M${margin} ${y(from) + BOX / 2}H${x}V${y(left.length + to) + BOX / 2}H${margin - 7}`;
    },
  };
}

function more(number, kind) {
  return { name: `and ${number} more`, path: null, comment: "", facts: "", kind: `${kind} more` };
}

function drawBox({ name, path, comment, facts, kind }, x, y, width) {
  const most = Math.floor((width - 24) / CHARACTER);
  const fit = (text) => {
    const whole = plain(text);
    return whole.length > most ? `${whole.slice(0, most - 1)}…` : whole;
  };
  const place = [path === null ? "" : path || "(root)", comment].filter(Boolean).join(" · ");
  const texts = [fit(name), fit(place), fit(facts)];
  return svg(
    "g",
    { class: `box ${kind}`, transform: `translate(${x} ${y})` },
    svg("title", {}, [name, place, facts].filter(Boolean).map((each) => plain(each)).join("\n")),
    svg("rect", { width, height: BOX, rx: 6 }),
    ...texts.map((text, i) =>
      svg("text", { x: 12, y: LINE * (i + 1) + 3, class: `text-${i}`, direction: "ltr" }, text),
    ),
  );
}

/** The picture in a box of constant height, redrawn when its width changes. */
export class LockPicture {
  #locks = [];
  #requests = [];
  #width = 0;

  constructor() {
    this.caption = h("p", { class: "caption" });
    this.box = h("div", {
      class: "picture",
      role: "region",
      tabindex: 0,
      "aria-label": "Who waits for whom",
    });
    this.element = h("div", {}, this.caption, this.box);
    new ResizeObserver(() => {
      if (this.box.clientWidth !== this.#width) this.#draw();
    }).observe(this.box);
  }

  update(locks, requests) {
    this.#locks = locks;
    this.#requests = requests;
    this.#draw();
  }

  #draw() {
    this.#width = this.box.clientWidth;
    const padding = 24;
    const isEmpty = this.#locks.length === 0 && waiting(this.#requests).length === 0;
    this.caption.textContent = describe(holders(this.#locks), waiting(this.#requests));
    if (isEmpty || this.#width <= padding) {
      this.box.replaceChildren(h("p", { class: "empty" }, isEmpty ? "No locks" : ""));
      return;
    }
    this.box.replaceChildren(draw(this.#locks, this.#requests, this.#width - padding));
  }
}
