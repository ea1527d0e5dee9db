/* The workloads: which peers send which messages to which others. */
#ifndef WORKLOADS_H
#define WORKLOADS_H

#include "flow.h"

#define SECOND UINT64_C(1000000000)

struct workload {
    const char *name;
    void (*prepare)(void);       /* make clients and flows */
    void (*start)(uint64_t now); /* send the first messages; NULL: only connect */
    void (*turn)(uint64_t now);  /* send what is due, as often as possible; may be NULL */
    /* A message of a flow has arrived for the first time. */
    void (*arrived)(struct flow *flow, uint32_t sequence, uint64_t now);
    struct order (*order)(void); /* delivery faults, when no message is under way */
};

struct options {
    char *url;
    int pairs, window, size, peers, depth, outstanding, databases, at_once, per_database, rate;
    int batch, anywhere, pid;
    double seconds, warm_up;
};

extern struct options options;
extern const struct workload *workload; /* the one that was chosen */

extern bool running;          /* send a new message for each that arrives */
extern bool measuring;        /* count in the following three */
extern uint64_t arrived;      /* messages */
extern uint64_t completed;    /* round trips, broadcasts or downloads */
extern struct histogram latencies;
extern uint64_t arrived_ever; /* messages, also while `measuring` is false */

/* Count a message that has arrived for the first time. */
void message_arrived(void);

/* Count a round trip, broadcast or download that began with a message sent at `sent_at`. */
void exchange_completed(uint64_t sent_at, uint64_t now);

/* Return the workload of that name, or NULL. */
const struct workload *workload_named(const char *name);

#endif
