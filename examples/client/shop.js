'use strict';
/*
 * The Node.js side of the Python examples: a process that takes orders for a shop.
 *
 *   npm install acebase ws
 *   node shop.js 3          # takes 3 orders, as the master of the database
 *
 * It asks answer.py for the price of each order and stores the order with the price;
 * watch.tac and follow.py receive an event. ACEBASE_IPC_URL and ACEBASE_IPC_TOKEN are the
 * relay's address and token, SHOP_PATH is the folder of the database's files.
 */

console.log = () => {}; // AceBase logs every message that it receives

const { AceBase, ID } = require('acebase');

const relay = new URL(process.env.ACEBASE_IPC_URL || 'ws://127.0.0.1:9163');
const db = new AceBase('shop', {
    logLevel: 'error',
    storage: {
        path: process.env.SHOP_PATH || '.',
        ipc: {
            host: relay.hostname,
            port: Number(relay.port),
            ssl: relay.protocol === 'wss:',
            token: process.env.ACEBASE_IPC_TOKEN,
            role: 'master',
        },
    },
});
const { ipc } = db.api.storage;

const ANSWER_SECONDS = 10;

// AceBase's own ipc.sendRequest(data) asks the master only, and waits indefinitely.
const ask = (peer, data) => {
    const id = ID.generate();
    const answer = ipc.request({ type: 'request', id, from: ipc.id, to: peer, data });
    const late = new Promise((resolve, reject) => {
        setTimeout(() => reject(new Error(`${peer} does not answer`)), ANSWER_SECONDS * 1000).unref();
    });
    return Promise.race([answer, late]);
};

const main = async (orders) => {
    await db.ready();
    await db.ref('orders').transaction((snapshot) => snapshot.val() || {});
    for (let number = 1; number <= orders; number += 1) {
        const order = { item: 'tea', pieces: number };
        const price = await ask('shop-prices', { type: 'price', ...order });
        await db.ref('orders').push({ ...order, price });
        process.stdout.write(`ordered: ${order.pieces} x ${order.item} for ${price} cents\n`);
    }
    await new Promise(setImmediate); // AceBase raises events after the write is done
    await db.close();
    // AceBase leaves the socket open; exiting now would be an abnormal closure (1006).
    await new Promise((resolve) => {
        ipc.ws.addEventListener('close', resolve);
        ipc.ws.close(1000);
    });
};

main(Number(process.argv[2] || 1)).then(
    () => process.exit(0),
    (error) => {
        process.stderr.write(`${error.message}\n`);
        ipc.ws.terminate();
        process.exit(1);
    },
);
