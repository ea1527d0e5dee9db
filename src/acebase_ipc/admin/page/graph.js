// A small graph of the last minutes.

import { h, setText, svg } from "./dom.js";
import { duration } from "./format.js";
import { SPAN } from "./model.js";

const WIDTH = SPAN;
const HEIGHT = 80;
const GAP = 12; // seconds between samples above which the line is interrupted

/**
 * Returns the next round number at or above a value: 1, 2, 5, 10, 20 … times the smallest one,
 * times a power of 1,024 for bytes.
 */
export function ceiling(value, base, least) {
  let step = least;
  while (base > 10 && step * base <= value) step *= base;
  for (;;) {
    for (const factor of [1, 2, 5]) {
      if (value <= step * factor) return step * factor;
    }
    step *= 10;
  }
}

export class Graph {
  /**
   * @param {string} label for those who do not see it.
   * @param {object[]} series each {name, value: (sample) => number | null}; the first is filled.
   * @param {function} format of a value.
   * @param {number} least the smallest value at the top of the graph.
   * @param {number} base 10, or 1024 for bytes.
   */
  constructor({ label, series, format, least, base = 10 }) {
    this.series = series;
    this.format = format;
    this.least = least;
    this.base = base;
    this.samples = [];
    this.area = svg("path", { class: "area" });
    this.lines = series.map((_, i) => svg("path", { class: `line line-${i}` }));
    this.limit = svg("line", { class: "limit", x1: 0, x2: WIDTH, hidden: true });
    this.cursor = svg("line", { class: "cursor", y1: 0, y2: HEIGHT, hidden: true });
    this.top = h("span", { class: "scale-top" });
    this.left = h("span", { class: "scale-left" }, `${SPAN / 60} min ago`);
    const picture = svg(
      "svg",
      {
        viewBox: `0 0 ${WIDTH} ${HEIGHT}`,
        preserveAspectRatio: "none",
        role: "img",
        "aria-label": label,
        onpointermove: (event) => this.#point(event.offsetX / picture.clientWidth),
        onpointerleave: () => this.#point(null),
      },
      ...[0.25, 0.5, 0.75].map((part) =>
        svg("line", { class: "grid", x1: 0, x2: WIDTH, y1: HEIGHT * part, y2: HEIGHT * part }),
      ),
      this.area,
      ...[...this.lines].reverse(),
      this.limit,
      this.cursor,
    );
    this.element = h(
      "div",
      { class: "graph" },
      picture,
      this.top,
      this.left,
      h("span", { class: "scale-right" }, "now"),
    );
  }

  /** Draws samples; a limit is drawn where values come near it. */
  update(samples, limit = null) {
    this.samples = samples;
    const now = samples.at(-1)?.time ?? 0;
    const values = this.series.flatMap((each) => samples.map(each.value));
    const most = Math.max(0, ...values.filter((each) => each !== null));
    const isNear = limit !== null && most > limit / 2;
    const top = isNear ? Math.max(limit, most) * 1.1 : ceiling(most, this.base, this.least);
    const x = (time) => (WIDTH - now + time).toFixed(1);
    const y = (value) => (HEIGHT - (value / top) * (HEIGHT - 2)).toFixed(1);
    this.series.forEach((each, i) => {
      const runs = split(samples, each.value);
      const paths = runs.map((run) => run.map(([time, value]) => `${x(time)} ${y(value)}`));
      // A line of no length, with round ends, is a point.
      const parts = paths.map((points) => `M${points.join("L")}L${points.at(-1)}`);
      this.lines[i].setAttribute("d", parts.join(""));
      if (i === 0) {
        const areas = runs.map(
          (run, k) =>
            `M${x(run[0][0])} ${HEIGHT}L${paths[k].join("L")}L${x(run.at(-1)[0])} ${HEIGHT}Z`,
        );
        this.area.setAttribute("d", areas.join(""));
      }
    });
    this.limit.toggleAttribute("hidden", !isNear);
    if (isNear) {
      this.limit.setAttribute("y1", y(limit));
      this.limit.setAttribute("y2", y(limit));
    }
    setText(this.top, this.format(top));
  }

  #point(part) {
    const last = this.samples.at(-1);
    const at = part === null || !last ? null : last.time - (1 - part) * SPAN;
    const near = at === null ? [] : this.samples.filter((each) => Math.abs(each.time - at) < GAP);
    near.sort((a, b) => Math.abs(a.time - at) - Math.abs(b.time - at));
    this.cursor.toggleAttribute("hidden", near.length === 0);
    if (near.length === 0) {
      setText(this.left, `${SPAN / 60} min ago`);
      return;
    }
    this.cursor.setAttribute("x1", part * WIDTH);
    this.cursor.setAttribute("x2", part * WIDTH);
    const texts = this.series.map(({ name, value }) => {
      const known = value(near[0]);
      return `${name} ${known === null ? "–" : this.format(known)}`;
    });
    setText(this.left, `${duration(Math.round(last.time - near[0].time))} ago: ${texts.join(", ")}`);
  }
}

/** Returns the runs of known values without a gap, each as [time, value] pairs. */
function split(samples, value) {
  const runs = [];
  let before = -Infinity;
  for (const sample of samples) {
    const known = value(sample);
    if (known === null) continue;
    if (sample.time - before > GAP) runs.push([]);
    runs.at(-1).push([sample.time, known]);
    before = sample.time;
  }
  return runs;
}
