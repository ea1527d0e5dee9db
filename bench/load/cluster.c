#define _GNU_SOURCE
#include "cluster.h"

#include "transaction.h"
#include "wire.h"
#include "workloads.h"

#include <stdio.h>
#include <string.h>
#include <time.h>

enum {
    LOCK_MS = 120000, /* the time after which AceBase lets a lock expire */
    MAX_FIXED = 512,  /* bytes of a request without filler; an answer has less than twice that */
};

struct worker {
    struct client *client, *master;
    struct transaction *transactions;
    uint32_t sent;     /* messages */
    uint32_t received; /* number of the last of them that the master has received */
    uint32_t answered; /* answers of the master */
    uint32_t heard;    /* number of the last of them that the worker has received */
};

static struct worker *workers;
static unsigned transactions_each;
static unsigned next_worker;    /* the next one to send a message, in rotation */
static uint64_t *locks_granted; /* by each master */
static uint64_t epoch_ms;       /* ms since 1970 when the monotonic clock was zero */
static uint64_t duplicated, reordered;
static char *scratch;

/* ---- Sending ---- */

static void send_to(struct client *client, struct span to, const char *pattern,
                    const struct envelope *envelope)
{
    char *at = mempcpy(scratch, "to:", 3);

    at = mempcpy(at, to.at, to.length);
    *at++ = ';';
    at += envelope_write(pattern, envelope, at);
    wire_text(client, (const uint8_t *)scratch, (size_t)(at - scratch));
}

static void send_message(struct worker *worker, struct transaction *transaction, uint64_t now)
{
    struct envelope message;

    transaction_begin_message(transaction, ++worker->sent, now);
    message = transaction_message(transaction);
    send_to(worker->client, span_of(worker->master->id),
            ENVELOPES[transaction_kind(transaction)].request, &message);
}

/* Let the next worker go on with a transaction that waits for nothing. */
static void send_in_turn(uint64_t now)
{
    struct worker *worker = &workers[next_worker];
    struct transaction *transaction = worker->transactions;

    while (transaction->awaited)
        transaction++;
    send_message(worker, transaction, now);
    next_worker = (next_worker + 1) % (unsigned)options.peers;
}

/* ---- Receiving ---- */

/* Find the transaction of a request, and the number of the message among those of its worker.
 * Returns NULL if the id is not of a request of these workers: a relay may have its own. */
static struct transaction *find_transaction(struct span id, uint32_t *number)
{
    struct request_id found;

    if (!request_id_read(id, &found) || found.worker >= (uint32_t)options.peers ||
        found.place >= transactions_each)
        return NULL;
    *number = found.number;
    return &workers[found.worker].transactions[found.place];
}

/* Check what a master has received from a worker; returns whether to answer it. */
static bool accept_request(struct client *master, struct transaction *transaction, enum kind kind,
                           uint32_t number, const struct envelope *envelope)
{
    struct worker *worker = &workers[transaction->worker];

    if (number < transaction->number || (number == transaction->number && transaction->received)) {
        duplicated++;
        return false;
    }
    if (number > transaction->number || worker->master != master ||
        !transaction_is_request(transaction, kind, envelope)) {
        client_error(master, "received a message that was not sent to it");
        return false;
    }
    if (number < worker->received)
        reordered++;
    else
        worker->received = number;
    message_arrived();
    transaction->received = true;
    transaction->answer = ++worker->answered;
    return true;
}

static void take_request(struct client *master, enum kind kind, struct envelope *envelope,
                         uint64_t now)
{
    char lock_id[LOCK_DIGITS + 1], expires[LOCK_DIGITS + 1];
    uint32_t number;
    struct transaction *transaction = find_transaction(envelope->field[ID], &number);

    if (transaction == NULL)
        network.control++;
    else if (!accept_request(master, transaction, kind, number, envelope))
        return;
    if (kind == LOCK) {
        uint64_t granted = ++locks_granted[master->number - options.peers];

        if (transaction != NULL)
            transaction->locks[transaction->held].granted = granted;
        sprintf(lock_id, "%llu", (unsigned long long)granted);
        sprintf(expires, "%llu", (unsigned long long)(epoch_ms + now / 1000000 + LOCK_MS));
        envelope->field[LOCK_ID] = span_of(lock_id);
        envelope->field[EXPIRES] = span_of(expires);
    }
    send_to(master, envelope->field[WORKER], ENVELOPES[kind].answer, envelope);
}

static void take_answer(struct client *client, enum kind kind, const struct envelope *envelope,
                        uint64_t now)
{
    uint32_t number;
    struct transaction *transaction = find_transaction(envelope->field[ID], &number);
    struct worker *worker = &workers[client->number];

    if (transaction == NULL || transaction->worker != (unsigned)client->number ||
        number > transaction->number) {
        client_error(client, "received an answer that it has not asked for");
        return;
    }
    if (number < transaction->number || !transaction->awaited) {
        duplicated++;
        return;
    }
    if (!transaction_is_answer(transaction, kind, envelope)) {
        client_error(client, "received a wrong answer");
        return;
    }
    if (!transaction->received) {
        message_arrived(); /* the request, at the relay, which has answered in the master's place */
    } else {
        if (transaction->answer < worker->heard)
            reordered++;
        else
            worker->heard = transaction->answer;
    }
    message_arrived();
    exchange_completed(transaction->sent_at, now);
    transaction_advance(transaction, envelope);
    if (running && options.outstanding)
        send_in_turn(now);
    else if (running)
        send_message(worker, transaction, now);
}

static void take_text(struct client *client, const uint8_t *text, size_t length, uint64_t now)
{
    bool is_master = client->number >= options.peers;
    struct envelope envelope;

    for (enum kind kind = 0; kind < KINDS; kind++) {
        const char *pattern = is_master ? ENVELOPES[kind].request : ENVELOPES[kind].answer;

        if (length <= TYPE_AT || memcmp(text, pattern, TYPE_AT + 1) != 0)
            continue;
        if (length > MAX_FIXED + (size_t)options.size ||
            !envelope_read(pattern, &envelope, (const char *)text, length))
            client_error(client, "received a message that was not sent to it");
        else if (is_master)
            take_request(client, kind, &envelope, now);
        else
            take_answer(client, kind, &envelope, now);
        return;
    }
    network.control++;
}

/* ---- The workload ---- */

static void make_filler(void)
{
    struct envelope envelope = {0};
    size_t fixed;
    char *text;

    envelope.field[FILLER] = span_of("");
    envelope.field[ID] = envelope.field[WORKER] = span_of("client000000000000000000");
    fixed = envelope_write(ENVELOPES[EVENT].request, &envelope, scratch);

    if ((size_t)options.size < fixed)
        die("s must be at least %zu", fixed);
    filler.length = (size_t)options.size - fixed;
    filler.at = text = allocate(filler.length, 1);
    for (size_t i = 0; i < filler.length; i++)
        text[i] = (char)('a' + i * 7 % 26);
}

static void make_worker(unsigned number, struct client *master)
{
    struct worker *worker = &workers[number];

    worker->client = &clients[number];
    worker->master = master;
    worker->transactions = allocate(transactions_each, sizeof *worker->transactions);
    for (unsigned i = 0; i < transactions_each; i++) {
        worker->transactions[i].worker = number;
        worker->transactions[i].place = i;
        worker->transactions[i].worker_id = worker->client->id;
    }
}

void cluster_prepare(void)
{
    unsigned count = (unsigned)options.peers, databases = (unsigned)options.databases;
    struct timespec now;

    clock_gettime(CLOCK_REALTIME, &now);
    epoch_ms = (uint64_t)now.tv_sec * 1000 - now_ns() / 1000000;
    scratch = allocate(2 * MAX_FIXED + (size_t)options.size, 1);
    make_filler();
    transactions_each = (unsigned)(options.outstanding ? options.outstanding : options.depth);
    workers = allocate(count, sizeof *workers);
    locks_granted = allocate(databases, sizeof *locks_granted);
    network.on_text = take_text;
    make_clients(count + databases);
    for (unsigned i = 0; i < count + databases; i++) {
        bool is_master = i >= count;
        unsigned database = is_master ? i - count : i % databases;

        snprintf(clients[i].database, MAX_DATABASE, "bench%u_data", database);
        if (is_master)
            strcpy(clients[i].id, "[master]");
        else
            make_worker(i, &clients[count + database]);
    }
}

void cluster_start(uint64_t now)
{
    int outstanding = options.outstanding;

    if (outstanding == 0)
        outstanding = options.depth * options.peers;
    for (int i = 0; i < outstanding; i++)
        send_in_turn(now);
}

struct order cluster_order(void)
{
    struct order order = {0, duplicated, reordered};

    for (int i = 0; i < options.peers; i++)
        for (unsigned j = 0; j < transactions_each; j++)
            order.lost += workers[i].transactions[j].awaited;
    return order;
}
