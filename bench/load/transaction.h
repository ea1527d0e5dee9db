/* A worker's transactions as the messages that it sends to the master, one after the other. */
#ifndef TRANSACTION_H
#define TRANSACTION_H

#include "envelope.h"

#include <stdint.h>

enum {
    ID_LENGTH = 24,
    LOCK_DIGITS = 20, /* at most */
    MAX_HELD = 3,     /* locks of a transaction at a time */
};

struct transaction {
    unsigned worker, place; /* number of the worker, and of the transaction among its own */
    const char *worker_id;
    uint32_t begun; /* transactions that were begun in this place, one after the other */
    char tid[ID_LENGTH];
    unsigned step; /* the one whose answer is awaited, or the next */
    struct {
        char digits[LOCK_DIGITS]; /* the id as the worker has received it */
        size_t length;
        uint64_t granted; /* the id as the master has given it */
    } locks[MAX_HELD];
    unsigned held;

    /* The message whose answer is awaited. */
    bool awaited;
    uint32_t number; /* among those of the worker */
    char id[ID_LENGTH];
    uint64_t sent_at;
    bool received;   /* by the master */
    uint32_t answer; /* number of the answer among those to the worker */
};

extern struct span filler; /* of events */

/* What the present or next message is. */
enum kind transaction_kind(const struct transaction *transaction);

/* Begin the next message; `number` is its number among those of the worker. */
void transaction_begin_message(struct transaction *transaction, uint32_t number, uint64_t now);

/* The fields of the present message; those that it does not have are NULL. */
struct envelope transaction_message(const struct transaction *transaction);

/* Whether the master has received the present message, of that kind, as it was sent. */
bool transaction_is_request(const struct transaction *transaction, enum kind kind,
                            const struct envelope *received);

/* Whether the worker has received an answer to the present message. */
bool transaction_is_answer(const struct transaction *transaction, enum kind kind,
                           const struct envelope *received);

/* Take the answer to the present message. */
void transaction_advance(struct transaction *transaction, const struct envelope *answer);

/* What is in the id of a request. */
struct request_id {
    uint32_t worker, place, number;
};

/* Returns false for an id that is not of a message of these transactions. */
bool request_id_read(struct span id, struct request_id *found);

#endif
