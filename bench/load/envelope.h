/* Envelopes, byte for byte as the npm package acebase writes them. */
#ifndef ENVELOPE_H
#define ENVELOPE_H

#include <stdbool.h>
#include <stddef.h>

struct span {
    const char *at;
    size_t length;
};

/* Fields and, in a pattern, the letter that follows the percent sign. */
#define FIELD_LETTERS "iwptbclex"
enum field {
    ID,      /* i: of a request */
    WORKER,  /* w: id of the worker that asks, or that is answered */
    PATH,    /* p */
    TID,     /* t: id of a transaction */
    WRITE,   /* b: true or false */
    COMMENT, /* c */
    LOCK_ID, /* l */
    EXPIRES, /* e: ms since 1970 */
    FILLER,  /* x */
    FIELDS,
};

struct envelope {
    struct span field[FIELDS]; /* strings without quotes, as they are on the wire */
};

/* What a worker sends, and what the master answers. */
enum kind { LOCK, UNLOCK, REQUEST, EVENT, KINDS };

struct patterns {
    const char *request, *answer;
};
extern const struct patterns ENVELOPES[KINDS];

enum { TYPE_AT = 9 }; /* in an envelope; the types above differ in their first letter */

struct span span_of(const char *text);
bool span_equal(struct span one, struct span two);

/* Write a pattern and its fields; returns the length. */
size_t envelope_write(const char *pattern, const struct envelope *envelope, char *text);

/* Let the pattern's fields refer to their places in `text`. Returns false if `text` is anything
 * else than the pattern with fields. */
bool envelope_read(const char *pattern, struct envelope *envelope, const char *text,
                   size_t length);

#endif
