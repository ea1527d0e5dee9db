/* Measurements of the load generator: time, latencies, order, processes. */
#ifndef MEASURE_H
#define MEASURE_H

#include <stdbool.h>
#include <stdint.h>

/* Monotonic nanoseconds. */
uint64_t now_ns(void);

/* Latencies, in buckets with a width of at most 1/128 of their value. */
enum { BUCKETS_PER_OCTAVE = 128, OCTAVES = 40 };

struct histogram {
    uint64_t total;
    uint64_t counts[OCTAVES * BUCKETS_PER_OCTAVE];
};

void histogram_add(struct histogram *histogram, uint64_t nanoseconds);

/* A quantile of the latencies, in microseconds; 0 if there are none. */
double histogram_quantile_us(const struct histogram *histogram, double share);

/* The sequence numbers that one receiver has received from one sender. Only the last WINDOW are
 * stored one by one, so no more may be under way. */
enum { WINDOW = 256 };

struct tally {
    uint32_t next;    /* one more than the highest number received */
    uint32_t missing; /* numbers below it that were not received */
    uint32_t duplicated;
    uint32_t reordered; /* received after a higher number */
    uint64_t seen[WINDOW / 64];
};

/* Record a number; returns false if it is a duplicate. */
bool tally_receive(struct tally *tally, uint32_t sequence);

/* CPU time in seconds. */
struct cpu {
    double total;
    double system;
};

/* CPU time and resident memory of a process on this machine; zero if it is unknown (pid 0). */
struct cpu process_cpu(int pid);
long process_rss_kb(int pid);
double own_cpu(void);

#endif
