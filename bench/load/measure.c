#include "measure.h"

#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

uint64_t now_ns(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

/* Below BUCKETS_PER_OCTAVE each nanosecond has a bucket, above that each value of the leading eight
 * bits. */
static unsigned bucket_of(uint64_t value)
{
    unsigned shift = 0;
    unsigned bucket;

    while (value >> shift >= 2 * BUCKETS_PER_OCTAVE)
        shift++;
    bucket = shift * BUCKETS_PER_OCTAVE + (unsigned)(value >> shift);
    return bucket < OCTAVES * BUCKETS_PER_OCTAVE ? bucket : OCTAVES * BUCKETS_PER_OCTAVE - 1;
}

static double middle_of(unsigned bucket)
{
    unsigned shift = bucket < 2 * BUCKETS_PER_OCTAVE ? 0 : bucket / BUCKETS_PER_OCTAVE - 1;
    uint64_t lowest = (uint64_t)(bucket - shift * BUCKETS_PER_OCTAVE) << shift;

    return (double)lowest + (double)((uint64_t)1 << shift) / 2;
}

void histogram_add(struct histogram *histogram, uint64_t nanoseconds)
{
    histogram->counts[bucket_of(nanoseconds)]++;
    histogram->total++;
}

double histogram_quantile_us(const struct histogram *histogram, double share)
{
    double wanted = share * (double)histogram->total;
    uint64_t passed = 0;

    for (unsigned i = 0; i < OCTAVES * BUCKETS_PER_OCTAVE; i++) {
        passed += histogram->counts[i];
        if (passed > 0 && (double)passed >= wanted)
            return middle_of(i) / 1e3;
    }
    return 0;
}

static uint64_t *word_of(struct tally *tally, uint32_t sequence)
{
    return &tally->seen[sequence % WINDOW / 64];
}

bool tally_receive(struct tally *tally, uint32_t sequence)
{
    uint64_t bit = (uint64_t)1 << sequence % 64;

    if (sequence >= tally->next) {
        uint32_t skipped = sequence - tally->next;

        tally->missing += skipped;
        if (skipped >= WINDOW)
            memset(tally->seen, 0, sizeof tally->seen);
        else
            for (uint32_t s = tally->next; s != sequence; s++)
                *word_of(tally, s) &= ~((uint64_t)1 << s % 64);
        tally->next = sequence + 1;
    } else if (tally->next - sequence > WINDOW || (*word_of(tally, sequence) & bit)) {
        tally->duplicated++;
        return false;
    } else {
        tally->reordered++;
        tally->missing--;
    }
    *word_of(tally, sequence) |= bit;
    return true;
}

struct cpu process_cpu(int pid)
{
    struct cpu cpu = {0, 0};
    char path[64], text[2048];
    unsigned long user = 0, system = 0;
    const char *after_name;
    size_t length;
    FILE *file;

    snprintf(path, sizeof path, "/proc/%d/stat", pid);
    if (pid == 0 || (file = fopen(path, "r")) == NULL)
        return cpu;
    length = fread(text, 1, sizeof text - 1, file);
    fclose(file);
    text[length] = '\0';
    after_name = strrchr(text, ')');
    if (after_name != NULL &&
        sscanf(after_name + 1, " %*c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %lu %lu", &user,
               &system) == 2) {
        double ticks = (double)sysconf(_SC_CLK_TCK);

        cpu.total = (double)(user + system) / ticks;
        cpu.system = (double)system / ticks;
    }
    return cpu;
}

long process_rss_kb(int pid)
{
    char path[64], line[256];
    long kb = 0;
    FILE *file;

    snprintf(path, sizeof path, "/proc/%d/status", pid);
    if (pid == 0 || (file = fopen(path, "r")) == NULL)
        return 0;
    while (fgets(line, sizeof line, file) != NULL)
        if (sscanf(line, "VmRSS: %ld", &kb) == 1)
            break;
    fclose(file);
    return kb;
}

double own_cpu(void)
{
    struct rusage usage;

    getrusage(RUSAGE_SELF, &usage);
    return (double)(usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) +
           (double)(usage.ru_utime.tv_usec + usage.ru_stime.tv_usec) / 1e6;
}
