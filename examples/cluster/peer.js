'use strict';
/*
 * One process of the cluster: started by cluster.js, obeys its commands.
 *
 * What an application needs of this is the configuration in `new AceBase(…)`;
 * everything after it is AceBase as on a single process.
 */

const { name, role, database, directory, ipc } = JSON.parse(process.argv[2]);

const say = (text) => process.stdout.write(`  ${name.padEnd(10)} (process ${process.pid})  ${text}\n`);

// Published AceBase clients log every message they receive to the console.
console.log = () => {};

const { AceBase } = require('acebase');

const db = new AceBase(database, {
    logLevel: 'error',
    storage: { path: directory, ipc: { ...ipc, role } },
});

const counted = { changes: 0, notes: 0 };
let recount = () => {};

const subscribe = async (path, event, tell) => {
    const subscription = db.ref(path).on(event, { newOnly: true }).subscribe((snapshot) => {
        tell(snapshot);
        recount();
    });
    await subscription.activated();
};

const commands = {
    open: async () => {
        await db.ready();
        if (role !== 'master') {
            // Reading takes a lock, and only the master grants it: this process has joined.
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
            say(`hears: the counter is ${snapshot.val()}`);
        });
        await subscribe('notes', 'child_added', (snapshot) => {
            counted.notes += 1;
            say(`hears a note: ${snapshot.val()}`);
        });
        // The answer to this comes after both subscriptions have reached everybody.
        await db.ref('counter').get();
        say('has subscribed to the counter and to the notes');
    },

    work: async (transactions) => {
        for (let made = 0; made < transactions; made += 1) {
            await db.ref('counter').transaction((snapshot) => snapshot.val() + 1);
        }
        await db.ref('notes').push(`${name} has made ${transactions} transactions`);
    },

    // Answers when so many events have come; cluster.js ends it if they never do.
    heard: (changes, notes) => new Promise((resolve) => {
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
        // Published clients leave the socket open. In their exit handler they close it
        // with a code that ws refuses, so a process that exits before this ends badly.
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
// Without cluster.js there is nothing to do.
process.on('disconnect', () => {
    db.api.storage.ipc.ws.terminate();
    process.exit(0);
});
