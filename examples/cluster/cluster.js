'use strict';
/*
 * A small AceBase cluster to watch at work.
 *
 * Four processes (see peer.js) open the same database files and connect to the
 * relay: the master, which grants the locks; two workers, which increment one
 * counter in transactions; and a subscriber, which receives all their changes.
 *
 * The order in which they start matters to the npm package acebase:
 *   1. the master creates every top-level key before the other processes join;
 *   2. the subscriber subscribes after all workers have joined.
 */

const { fork } = require('node:child_process');
const fs = require('node:fs');
const http = require('node:http');
const https = require('node:https');
const os = require('node:os');
const path = require('node:path');
const { parseArgs } = require('node:util');

const TRANSACTIONS = 10; // of each worker
const TIMEOUT = 60_000; // milliseconds for the whole run

const HELP = `Usage: npm start -- [--host 127.0.0.1] [--port 9163] [--token secret] [--tls]

Runs a small AceBase cluster on a relay that is already running ("make run").
ACEBASE_IPC_HOST, ACEBASE_IPC_PORT and ACEBASE_IPC_TOKEN can be set in place of the options.
With --tls and a self-signed certificate, set NODE_EXTRA_CA_CERTS to its file.
`;

const readOptions = () => {
    try {
        return parseArgs({
            options: {
                host: { type: 'string', default: process.env.ACEBASE_IPC_HOST || '127.0.0.1' },
                port: { type: 'string', default: process.env.ACEBASE_IPC_PORT || '9163' },
                token: { type: 'string', default: process.env.ACEBASE_IPC_TOKEN },
                tls: { type: 'boolean', default: false },
                help: { type: 'boolean', default: false },
            },
        }).values;
    } catch (error) {
        process.stderr.write(`${error.message}\n\n${HELP}`);
        process.exit(2);
    }
};

const options = readOptions();
if (options.help) {
    process.stdout.write(HELP);
    process.exit(0);
}

const ipc = { host: options.host, port: Number(options.port), ssl: options.tls, token: options.token };
const relay = `${options.tls ? 'wss' : 'ws'}://${options.host}:${options.port}`;
const database = `cluster${process.pid}`; // only for this run
const directory = fs.mkdtempSync(path.join(os.tmpdir(), 'acebase-cluster-'));
const started = [];

const say = (text) => process.stdout.write(`${text}\n`);

process.on('exit', () => {
    for (const child of started) {
        child.kill('SIGKILL');
    }
    fs.rmSync(directory, { recursive: true, force: true });
});
for (const [signal, status] of [['SIGINT', 130], ['SIGTERM', 143]]) {
    process.on(signal, () => process.exit(status));
}

const fail = (reason) => {
    process.stderr.write(`\nFailed: ${reason}\n`);
    process.exit(1);
};

// Asks the relay for the peers of this database, so that a missing relay or a
// wrong token is reported in one line. AceBase itself would retry indefinitely.
const askRelay = () => new Promise((resolve, reject) => {
    const query = options.token === undefined ? '' : `?t=${encodeURIComponent(options.token)}`;
    const { get } = options.tls ? https : http;
    const request = get(
        { host: ipc.host, port: ipc.port, path: `/${database}_data/clients${query}`, agent: false },
        (response) => {
            let text = '';
            response.setEncoding('utf8');
            response.on('data', (piece) => { text += piece; });
            response.on('end', () => {
                if (response.statusCode === 200) {
                    resolve(JSON.parse(text));
                } else {
                    const hint = response.statusCode === 401 ? ' Is the token right?' : '';
                    reject(new Error(`${relay} answers ${response.statusCode} ${text}.${hint}`));
                }
            });
        },
    );
    request.on('error', (error) => {
        const hint = error.code === 'ECONNREFUSED' ? ' Start one in another terminal: make run' : '';
        reject(new Error(`no relay can be reached at ${relay} (${error.message}).${hint}`));
    });
});

// Starts a process of the cluster. It answers each command with a value.
const start = (name, role) => {
    const child = fork(path.join(__dirname, 'peer.js'), [
        JSON.stringify({ name, role, database, directory, ipc }),
    ]);
    const answers = [];
    started.push(child);
    child.on('message', ({ error, value }) => {
        const { resolve, reject } = answers.shift();
        if (error === undefined) {
            resolve(value);
        } else {
            reject(new Error(`${name}: ${error}`));
        }
    });
    child.on('exit', (code, signal) => {
        started.splice(started.indexOf(child), 1);
        for (const { reject } of answers.splice(0)) {
            reject(new Error(`${name} has ended (${signal || `status ${code}`})`));
        }
    });
    return {
        ask: (command, ...parameters) => new Promise((resolve, reject) => {
            answers.push({ resolve, reject });
            child.send({ command, parameters });
        }),
        ended: new Promise((resolve) => { child.on('exit', resolve); }),
    };
};

const main = async () => {
    await askRelay();
    say(`The relay answers at ${relay}. The database is in ${directory}.\n`);

    const master = start('master', 'master');
    await master.ask('open');
    await master.ask('create', { counter: 0, notes: {} });

    const workers = [start('worker 1', 'worker'), start('worker 2', 'worker')];
    await Promise.all(workers.map((worker) => worker.ask('open')));

    const subscriber = start('subscriber', 'worker');
    await subscriber.ask('open');
    await subscriber.ask('subscribe');
    const peers = await askRelay();
    say(`\nThe relay has ${peers.length} peers: ${peers.map(({ id }) => id).join(', ')}.`);
    say(`Both workers now increment one counter, ${TRANSACTIONS} transactions each, at the same time.\n`);

    const began = Date.now();
    await Promise.all(workers.map((worker) => worker.ask('work', TRANSACTIONS)));
    const seconds = (Date.now() - began) / 1000;

    const expected = workers.length * TRANSACTIONS;
    const received = await subscriber.ask('received', expected, workers.length);
    const sum = await master.ask('read', 'counter');

    for (const peer of [subscriber, ...workers, master]) {
        await peer.ask('close');
        await peer.ended;
    }
    say(`\nThe counter is ${sum}; ${expected} transactions were made in ${seconds.toFixed(1)} s.`);
    say(`The subscriber received ${received.changes} changes and ${received.notes} notes.`);
    if (sum !== expected || received.changes !== expected || received.notes !== workers.length) {
        throw new Error(`the counter should be ${expected}, and every change received once`);
    }
    say('All values are exact.');
};

setTimeout(() => fail(`the run took more than ${TIMEOUT / 1000} s`), TIMEOUT).unref();
main().then(() => process.exit(0), (error) => fail(error.message));
