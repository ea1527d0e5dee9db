// Talks to the relay: requests, the token, and the stream of what happens.

const TOKEN = "acebase-ipc-token";
const SILENCE = 20_000; // ms without a byte after which the stream is lost: one comes each 15 s
const PAUSES = [500, 1000, 2000, 3000]; // ms before each attempt to reconnect; the last one repeats
const CLOCK_ERROR = 2000; // ms; the relay derives its start from its uptime

/** The relay has answered with an error. */
export class Refused extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

/** Keeps the token for requests of this tab. */
export function setToken(token) {
  sessionStorage.setItem(TOKEN, token);
}

/** Returns whether a token was given. */
export function hasToken() {
  return sessionStorage.getItem(TOKEN) !== null;
}

async function ask(path, options = {}) {
  const headers = new Headers(options.headers);
  const token = sessionStorage.getItem(TOKEN);
  if (token !== null) headers.set("Authorization", `Bearer ${token}`);
  const address = new URL(`api/v1/${path}`, document.baseURI);
  const response = await fetch(address, { ...options, headers, cache: "no-store" });
  if (response.ok) return response;
  const answer = await response.json().catch(() => ({}));
  throw new Refused(response.status, answer.error ?? `status ${response.status}`);
}

/**
 * Returns the JSON at a path below /api/v1/.
 * @throws {Refused} if the answer is an error.
 */
export async function get(path, signal) {
  return (await ask(path, { signal })).json();
}

/** Sends a request that changes something, and returns its answer. */
export async function post(path, body) {
  const headers = { "Content-Type": "application/json", "X-AceBase-IPC": "1" };
  return (await ask(path, { method: "POST", headers, body: JSON.stringify(body) })).json();
}

/** Yields the messages of a stream of server-sent events as {id, name, data}. */
async function* messages(body, onData) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  let message = { name: "message", data: [] };
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    onData();
    const lines = (rest + value).split(/\r\n|\n|\r(?!$)/);
    rest = lines.pop();
    for (const line of lines) {
      if (line === "") {
        if (message.data.length > 0) yield { ...message, data: message.data.join("\n") };
        message = { name: "message", data: [] };
        continue;
      }
      const [, field, text] = /^([^:]*):? ?(.*)$/.exec(line) ?? [];
      if (field === "event") message.name = text;
      else if (field === "data") message.data.push(text);
      else if (field === "id") message.id = text;
    }
  }
}

/** Returns whether a status is a later one of the same process. */
function isLater(known, status) {
  return (
    known?.pid === status.pid &&
    known.uptime <= status.uptime &&
    Math.abs(known.started - status.started) < CLOCK_ERROR
  );
}

/**
 * Keeps a model up to date over the stream, and connects again whenever it is lost.
 *
 * EventSource cannot send a token, so the stream is read with fetch.
 */
export class Connection {
  /**
   * @param {object} model receives `reset()`, `addEvents(list)` and `update(status, databases)`.
   * @param {function} onState called with "live", "lost" (and why) or "token".
   * @param {function} askToken returns a promise that is fulfilled when a token was given.
   */
  constructor(model, onState, askToken) {
    this.model = model;
    this.onState = onState;
    this.askToken = askToken;
    this.lastEvent = null;
    this.wake = () => {};
  }

  /** Tries at once, if a try is due later. */
  retry() {
    this.wake();
  }

  /** Connects, again and again; never returns. */
  async run() {
    for (let failures = 0; ; failures += 1) {
      let why = "";
      try {
        await this.#follow(() => (failures = 0));
      } catch (error) {
        if (error instanceof Refused && error.status === 401) {
          this.onState("token", "");
          await this.askToken();
          failures = -1;
          continue;
        }
        if (error instanceof Refused) why = `The relay answers: ${error.message}.`;
      }
      this.onState("lost", why);
      await new Promise((resolve) => {
        this.wake = resolve;
        setTimeout(resolve, PAUSES[Math.min(failures, PAUSES.length - 1)]);
      });
    }
  }

  async #follow(onConnected) {
    const aborted = new AbortController();
    let timer;
    const heard = () => {
      clearTimeout(timer);
      timer = setTimeout(() => aborted.abort(), SILENCE);
    };
    try {
      heard();
      const status = await get("status", aborted.signal);
      if (!isLater(this.model.status, status)) {
        this.model.reset(); // a new relay counts its events from 1 again
        const { events, last } = await get("events?limit=1000", aborted.signal);
        this.model.addEvents(events);
        this.lastEvent = String(last);
      }
      const headers = { Accept: "text/event-stream", "Last-Event-ID": this.lastEvent };
      const response = await ask("stream", { headers, signal: aborted.signal });
      onConnected();
      this.onState("live", "");
      for await (const { id, name, data } of messages(response.body, heard)) {
        const value = JSON.parse(data);
        if (name === "status") this.model.update(value.status, value.databases);
        else if (name === "event") {
          this.model.addEvents([value]);
          this.lastEvent = id ?? String(value.id);
        }
      }
    } finally {
      clearTimeout(timer);
      aborted.abort();
    }
  }
}
