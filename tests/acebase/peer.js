'use strict';
/*
 * One AceBase process that executes the commands on its standard input.
 *
 *   node peer.js '{"name": "db", "path": "/dir", "role": "worker", "ipc": {"host": "127.0.0.1", "port": 9163}}'
 *
 * Input, one JSON object a line:  {"call": 1, "do": "set", "path": "counter", "value": 0}
 * Output, one JSON object a line:
 *   {"answer": 1, "result": …} or {"answer": 1, "error": "…"}
 *   {"opened": {"id": …}}     the database file is open (the relay may not have been reached yet)
 *   {"welcomed": n, "id": …}  the relay's welcome number n of this process has been processed
 *   {"event": {"subscription": "value counter", "path": …, "value": …, "origin": …}}
 *                             of a subscription, or a "notification" by another process's `notify`
 *   {"transaction": "begun", "value": n}   the stage of a transaction that sets n; see `addOne`
 *   {"ipcExit": code}         the client has ended its IPC
 *   {"fatal": {"origin": "uncaughtException", "text": …}}   this process is about to end with this error
 *
 * The client is the npm package acebase, unmodified. Four things are wrapped from outside: its `ws`
 * property, to observe the wire, `connect`, to stay disconnected from the relay without a refused
 * connection (which would end the process ten seconds later), reading the table of free space, to
 * take long, and the clock, to stop it. With "away": true in the options the process does not connect before `return`; with
 * "opensAfter": n its disk takes n milliseconds. With "survives": true it goes on after an exception
 * that nothing catches, as client bug 3 throws one ten seconds after a refused connection.
 */

const { createHash, randomUUID } = require('node:crypto');
const { createRequire } = require('node:module');

const LONG_TEXT = 1000; // UTF-16 units; of a longer text only length and digest are reported

const report = (line) => process.stdout.write(JSON.stringify(line) + '\n');

// The client logs every message it receives to the console, and standard output is ours.
console.log = () => {};

// Its storage logs an error for notifications that are not its own, like those of `notify`.
const logError = console.error;
console.error = (...words) => {
    if (!words.some((word) => word instanceof Error && /Unknown ipc notification "test"/.test(word.message))) {
        logError(...words);
    }
};

// A monitor reports without catching: the process still ends as it would without it.
process.on('uncaughtExceptionMonitor', (error, origin) => {
    report({ fatal: { origin, text: String((error && error.stack) || error) } });
});

const options = JSON.parse(process.argv[2]);
if (options.survives) {
    process.on('uncaughtException', () => {});
}

const path = require('node:path');
// TEST_ACEBASE is a directory in which another version of the package is installed.
const installed = createRequire(path.join(process.env.TEST_ACEBASE || __dirname, 'package.json'));
const { AceBase } = installed('acebase');
const distribution = path.dirname(installed.resolve('acebase'));
const { RemoteIPCPeer } = require(path.join(distribution, 'ipc', 'remote.js'));

// -- time -------------------------------------------------------------------------------------------

const now = Date.now;
let behind = 0; // ms by which the clock of this process is behind
let stopped = null; // the time at which it was stopped
Date.now = () => (stopped === null ? now() - behind : stopped);

const startClock = () => {
    if (stopped !== null) {
        behind = now() - stopped;
        stopped = null;
    }
};

// -- staying disconnected ---------------------------------------------------------------------------

let away = null; // a promise while this process must not connect
let connectAgain = () => {};

const stayAway = () => {
    away = new Promise((resolve) => {
        connectAgain = () => {
            away = null;
            resolve();
        };
    });
};

if (options.away) {
    stayAway();
}
const connect = RemoteIPCPeer.prototype.connect;
RemoteIPCPeer.prototype.connect = async function (...parameters) {
    await away;
    return connect.apply(this, parameters);
};

const closed = (ws) => new Promise((resolve) => {
    // After the client's own listener, so that messages sent from now on are lost.
    ws.addEventListener('close', () => setImmediate(resolve));
});

const db = new AceBase(options.name, {
    logLevel: 'error',
    storage: { path: options.path, ipc: { ...options.ipc, role: options.role } },
});
const ipc = db.api.storage.ipc;

if (options.opensAfter) {
    const freeSpace = db.api.storage.FST;
    const load = freeSpace.load;
    freeSpace.load = () => new Promise((resolve) => {
        setTimeout(() => resolve(load()), options.opensAfter);
    });
}

// -- the wire, observed ---------------------------------------------------------------------

// The messages by their kind, and requests by what they are for, too: 'request', 'request kit.add'.
// `announced`: arrivals and departures in order, as [kind, id]: ['connect', 'x'], ['hello', 'x'], …
const wire = { received: {}, sent: {}, announced: [] };
const waiting = []; // { holds: () => boolean, resolve }
let socket;
let welcomes = 0;

// 'lock-request' of `to:x;{"type":"lock-request",…`, 'connect' of `connect:x`, 'ping' of `ping`.
const kindOf = (text) => /^(?:to:[^;]*;)?(?:\{"type":"([^"]*)"|(\w+))/.exec(text).slice(1).join('');

const count = (counts, text) => {
    const kind = kindOf(text);
    counts[kind] = (counts[kind] || 0) + 1;
    if (kind === 'request') {
        const [, purpose] = /"data":\{"type":"([^"]*)"/.exec(text) || [];
        counts[`request ${purpose}`] = (counts[`request ${purpose}`] || 0) + 1;
    }
    return kind;
};

const recheck = () => {
    for (const wait of waiting.filter((each) => each.holds())) {
        waiting.splice(waiting.indexOf(wait), 1);
        wait.resolve();
    }
};

setInterval(recheck, 20).unref(); // ms; for state that changes without a message

const observe = (ws) => {
    const send = ws.send;
    ws.send = (data, ...rest) => {
        count(wire.sent, String(data));
        setImmediate(recheck);
        return send.call(ws, data, ...rest);
    };
    ws.addEventListener('message', (message) => {
        const text = String(message.data);
        const kind = count(wire.received, text);
        if (kind === 'welcome') {
            startClock();
        }
        if (['connect', 'disconnect'].includes(kind)) {
            wire.announced.push([kind, text.slice(kind.length + 1)]);
        } else if (['hello', 'bye'].includes(kind)) {
            wire.announced.push([kind, JSON.parse(text).from]);
        }
        setImmediate(() => {
            if (kind === 'welcome') {
                welcomes += 1;
                report({ welcomed: welcomes, id: ipc.id });
            }
            recheck();
        });
    });
};

Object.defineProperty(ipc, 'ws', {
    get: () => socket,
    set: (ws) => {
        socket = ws;
        observe(ws);
    },
});

// -- commands --------------------------------------------------------------------

const digest = (value) => {
    if (typeof value === 'string' && value.length > LONG_TEXT) {
        return { length: value.length, sha256: createHash('sha256').update(value).digest('hex') };
    }
    if (Array.isArray(value)) {
        return value.map(digest);
    }
    if (value !== null && typeof value === 'object') {
        return Object.fromEntries(Object.entries(value).map(([key, each]) => [key, digest(each)]));
    }
    return value === undefined ? null : value;
};

const tell = (subscription, where, value, origin) => {
    report({ event: { subscription, path: where, value: digest(value), origin } });
};

ipc.on('notification', ({ from, data }) => {
    if (data.type === 'test') {
        tell('notification', '', data.value, from);
    }
});

let loading = false;
let proceed = () => {};

/*
 * A transaction that adds one. Its stages: "requested" (it waits for its lock), "begun" (its callback
 * runs, under the write lock), "returned" (the new value is being written), "acknowledged".
 */
const addOne = async (path, pause = () => {}) => {
    const tellStage = (transaction, value) => report({ transaction, value });
    let value;
    tellStage('requested', 0);
    await db.ref(path).transaction(async (snapshot) => {
        value = (snapshot.val() || 0) + 1;
        tellStage('begun', value);
        await pause();
        tellStage('returned', value);
        return value;
    });
    tellStage('acknowledged', value);
    return value;
};

const compiled = (expression) => {
    const evaluate = new Function('db', 'ipc', 'wire', `return (${expression});`);
    return () => evaluate(db, ipc, wire);
};

const commands = {
    set: ({ path, value }) => db.ref(path).set(value).then(() => null),

    get: ({ path }) => db.ref(path).get().then((snapshot) => digest(snapshot.val())),

    // One after the other, as one writer: [[path, value], …]
    write: async ({ items }) => {
        for (const [path, value] of items) {
            await db.ref(path).set(value);
        }
        return items.length;
    },

    // All at once: `times` concurrent transactions that each add one.
    increment: async ({ path, times }) => {
        const outcomes = await Promise.allSettled(Array.from({ length: times }, () => addOne(path)));
        return {
            done: outcomes.filter((each) => each.status === 'fulfilled').length,
            failed: outcomes.filter((each) => each.status === 'rejected').map((each) => String(each.reason)),
        };
    },

    // Transactions that each add one, one after the other until `stop`; tells each, answers their
    // number. Each keeps its lock for a random time of at most `hold` ms.
    load: async ({ path, hold = 0 }) => {
        const pause = hold === 0 ? undefined
            : () => new Promise((resolve) => setTimeout(resolve, Math.random() * hold));
        loading = true;
        let done = 0;
        for (; loading; done += 1) {
            await addOne(path, pause);
            tell('loading', path, done + 1, ipc.id);
        }
        return done;
    },

    stop: () => {
        loading = false;
        return null;
    },

    // A transaction that adds one, and keeps its lock until `proceed`; answers the new value.
    hold: ({ path }) => addOne(path, () => new Promise((resolve) => { proceed = resolve; })),

    proceed: () => {
        proceed();
        return null;
    },

    subscribe: async ({ path, event }) => {
        const stream = db.ref(path).on(event, { newOnly: true });
        const subscription = stream.subscribe((snapshot) => {
            const context = snapshot.context() || {};
            const origin = (context.acebase_ipc && context.acebase_ipc.origin) || ipc.id;
            tell(`${event} ${path}`, snapshot.ref.path, snapshot.val(), origin);
        });
        await subscription.activated();
        return null;
    },

    notify: ({ value }) => {
        ipc.sendNotification({ type: 'test', value });
        return null;
    },

    // To the master, or to the process `to`.
    request: ({ value, to }) => (to
        ? ipc.request({ type: 'request', from: ipc.id, to, id: randomUUID(), data: value })
        : ipc.sendRequest(value)),

    // The value of a JavaScript expression over `db`, `ipc` and `wire`.
    evaluate: ({ expression }) => digest(compiled(expression)()),

    // Answers once the expression holds; evaluated on every message, and every 20 ms.
    until: ({ expression }) => new Promise((resolve) => {
        waiting.push({ holds: compiled(expression), resolve: () => resolve(null) });
        recheck();
    }),

    // Ends the connection as a crash would (no close frame) and stays disconnected until `return`.
    cut: async () => {
        stayAway();
        const gone = closed(socket);
        socket.terminate();
        await gone;
        return null;
    },

    // Connects again; answers once the relay's welcome has been processed.
    return: async () => {
        const before = welcomes;
        connectAgain();
        await new Promise((resolve) => waiting.push({ holds: () => welcomes > before, resolve }));
        return null;
    },

    // Stops the clock of this process (Date.now, not its timers) until the relay's next welcome.
    stopClock: () => {
        stopped = Date.now();
        return null;
    },

    // Blocks the event loop; answers afterwards.
    block: ({ ms }) => {
        tell('blocked', '', ms, ipc.id);
        Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, ms);
        return null;
    },

    close: () => db.close().then(() => null),

    exit: ({ code }) => process.exit(code || 0),

    ...require('./workloads.js')(db, ipc, digest),
};

const execute = async (line) => {
    const { call, do: name, ...parameters } = JSON.parse(line);
    try {
        report({ answer: call, result: await commands[name](parameters) });
    } catch (error) {
        report({ answer: call, error: String((error && error.stack) || error) });
    }
};

ipc.once('exit', (code) => report({ ipcExit: code }));
db.ready().then(() => report({ opened: { id: ipc.id } }));

let unread = '';
process.stdin.setEncoding('utf8');
process.stdin.on('data', (text) => {
    const lines = (unread + text).split('\n');
    unread = lines.pop();
    lines.forEach(execute);
});
// Ends with the test that started it.
process.stdin.on('end', () => process.exit(0));
