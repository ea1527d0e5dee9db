/* Who sends what to whom. */
#ifndef WORKLOADS_H
#define WORKLOADS_H

#include "flow.h"

struct workload {
    const char *name;
    void (*prepare)(void);       /* make clients and flows */
    void (*start)(uint64_t now); /* put the first messages under way; NULL: connecting is all */
    /* A message has arrived for the first time. */
    void (*arrived)(struct flow *flow, uint32_t sequence, uint64_t now);
};

struct options {
    char *url;
    int pairs, window, size, peers, depth, outstanding, databases, at_once, per_database;
    int batch, anywhere, pid;
    double seconds, warm_up;
};

extern struct options options;
extern const struct workload *workload; /* the one that runs */

extern bool running;          /* messages that arrive are followed by new ones */
extern bool measuring;        /* what happens is counted in the following three */
extern uint64_t arrived;      /* messages */
extern uint64_t completed;    /* round trips, broadcasts or downloads */
extern struct histogram latencies;
extern uint64_t arrived_ever; /* messages, also while not measuring */

/* NULL if there is none of that name. */
const struct workload *workload_named(const char *name);

#endif
