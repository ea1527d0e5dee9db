'use strict';
/*
 * A member of the cluster that ecosystem.config.js describes. Each worker adds
 * one to a counter every second. Three things in it are worth copying:
 *
 * 1. It waits until the relay answers. A published client that is refused even
 *    once, when it first connects or later, ends ten seconds afterwards.
 * 2. It puts a timeout around each write. What a client sends while its
 *    connection is lost is lost, and its write never ends: then the process ends,
 *    and PM2 starts it again.
 * 3. It leaves in good order, so that the others hear of it at once.
 *
 * The very first time a worker may come before the master has created the
 * counter, and fail: PM2 starts it again.
 */

const http = require('node:http');

const { ROLE, ACEBASE_IPC_HOST: host, ACEBASE_IPC_PORT: port, ACEBASE_IPC_TOKEN: token, DATABASE_PATH } = process.env;

const EVERY = 1_000; // milliseconds between two writes
const PATIENCE = 10_000; // milliseconds that a write may take
const RETRY = 250; // milliseconds between two looks for the relay

const say = (text) => process.stdout.write(`${ROLE} ${process.pid}: ${text}\n`);

// Published AceBase clients log every message they receive to the console.
console.log = () => {};

const sleep = (ms) => new Promise((resolve) => { setTimeout(resolve, ms); });

const answers = () => new Promise((resolve) => {
    const request = http.get({ host, port, path: '/healthz', agent: false }, (response) => {
        response.resume();
        resolve(response.statusCode === 200);
    });
    request.on('error', () => resolve(false));
});

const inTime = (promise) => Promise.race([
    promise,
    sleep(PATIENCE).then(() => { throw new Error(`a write did not end within ${PATIENCE / 1000} s`); }),
]);

const main = async () => {
    while (!(await answers())) {
        await sleep(RETRY);
    }
    const { AceBase } = require('acebase');
    const db = new AceBase('example', {
        logLevel: 'error',
        storage: { path: DATABASE_PATH, ipc: { host, port: Number(port), token, role: ROLE } },
    });
    await db.ready();

    let leaving = false;
    process.on('SIGINT', async () => {
        leaving = true;
        await db.close();
        const { ws } = db.api.storage.ipc; // published clients leave it open
        ws.addEventListener('close', () => process.exit(0));
        ws.close(1000);
    });

    if (ROLE === 'master') {
        const counter = await db.ref('counter').get();
        if (!counter.exists()) {
            await db.ref('counter').set(0); // the master creates all top-level keys
        }
    } else {
        await inTime(db.ref('counter').get()); // answered when there is a master
    }
    say('is ready');
    if (process.send) {
        process.send('ready');
    }
    while (ROLE === 'worker' && !leaving) {
        await inTime(db.ref('counter').transaction((snapshot) => snapshot.val() + 1));
        say(`the counter is ${(await inTime(db.ref('counter').get())).val()}`);
        await sleep(EVERY);
    }
};

main().catch((error) => {
    say(error.message);
    // By itself: in their exit handler published clients close the socket with a code that ws refuses.
    process.kill(process.pid, 'SIGKILL');
});
