// A table that sorts, filters, and has only the rows in sight in the document.

import { h, setAttribute, setText } from "./dom.js";
import { count } from "./format.js";

const ROW = 32; // pixels; page.css sets the same
const SPARE = 10; // rows above and below what is in sight, so that Tab always finds the next one

/**
 * A column: {id, title, width (rem), value: (row) => to sort by, text: (row) => string}, and
 * optionally `number` (aligned right), `hint` (longer title) and
 * `build: (cell) => (row) => void` for cells that are more than a text.
 */
export class Table {
  #rows = [];
  #shown = [];
  #drawn = new Map(); // key -> {element, updates}
  #filter = null;
  #rank = new Map(); // key -> place, to keep the order while somebody points at a row
  #isHeld = false;
  #scheduled = 0;

  /**
   * @param {object} options
   * @param {string} options.label names the table.
   * @param {object[]} options.columns the first one names the row.
   * @param {function} options.key returns what identifies a row.
   * @param {string} options.sort the id of the first column to sort by; "-id" for descending.
   * @param {string} options.empty shown without rows.
   */
  constructor({ label, columns, key, sort, empty }) {
    this.columns = columns;
    this.key = key;
    this.empty = empty;
    this.isDescending = sort.startsWith("-");
    this.sorted = columns.find((each) => each.id === sort.replace("-", ""));
    this.headers = columns.map((each) => this.#header(each));
    this.before = h("tr", { class: "space", "aria-hidden": "true" }, h("td", {}));
    this.after = h("tr", { class: "space", "aria-hidden": "true" }, h("td", {}));
    this.message = h("p", { class: "empty" }, empty);
    this.body = h("tbody", {
      onpointerenter: () => (this.#isHeld = true),
      onpointerleave: () => (this.#isHeld = false),
    });
    this.table = h(
      "table",
      { "aria-label": label },
      h("colgroup", {}, ...columns.map(column)),
      h("thead", {}, h("tr", { "aria-rowindex": 1 }, ...this.headers)),
      this.body,
    );
    this.table.style.minWidth = `${columns.reduce((sum, each) => sum + each.width, 0)}rem`;
    this.box = h(
      "div",
      {
        class: "table-box",
        role: "region",
        tabindex: 0,
        "aria-label": `${label}, scrollable`,
        onscroll: () => this.#schedule(),
      },
      this.table,
      this.message,
    );
    this.element = this.box;
    new ResizeObserver(() => this.#schedule()).observe(this.box);
    this.#mark();
  }

  /** Shows rows; those with a known key keep their elements. */
  setRows(rows) {
    this.#rows = rows;
    this.#arrange();
  }

  /** Shows only rows for which a function returns true; null shows all. */
  setFilter(filter) {
    this.#filter = filter;
    this.#arrange();
  }

  /** The number of rows that the filter leaves. */
  get length() {
    return this.#shown.length;
  }

  #header(which) {
    const button = h(
      "button",
      { type: "button", title: which.hint ?? null, onclick: () => this.#sortBy(which) },
      which.title,
    );
    const header = which.value ? button : h("span", { class: "unseen" }, which.title);
    return h("th", { scope: "col", class: kind(which) }, header);
  }

  #sortBy(which) {
    this.isDescending = this.sorted === which ? !this.isDescending : Boolean(which.number);
    this.sorted = which;
    this.#rank.clear();
    this.#mark();
    this.#arrange();
  }

  #mark() {
    this.columns.forEach((each, i) => {
      const order = this.isDescending ? "descending" : "ascending";
      setAttribute(this.headers[i], "aria-sort", each === this.sorted ? order : null);
    });
  }

  #arrange() {
    const rows = this.#filter ? this.#rows.filter(this.#filter) : [...this.#rows];
    const isHeld = this.#isHeld || this.body.contains(document.activeElement);
    const { value } = this.sorted;
    const sign = this.isDescending ? -1 : 1;
    const places = isHeld ? this.#rank : new Map();
    const place = (row) => places.get(this.key(row)) ?? Infinity;
    const keyed = rows.map((row) => [place(row), value(row), row]);
    keyed.sort(([rank, a], [otherRank, b]) =>
      rank === otherRank ? sign * compare(a, b) : rank - otherRank,
    );
    this.#shown = keyed.map((each) => each[2]);
    this.#rank = new Map(this.#shown.map((row, i) => [this.key(row), i]));
    setAttribute(this.table, "aria-rowcount", String(this.#shown.length + 1));
    this.message.hidden = this.#shown.length > 0;
    setText(this.message, this.#rows.length > 0 ? "Nothing matches the filter." : this.empty);
    this.#draw();
  }

  #schedule() {
    this.#scheduled ||= requestAnimationFrame(() => {
      this.#scheduled = 0;
      this.#draw();
    });
  }

  #draw() {
    const { scrollTop, clientHeight } = this.box;
    const total = this.#shown.length;
    const inSight = Math.ceil((clientHeight || 640) / ROW);
    const wanted = Math.max(0, Math.floor(scrollTop / ROW) - SPARE);
    const first = Math.min(wanted, Math.max(0, total - inSight));
    const last = Math.min(total, first + inSight + 2 * SPARE);
    const drawn = new Map();
    const elements = [];
    for (let i = first; i < last; i += 1) {
      const row = this.#shown[i];
      const key = this.key(row);
      const line = this.#drawn.get(key) ?? this.#line();
      for (const update of line.updates) update(row);
      setAttribute(line.element, "aria-rowindex", String(i + 2));
      drawn.set(key, line);
      elements.push(line.element);
    }
    for (const [key, { element }] of this.#drawn) {
      if (drawn.has(key)) continue;
      if (element.contains(document.activeElement)) this.box.focus({ preventScroll: true });
      element.remove();
    }
    this.#drawn = drawn;
    this.before.firstChild.style.height = `${first * ROW}px`;
    this.after.firstChild.style.height = `${(total - last) * ROW}px`;
    place(this.body, [this.before, ...elements, this.after]);
  }

  #line() {
    const cells = this.columns.map((each, i) =>
      i === 0 ? h("th", { scope: "row" }) : h("td", { class: kind(each) }),
    );
    const updates = this.columns.map((each, i) => {
      if (each.build) return each.build(cells[i]);
      return (row) => {
        const text = each.text(row);
        setText(cells[i], text);
        if (!each.number) setAttribute(cells[i], "title", text || null);
      };
    });
    return { element: h("tr", {}, ...cells), updates };
  }
}

/** A field that filters a table by words which must all be in a row, and says how many are left. */
export function filterField(table, noun, text) {
  const left = h("span", { class: "left", role: "status" });
  const field = h("input", {
    type: "search",
    class: "filter",
    placeholder: "Filter",
    "aria-label": `Filter ${noun}s`,
    "aria-keyshortcuts": "/",
    autocomplete: "off",
    spellcheck: "false",
    oninput: () => {
      const words = field.value.toLowerCase().split(/\s+/).filter(Boolean);
      const matches = (row) => words.every((word) => text(row).toLowerCase().includes(word));
      table.setFilter(words.length > 0 ? matches : null);
      show();
    },
  });
  const show = () => {
    setText(left, field.value.trim() ? `${count(table.length)} shown` : "");
  };
  return { element: h("div", { class: "tools search" }, field, left), show };
}

/** Returns the class of a column's cells: what cannot be sorted are buttons. */
function kind(which) {
  if (which.number) return "number";
  return which.value ? null : "action";
}

function column({ width }) {
  const element = h("col");
  element.style.width = `${width}rem`;
  return element;
}

/** Compares numbers or texts; what is unknown comes first. */
function compare(a, b) {
  if (a == null || b == null) return (a != null) - (b != null);
  if (typeof a === "number") return a - b;
  return a < b ? -1 : Number(a > b);
}

/** Puts elements into a parent in their order, moving only those that stand elsewhere. */
function place(parent, elements) {
  let next = parent.firstChild;
  for (const element of elements) {
    if (element === next) next = next.nextSibling;
    else parent.insertBefore(element, next);
  }
}
