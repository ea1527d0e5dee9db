/* Numbered messages from one peer to another, and their recognition on arrival. */
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
    struct client *over; /* the connection to send on */
    uint8_t *body;     /* as it arrives, except for the sequence number */
    size_t body_length;
    uint8_t *wire; /* as it is sent, except for the sequence number */
    size_t wire_length;
    size_t sequence_at; /* in `wire` */
    uint8_t mask[SEQUENCE_DIGITS];
    uint32_t sent;
    uint64_t sent_at[WINDOW];
    uint32_t arrivals[WINDOW]; /* number of receivers that have it; for broadcasts */
};

extern struct client *clients;
extern unsigned client_count;
extern struct flow *flows;
extern unsigned flow_count;
extern struct tally *tallies; /* one for each flow; for a broadcast flow, one for each receiver */
extern unsigned tally_count;

/* Decimal numbers with leading zeros. read_number returns false if there is anything but digits. */
void write_number(uint8_t *digits, unsigned count, uint32_t number);
bool read_number(const uint8_t *digits, unsigned count, uint32_t *number);

void make_clients(unsigned count);
void make_flows(unsigned count, unsigned receivers);

/* Prepare a flow of text frames with bodies of `size` bytes; `to` is NULL for a broadcast. */
void flow_of_frames(struct flow *flow, struct client *from, struct client *to, size_t size);

/* Prepare a flow of POST requests over the HTTP connection `over`. */
void flow_of_posts(struct flow *flow, struct client *from, struct client *to, struct client *over,
                   size_t size);

/* Send the next message of a flow. */
void flow_send(struct flow *flow, uint64_t now);

/* Record a body that `client` has received. Returns its flow, and its sequence number; NULL for a
 * duplicate, and NULL with an error counted if any byte is wrong. */
struct flow *flow_receive(struct client *client, const uint8_t *body, size_t length,
                          uint32_t *sequence);

/* Delivery faults, summed over all flows. Valid when no message is under way. */
struct order {
    uint64_t lost, duplicated, reordered;
};
struct order flows_order(void);

#endif
