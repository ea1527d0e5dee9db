#define _GNU_SOURCE
#include "transaction.h"

#include "flow.h"

#include <stdlib.h>
#include <string.h>

enum {
    PREFIX = 5, /* of an id; the rest are the numbers of a worker, a transaction, and a message */
    WORKER_DIGITS = 5,
    PLACE_DIGITS = 3,
    NUMBER_DIGITS = ID_LENGTH - PREFIX - WORKER_DIGITS - PLACE_DIGITS,
};

static const char REQUEST_PREFIX[] = "bench", TID_PREFIX[] = "trans";

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

struct span filler;

/* ---- Ids ---- */

static void write_id(char *id, const char *prefix, const struct transaction *transaction,
                     uint32_t number)
{
    uint8_t *at = mempcpy(id, prefix, PREFIX);

    write_number(at, WORKER_DIGITS, transaction->worker);
    at += WORKER_DIGITS;
    write_number(at, PLACE_DIGITS, transaction->place);
    write_number(at + PLACE_DIGITS, NUMBER_DIGITS, number);
}

bool request_id_read(struct span id, struct request_id *found)
{
    const uint8_t *at = (const uint8_t *)id.at + PREFIX;

    return id.length == ID_LENGTH && memcmp(id.at, REQUEST_PREFIX, PREFIX) == 0 &&
           read_number(at, WORKER_DIGITS, &found->worker) &&
           read_number(at + WORKER_DIGITS, PLACE_DIGITS, &found->place) &&
           read_number(at + WORKER_DIGITS + PLACE_DIGITS, NUMBER_DIGITS, &found->number);
}

/* ---- Steps ---- */

enum kind transaction_kind(const struct transaction *transaction)
{
    return SCRIPT[transaction->step].kind;
}

void transaction_begin_message(struct transaction *transaction, uint32_t number, uint64_t now)
{
    if (transaction->step == 0)
        write_id(transaction->tid, TID_PREFIX, transaction, ++transaction->begun);
    write_id(transaction->id, REQUEST_PREFIX, transaction, number);
    transaction->number = number;
    transaction->sent_at = now;
    transaction->awaited = true;
    transaction->received = false;
}

struct envelope transaction_message(const struct transaction *transaction)
{
    const struct step *step = &SCRIPT[transaction->step];
    struct envelope message = {0};

    message.field[ID] = (struct span){transaction->id, ID_LENGTH};
    message.field[WORKER] = span_of(transaction->worker_id);
    if (step->kind == LOCK) {
        message.field[PATH] = span_of(step->path);
        message.field[TID] = (struct span){transaction->tid, ID_LENGTH};
        message.field[WRITE] = span_of(step->write);
        message.field[COMMENT] = span_of(step->comment);
    } else if (step->kind == UNLOCK) {
        message.field[LOCK_ID].at = transaction->locks[transaction->held - 1].digits;
        message.field[LOCK_ID].length = transaction->locks[transaction->held - 1].length;
    } else if (step->kind == EVENT) {
        message.field[FILLER] = filler;
    }
    return message;
}

/* Whether all fields of the present message are in another one. */
static bool has_fields(const struct transaction *transaction, enum kind kind,
                       const struct envelope *received)
{
    struct envelope message;

    if (kind != transaction_kind(transaction))
        return false;
    message = transaction_message(transaction);
    for (int i = 0; i < FIELDS; i++)
        if (message.field[i].at != NULL && !span_equal(message.field[i], received->field[i]))
            return false;
    return true;
}

bool transaction_is_request(const struct transaction *transaction, enum kind kind,
                            const struct envelope *received)
{
    return has_fields(transaction, kind, received) &&
           (kind != UNLOCK || strtoull(received->field[LOCK_ID].at, NULL, 10) ==
                                  transaction->locks[transaction->held - 1].granted);
}

bool transaction_is_answer(const struct transaction *transaction, enum kind kind,
                           const struct envelope *received)
{
    return has_fields(transaction, kind, received) &&
           (kind != LOCK || received->field[LOCK_ID].length <= LOCK_DIGITS);
}

void transaction_advance(struct transaction *transaction, const struct envelope *answer)
{
    enum kind kind = transaction_kind(transaction);

    if (kind == LOCK) {
        struct span lock_id = answer->field[LOCK_ID];

        memcpy(transaction->locks[transaction->held].digits, lock_id.at, lock_id.length);
        transaction->locks[transaction->held++].length = lock_id.length;
    } else if (kind == UNLOCK) {
        transaction->held--;
    }
    transaction->awaited = false;
    transaction->step = (transaction->step + 1) % STEPS;
}
