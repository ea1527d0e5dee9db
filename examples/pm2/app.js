'use strict';
/*
 * One process of the cluster in ecosystem.config.js. Each worker increments a
 * counter every second. Copy three things from it:
 *
 * 1. It waits until the relay answers. A process with the npm package acebase
 *    that is refused even once, when it connects or reconnects, crashes ten
 *    seconds later.
 * 2. It puts a timeout around each write. Messages that a process sends while its
 *    connection is lost are lost, and its write never ends: then the process exits,
 *    and PM2 restarts it.
 * 3. It closes its connection before it exits, so that the others are told at once.
 *
 * At the first start a worker may run before the master has created the
 * counter, and fail: PM2 restarts it.
 */

const http = require('node:http');

const { ROLE, ACEBASE_IPC_HOST: host, ACEBASE_IPC_PORT: port, ACEBASE_IPC_TOKEN: token, DATABASE_PATH } = process.env;

const INTERVAL = 1_000; // milliseconds between two writes
const TIMEOUT = 10_000; // milliseconds that a write may take
const RETRY = 250; // milliseconds between two health checks

const say = (text) => process.stdout.write(`${ROLE} ${process.pid}: ${text}\n`);

// The npm package acebase logs every message it receives to the console.
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
    sleep(TIMEOUT).then(() => { throw new Error(`a write did not end within ${TIMEOUT / 1000} s`); }),
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
        const { ws } = db.api.storage.ipc; // the npm package acebase leaves it open
        ws.addEventListener('close', () => process.exit(0));
        ws.close(1000);
    });

    if (ROLE === 'master') {
        const counter = await db.ref('counter').get();
        if (!counter.exists()) {
            await db.ref('counter').set(0); // the master creates all top-level keys
        }
    } else {
        await inTime(db.ref('counter').get()); // answered once there is a master
    }
    say('is ready');
    if (process.send) {
        process.send('ready');
    }
    while (ROLE === 'worker' && !leaving) {
        await inTime(db.ref('counter').transaction((snapshot) => snapshot.val() + 1));
        say(`the counter is ${(await inTime(db.ref('counter').get())).val()}`);
        await sleep(INTERVAL);
    }
};

main().catch((error) => {
    say(error.message);
    // Not process.exit(): the exit handler of acebase closes the socket with a code that ws rejects.
    process.kill(process.pid, 'SIGKILL');
});
