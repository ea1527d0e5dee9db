/* Messages from one peer to another, numbered, and how they are recognised when they arrive. */
#ifndef FLOW_H
#define FLOW_H

#include "client.h"
#include "measure.h"

/* {"type":"notification","s":"<sequence>","f":"<flow>","from":"<id>","x":"<filler>"} */
#define BODY_HEAD "{\"type\":\"notification\",\"s\":\""
enum {
    SEQUENCE_DIGITS = 10,
    FLOW_DIGITS = 6,
    SEQUENCE_AT = sizeof BODY_HEAD - 1,
    FLOW_AT = SEQUENCE_AT + SEQUENCE_DIGITS + 7,
    MIN_BODY = 112, /* with an id of 24 characters */
};

struct flow {
    struct client *from;
    struct client *to; /* NULL: all others */
    struct client *over; /* the connection it is sent on */
    uint8_t *body;     /* as it arrives, but for the sequence number */
    size_t body_length;
    uint8_t *wire; /* as it is sent, but for the sequence number */
    size_t wire_length;
    size_t sequence_at; /* in `wire` */
    uint8_t mask[SEQUENCE_DIGITS];
    uint32_t sent;
    uint64_t sent_at[WINDOW];
    uint32_t arrivals[WINDOW]; /* at how many receivers; for broadcasts */
};

extern struct client *clients;
extern unsigned client_count;
extern struct flow *flows;
extern unsigned flow_count;
extern struct tally *tallies; /* of each flow; of the one broadcast flow: of each receiver */
extern unsigned tally_count;

void make_clients(unsigned count);
void make_flows(unsigned count, unsigned receivers);

/* A flow of text frames with bodies of `size` bytes; `to` is NULL for a broadcast. */
void flow_of_frames(struct flow *flow, struct client *from, struct client *to, size_t size);

/* A flow of POST requests over the HTTP connection `over`. */
void flow_of_posts(struct flow *flow, struct client *from, struct client *to, struct client *over,
                   size_t size);

/* Send the next message of a flow. */
void flow_send(struct flow *flow, uint64_t now);

/* The flow that a body received by `client` is of, and its sequence number, which is taken down;
 * NULL if it has come before, or if any byte of it is wrong, which is an error. */
struct flow *flow_receive(struct client *client, const uint8_t *body, size_t length,
                          uint32_t *sequence);

/* What has gone wrong in all flows together, provided that nothing is under way any more. */
struct order {
    uint64_t lost, duplicated, reordered;
};
struct order flows_order(void);

#endif
