// What the page knows: the newest status, its course over the last minutes, and recent events.

/** Seconds that the graphs show. */
export const SPAN = 300;

const MOST_EVENTS = 1000; // as many as the relay keeps
const COUNTERS = ["received", "received_bytes", "sent", "sent_bytes"];

/** Returns the growth of counters per second, or null where they were counted anew. */
function rates(before, after, seconds) {
  if (before === undefined || !(seconds > 0)) return null;
  const found = {};
  for (const name of COUNTERS) {
    if (after[name] < before[name]) return null;
    found[name] = (after[name] - before[name]) / seconds;
  }
  return found;
}

/** Returns the mean of the durations that were counted between two states, or null without any. */
function mean(before, after) {
  const number = after.count - (before?.count ?? after.count);
  return number > 0 ? (after.sum - before.sum) / number : null;
}

export class Model {
  status = null;
  databases = [];
  rates = null; // of all databases, per second
  databaseRates = new Map();
  samples = []; // {time, received, sent, lag, wait, memory} about once a second
  events = []; // the newest last
  #changed;

  /** @param {function} changed called after each change. */
  constructor(changed) {
    this.#changed = changed;
  }

  /** Forgets what another process of the relay has told. The graphs go on after a gap. */
  reset() {
    this.status = null;
    this.rates = null;
    this.databases = [];
    this.databaseRates.clear();
    this.events = [];
    this.#changed();
  }

  /** Takes a status and the list of databases. */
  update(status, databases) {
    const seconds = this.status ? status.uptime - this.status.uptime : 0;
    this.rates = rates(this.status?.traffic, status.traffic, seconds);
    const wait = mean(this.status?.lock_waits, status.lock_waits);
    const before = new Map(this.databases.map((each) => [each.name, each.traffic]));
    this.databaseRates = new Map(
      databases.map((each) => [each.name, rates(before.get(each.name), each.traffic, seconds)]),
    );
    this.status = status;
    this.databases = databases;
    const time = Date.now() / 1000;
    this.samples.push({
      time,
      received: this.rates?.received ?? null,
      sent: this.rates?.sent ?? null,
      lag: status.loop_lag.last,
      wait,
      memory: status.memory.used,
    });
    const first = this.samples.findIndex((each) => each.time >= time - SPAN - 2);
    this.samples.splice(0, first);
    this.#changed();
  }

  /** Takes events that happened after those that are known. */
  addEvents(events) {
    const last = this.events.at(-1)?.id ?? 0;
    this.events.push(...events.filter((each) => each.id > last));
    this.events.splice(0, this.events.length - MOST_EVENTS);
    this.#changed();
  }
}
