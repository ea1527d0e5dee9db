/* What the load generator measures: time, latencies, order, processes. */
#ifndef MEASURE_H
#define MEASURE_H

#include <stdbool.h>
#include <stdint.h>

/* Nanoseconds of a clock that never jumps. */
uint64_t now_ns(void);

/* Latencies in buckets that are at most 1/128 of their value wide. */
enum { BUCKETS_PER_OCTAVE = 128, OCTAVES = 40 };

struct histogram {
    uint64_t total;
    uint64_t counts[OCTAVES * BUCKETS_PER_OCTAVE];
};

void histogram_add(struct histogram *histogram, uint64_t nanoseconds);

/* The latency in microseconds that the given share of all stays below; 0 if there is none. */
double histogram_quantile_us(const struct histogram *histogram, double share);

/* The sequence numbers that one receiver has seen of one sender. The last WINDOW of them are
 * remembered one by one: more must never be under way. */
enum { WINDOW = 256 };

struct tally {
    uint32_t next;    /* one more than the highest number seen */
    uint32_t missing; /* numbers below it that have not come */
    uint32_t duplicated;
    uint32_t reordered; /* came after a higher number */
    uint64_t seen[WINDOW / 64];
};

/* Take down a number; false if it has come before. */
bool tally_receive(struct tally *tally, uint32_t sequence);

/* CPU time in seconds. */
struct cpu {
    double total;
    double system;
};

/* What a process of this machine has used so far; zero if it is unknown (pid 0). */
struct cpu process_cpu(int pid);
long process_rss_kb(int pid);
double own_cpu(void);

#endif
