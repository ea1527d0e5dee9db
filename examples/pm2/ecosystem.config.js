'use strict';
/*
 * The relay and a cluster under PM2:
 *
 *   npm install && npx pm2 start ecosystem.config.js
 *
 * PM2 cannot hold the relay's port. During "pm2 restart relay" its clients are
 * refused, crash ten seconds later, and PM2 restarts them. This lets a new
 * process take over with all connections, and nobody notices:
 *
 *   npx pm2 sendSignal SIGUSR2 relay
 *
 * With --state-dir the next relay goes on where the former one has ended, or has been killed.
 */

const path = require('node:path');

const HOST = '127.0.0.1';
const PORT = process.env.ACEBASE_IPC_PORT || '9163';
const TWISTD = process.env.ACEBASE_IPC_TWISTD || path.join(__dirname, '..', '..', '.venv', 'bin', 'twistd');
const COMMAND = path.join(path.dirname(TWISTD), 'acebase-ipc');

const STATE = process.env.ACEBASE_IPC_STATE || path.join(__dirname, 'relay-state');

const member = {
    script: path.join(__dirname, 'app.js'),
    exec_mode: 'fork', // in PM2's cluster mode all processes would share standard input and ports
    wait_ready: true, // app.js sends "ready" when its database is open
    listen_timeout: 30_000,
    kill_timeout: 5_000,
    env: {
        ACEBASE_IPC_HOST: HOST,
        ACEBASE_IPC_PORT: PORT,
        DATABASE_PATH: process.env.DATABASE_PATH || __dirname,
    },
};

module.exports = {
    apps: [
        {
            name: 'relay',
            script: COMMAND,
            interpreter: 'none',
            args: [
                'supervise', TWISTD, // stays while relays take over from each other
                '--nodaemon', '--pidfile=', 'acebase-ipc',
                '--port', `tcp:${PORT}:interface=${HOST}`,
                '--state-dir', STATE,
            ],
            cwd: __dirname,
            kill_timeout: 12_000, // it stops within 10 s
        },
        { ...member, name: 'master', env: { ...member.env, ROLE: 'master' } }, // exactly one
        { ...member, name: 'worker', instances: 2, env: { ...member.env, ROLE: 'worker' } },
    ],
};
