'use strict';
/*
 * One process of the cluster. cluster.js starts it and sends it commands.
 *
 * An application needs only the configuration in `new AceBase(…)`; everything
 * else is the same as with AceBase in a single process.
 */

const { name, role, database, directory, ipc } = JSON.parse(process.argv[2]);

const say = (text) => process.stdout.write(`  ${name.padEnd(10)} (process ${process.pid})  ${text}\n`);

// The npm package acebase logs every message it receives to the console.
console.log = () => {};

const { AceBase } = require('acebase');

const db = new AceBase(database, {
    logLevel: 'error',
    storage: { path: directory, ipc: { ...ipc, role } },
});

const counted = { changes: 0, notes: 0 };
let recount = () => {};

const subscribe = async (path, event, print) => {
    const subscription = db.ref(path).on(event, { newOnly: true }).subscribe((snapshot) => {
        print(snapshot);
        recount();
    });
    await subscription.activated();
};

const commands = {
    open: async () => {
        await db.ready();
        if (role !== 'master') {
            // Reading needs a lock, and only the master grants it: so this process has joined.
            await db.ref('counter').get();
        }
        say(role === 'master' ? 'has joined as the master' : 'has joined');
    },

    create: async (values) => {
        await db.root.update(values);
        say(`has created ${Object.keys(values).join(' and ')}`);
    },

    subscribe: async () => {
        await subscribe('counter', 'value', (snapshot) => {
            counted.changes += 1;
            say(`receives: the counter is ${snapshot.val()}`);
        });
        await subscribe('notes', 'child_added', (snapshot) => {
            counted.notes += 1;
            say(`receives a note: ${snapshot.val()}`);
        });
        // The answer arrives after both subscriptions have reached all other processes.
        await db.ref('counter').get();
        say('has subscribed to the counter and to the notes');
    },

    work: async (transactions) => {
        for (let made = 0; made < transactions; made += 1) {
            await db.ref('counter').transaction((snapshot) => snapshot.val() + 1);
        }
        await db.ref('notes').push(`${name} has made ${transactions} transactions`);
    },

    // Answers when this number of events has arrived; cluster.js has a timeout.
    received: (changes, notes) => new Promise((resolve) => {
        recount = () => {
            if (counted.changes >= changes && counted.notes >= notes) {
                resolve(counted);
            }
        };
        recount();
    }),

    read: async (path) => (await db.ref(path).get()).val(),

    close: async () => {
        await db.close();
        // The npm package acebase leaves the socket open. Its exit handler closes it with
        // a code that ws rejects, so a process that exits before this prints a TypeError.
        const { ws } = db.api.storage.ipc;
        await new Promise((resolve) => {
            ws.addEventListener('close', resolve);
            ws.close(1000);
        });
    },
};

process.on('message', async ({ command, parameters }) => {
    try {
        process.send({ value: await commands[command](...parameters) });
    } catch (error) {
        process.send({ error: String((error && error.message) || error) });
    }
    if (command === 'close') {
        process.disconnect();
    }
});
// cluster.js has ended: end as well.
process.on('disconnect', () => {
    db.api.storage.ipc.ws.terminate();
    process.exit(0);
});
