#define _GNU_SOURCE
#include "cluster.h"

#include "envelope.h"
#include "wire.h"
#include "workloads.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum {
    ID_LENGTH = 24,
    PREFIX = 5, /* of an id; the rest are the numbers of a worker, a transaction, and a message */
    WORKER_DIGITS = 5,
    TRANSACTION_DIGITS = 3,
    NUMBER_DIGITS = ID_LENGTH - PREFIX - WORKER_DIGITS - TRANSACTION_DIGITS,
    MAX_HELD = 3, /* locks of a transaction at a time */
    LOCK_DIGITS = 20,
    LOCK_MS = 120000, /* the time after which AceBase lets a lock expire */
    MAX_FIXED = 512,  /* bytes of a request without filler; an answer has less than twice that */
};

static const char OWN[] = "bench"; /* the requests of these workers; a relay may have its own */

/* A transaction: 6 locks, nested and with the comments of a set() of AceBase 1.29, their releases,
 * 4 requests and 4 events; each is answered before the next is sent. */
static const struct step {
    enum kind kind;
    const char *path, *write, *comment;
} SCRIPT[] = {
    {LOCK, "list", "true", "_updateNode"},
    {LOCK, "list", "false", "storage.getNodeInfo \\\"/list\\\""},
    {.kind = UNLOCK},
    {LOCK, "", "false", "storage.getNodeInfo \\\"/\\\""},
    {.kind = UNLOCK},
    {LOCK, "", "true", "_updateNode"},
    {LOCK, "list", "true", "_lockAndWrite"},
    {.kind = REQUEST},
    {.kind = REQUEST},
    {.kind = EVENT},
    {.kind = UNLOCK},
    {LOCK, "list/a", "true", "_lockAndWrite"},
    {.kind = REQUEST},
    {.kind = REQUEST},
    {.kind = EVENT},
    {.kind = UNLOCK},
    {.kind = UNLOCK},
    {.kind = UNLOCK},
    {.kind = EVENT},
    {.kind = EVENT},
};
enum { STEPS = sizeof SCRIPT / sizeof *SCRIPT };

struct transaction {
    uint32_t begun; /* number of transactions begun here, one after the other */
    char tid[ID_LENGTH];
    unsigned step; /* the one whose answer is awaited, or the next */
    struct {
        char digits[LOCK_DIGITS];
        size_t length;
        uint64_t granted; /* the id that the master gave */
    } locks[MAX_HELD];
    unsigned held;

    /* The message whose answer is awaited. */
    bool awaited;
    uint32_t number;
    char id[ID_LENGTH];
    uint64_t sent_at;
    bool received;   /* by the master */
    uint32_t answer; /* counts the master's answers to this worker */
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
static unsigned next_worker;   /* the next one to send a message, in rotation */
static uint64_t *locks_granted; /* by each master */
static struct span filler;
static uint64_t epoch_ms; /* ms since 1970 when the monotonic clock was zero */
static uint64_t duplicated, reordered;
static char *scratch;

/* ---- Ids ---- */

static struct span write_id(char *id, const char *prefix, const struct worker *worker,
                            const struct transaction *transaction, uint32_t number)
{
    uint8_t *at = mempcpy(id, prefix, PREFIX);

    write_number(at, WORKER_DIGITS, (uint32_t)(worker - workers));
    at += WORKER_DIGITS;
    write_number(at, TRANSACTION_DIGITS, (uint32_t)(transaction - worker->transactions));
    write_number(at + TRANSACTION_DIGITS, NUMBER_DIGITS, number);
    return (struct span){id, ID_LENGTH};
}

/* Find what an id belongs to; returns false if it is not one of these workers'. */
static bool find_id(struct span id, struct worker **worker, struct transaction **transaction,
                    uint32_t *number)
{
    const uint8_t *at = (const uint8_t *)id.at + PREFIX;
    uint32_t worker_number, place;

    if (id.length != ID_LENGTH || memcmp(id.at, OWN, PREFIX) != 0 ||
        !read_number(at, WORKER_DIGITS, &worker_number) ||
        !read_number(at + WORKER_DIGITS, TRANSACTION_DIGITS, &place) ||
        !read_number(at + WORKER_DIGITS + TRANSACTION_DIGITS, NUMBER_DIGITS, number) ||
        worker_number >= (uint32_t)options.peers || place >= transactions_each)
        return false;
    *worker = &workers[worker_number];
    *transaction = &(*worker)->transactions[place];
    return true;
}

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

/* The fields of a transaction's present message. */
static struct envelope expected(const struct worker *worker, const struct transaction *transaction)
{
    const struct step *step = &SCRIPT[transaction->step];
    struct envelope envelope = {0};

    envelope.field[ID] = (struct span){transaction->id, ID_LENGTH};
    envelope.field[WORKER] = span_of(worker->client->id);
    if (step->kind == LOCK) {
        envelope.field[PATH] = span_of(step->path);
        envelope.field[TID] = (struct span){transaction->tid, ID_LENGTH};
        envelope.field[WRITE] = span_of(step->write);
        envelope.field[COMMENT] = span_of(step->comment);
    } else if (step->kind == UNLOCK) {
        envelope.field[LOCK_ID].at = transaction->locks[transaction->held - 1].digits;
        envelope.field[LOCK_ID].length = transaction->locks[transaction->held - 1].length;
    } else if (step->kind == EVENT) {
        envelope.field[FILLER] = filler;
    }
    return envelope;
}

static void send_step(struct worker *worker, struct transaction *transaction, uint64_t now)
{
    struct envelope envelope;

    if (transaction->step == 0)
        write_id(transaction->tid, "trans", worker, transaction, ++transaction->begun);
    transaction->number = ++worker->sent;
    write_id(transaction->id, OWN, worker, transaction, transaction->number);
    transaction->awaited = true;
    transaction->received = false;
    transaction->sent_at = now;
    envelope = expected(worker, transaction);
    send_to(worker->client, span_of(worker->master->id),
            ENVELOPES[SCRIPT[transaction->step].kind].request, &envelope);
}

/* Let the next worker go on with a transaction that waits for nothing. */
static void send_in_turn(uint64_t now)
{
    struct worker *worker = &workers[next_worker];
    struct transaction *transaction = worker->transactions;

    while (transaction->awaited)
        transaction++;
    send_step(worker, transaction, now);
    next_worker = (next_worker + 1) % (unsigned)options.peers;
}

/* ---- Receiving ---- */

/* Check what the master has received from a worker; returns whether to answer it. */
static bool accept_request(struct worker *worker, struct transaction *transaction, enum kind kind,
                           uint32_t number, const struct envelope *envelope)
{
    if (number < transaction->number || (number == transaction->number && transaction->received)) {
        duplicated++;
        return false;
    }
    if (number > transaction->number || kind != SCRIPT[transaction->step].kind ||
        !span_equal(envelope->field[WORKER], span_of(worker->client->id)) ||
        (kind == EVENT && !span_equal(envelope->field[FILLER], filler)) ||
        (kind == UNLOCK && strtoull(envelope->field[LOCK_ID].at, NULL, 10) !=
                               transaction->locks[transaction->held - 1].granted)) {
        client_error(worker->master, "received a message that was not sent to it");
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
    struct transaction *transaction = NULL;
    struct worker *worker;
    uint32_t number;

    if (!find_id(envelope->field[ID], &worker, &transaction, &number))
        network.control++;
    else if (worker->master != master)
        client_error(master, "received a message of another database");
    else if (!accept_request(worker, transaction, kind, number, envelope))
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

/* Whether the fields of an answer are those of the request. */
static bool is_answer(const struct worker *worker, const struct transaction *transaction,
                      enum kind kind, const struct envelope *envelope)
{
    struct envelope request;

    if (kind != SCRIPT[transaction->step].kind)
        return false;
    request = expected(worker, transaction);
    for (int i = 0; i < FIELDS; i++)
        if (request.field[i].at != NULL && !span_equal(request.field[i], envelope->field[i]))
            return false;
    return kind != LOCK || envelope->field[LOCK_ID].length <= LOCK_DIGITS;
}

static void finish_step(struct transaction *transaction, enum kind kind, struct span lock_id)
{
    transaction->awaited = false;
    transaction->step = (transaction->step + 1) % STEPS;
    if (kind == LOCK) {
        memcpy(transaction->locks[transaction->held].digits, lock_id.at, lock_id.length);
        transaction->locks[transaction->held++].length = lock_id.length;
    } else if (kind == UNLOCK) {
        transaction->held--;
    }
}

static void take_answer(struct client *client, enum kind kind, const struct envelope *envelope,
                        uint64_t now)
{
    struct transaction *transaction;
    struct worker *worker;
    uint32_t number;

    if (!find_id(envelope->field[ID], &worker, &transaction, &number) || worker->client != client ||
        number > transaction->number) {
        client_error(client, "received an answer that it has not asked for");
        return;
    }
    if (number < transaction->number || !transaction->awaited) {
        duplicated++;
        return;
    }
    if (!is_answer(worker, transaction, kind, envelope)) {
        client_error(client, "received a wrong answer");
        return;
    }
    if (transaction->received) { /* else the relay has answered in the master's place */
        if (transaction->answer < worker->heard)
            reordered++;
        else
            worker->heard = transaction->answer;
    }
    message_arrived();
    exchange_completed(transaction->sent_at, now);
    finish_step(transaction, kind, envelope->field[LOCK_ID]);
    if (running && options.outstanding)
        send_in_turn(now);
    else if (running)
        send_step(worker, transaction, now);
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
        if (is_master) {
            strcpy(clients[i].id, "[master]");
            continue;
        }
        workers[i].client = &clients[i];
        workers[i].master = &clients[count + database];
        workers[i].transactions = allocate(transactions_each, sizeof *workers[i].transactions);
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
