'use strict';
/*
 * Commands of `peer.js` that do many operations, for the benchmark and for the comparison of
 * clusters that do the same work.
 */

const { performance } = require('node:perf_hooks');

const RECORDS = 20; // of each process

module.exports = (db, ipc, digest) => {
    const add = (path, amount) => db.ref(path).transaction((snapshot) => (snapshot.val() || 0) + amount);

    // -- for the benchmark

    // A value and a text that is too long to be stored within its parent.
    const record = (number) => ({ number, name: `record ${number}`, text: `${number} `.padEnd(80, '.') });
    const own = (number) => db.ref(`list/${ipc.id}/record${number % RECORDS}`);
    const measured = {
        transaction: () => add('counters/total', 1),
        set: (number) => own(number).set(record(number)),
        get: (number) => own(number).get(),
    };

    // -- for the comparison: one operation each

    const single = {
        set: ({ path, value }) => db.ref(path).set(value),
        update: ({ path, value }) => db.ref(path).update(value),
        remove: ({ path }) => db.ref(path).remove(),
        add: ({ path, amount }) => add(path, amount),
        index: ({ path, key }) => db.indexes.create(path, key),

        // A transaction that begins another one, which needs its lock meanwhile.
        nested: async ({ path, inner, amount }) => {
            let second;
            await db.ref(path).transaction((snapshot) => {
                second = add(inner, amount);
                return (snapshot.val() || 0) + amount;
            });
            await second;
        },

        get: ({ path }) => db.ref(path).get().then((snapshot) => digest(snapshot.val())),

        // The keys of the children with a value of at least `least`.
        query: ({ path, key, least }) => db.query(path).filter(key, '>=', least).get()
            .then((snapshots) => snapshots.map((each) => each.key).sort()),
    };

    return {
        // Writes the records that `measure` reads.
        fill: () => db.ref(`list/${ipc.id}`).set(
            Object.fromEntries(Array.from({ length: RECORDS }, (_, number) => [`record${number}`, record(number)])),
        ).then(() => null),

        // Operations of a kind, one after the other for so many `seconds`; answers how long all of
        // them took in seconds, and each of them in µs.
        measure: async ({ kind, seconds }) => {
            const took = [];
            const began = performance.now();
            let now = began;
            while (now < began + seconds * 1000) {
                await measured[kind](took.length);
                const before = now;
                now = performance.now();
                took.push(Math.round((now - before) * 1000));
            }
            return { seconds: (now - began) / 1000, took };
        },

        // The operations one after the other; answers what those that read have read.
        perform: async ({ operations }) => {
            const read = [];
            for (const { do: name, ...parameters } of operations) {
                const value = await single[name](parameters);
                if (name === 'get' || name === 'query') {
                    read.push(value);
                }
            }
            return read;
        },
    };
};
