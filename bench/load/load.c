/* Puts a relay under load, one process and one thread, and prints one line of JSON.
 *
 *     cc -O2 -o load *.c                              # plain TCP only
 *     cc -O2 -DWITH_TLS -o load *.c -lssl -lcrypto    # with TLS
 *     ./load pairs url=ws://127.0.0.1:9163 k=10 w=8 s=200 pid=1234
 *
 * Workloads, and what is measured:
 *     pairs    k pairs of peers, A -> B: w messages of each pair are under way
 *     steady   k pairs, A -> B: `rate` messages a second of all pairs together, however late others
 *              arrive
 *     rtt      the same, and B answers: k round trips at a time
 *     fanout   one peer broadcasts to n others, w broadcasts under way
 *     mixed    an AceBase cluster: n workers ask the [master] of their database for locks, release
 *              them, send it requests and events, and it answers each; d messages of each worker
 *              are under way, or with o=... that many of all workers together, in turn; the workers
 *              are spread over `databases`
 *     post     k pairs, A -> B: A POSTs a message of s bytes, B is told to download it
 *     conns    n peers connect, c at a time, `perdb` to a database, and are idle
 *
 * Further options: s= bytes of a body (mixed: of an event); secs= and warm= seconds measured and
 * not measured before; batch=0 for one write per frame, as Node's ws does it; token=; pid= of the
 * server, if it runs on this machine, for its CPU time and memory; anywhere=1 to allow another
 * machine.
 *
 * All loops but that of steady are closed: a message is sent when an earlier one has arrived. Each message has the
 * number of its flow (a sender and a receiver) and a sequence number, in mixed as part of the id of
 * the request; every byte is checked on arrival.
 * The exit status is 0 if nothing was lost, duplicated, reordered or broken. */
#define _GNU_SOURCE
#include "workloads.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum {
    CONNECT_SECONDS = 120,
    QUIET_MS = 200,      /* silence that is required before the load begins */
    SETTLE_SECONDS = 30, /* deadline for that silence */
    DRAIN_SECONDS = 1,   /* silence after which messages under way count as lost */
    MAX_CLIENTS = 100000,
    /* A server that does not respond must not stop the generator from ending. */
    DEADLINE_SECONDS = CONNECT_SECONDS + SETTLE_SECONDS + DRAIN_SECONDS + 30,
};

static const struct {
    const char *name;
    int *value;
} NUMBERS[] = {
    {"k", &options.pairs},
    {"w", &options.window},
    {"s", &options.size},
    {"n", &options.peers},
    {"d", &options.depth},
    {"o", &options.outstanding},
    {"databases", &options.databases},
    {"c", &options.at_once},
    {"perdb", &options.per_database},
    {"rate", &options.rate},
    {"batch", &options.batch},
    {"anywhere", &options.anywhere},
    {"pid", &options.pid},
};

static void read_option(char *option)
{
    char *value = strchr(option, '=');

    if (value == NULL)
        die("not of the form NAME=VALUE: %s", option);
    *value++ = '\0';
    if (strcmp(option, "url") == 0) {
        options.url = value;
        return;
    }
    if (strcmp(option, "token") == 0) {
        server.token = value;
        return;
    }
    if (strcmp(option, "secs") == 0) {
        options.seconds = atof(value);
        return;
    }
    if (strcmp(option, "warm") == 0) {
        options.warm_up = atof(value);
        return;
    }
    for (size_t i = 0; i < sizeof NUMBERS / sizeof *NUMBERS; i++)
        if (strcmp(option, NUMBERS[i].name) == 0) {
            *NUMBERS[i].value = atoi(value);
            return;
        }
    die("unknown option: %s", option);
}

static void read_arguments(int count, char **arguments)
{
    if (count < 2)
        die("usage: load WORKLOAD url=ws://127.0.0.1:PORT [NAME=VALUE]...");
    workload = workload_named(arguments[1]);
    if (workload == NULL)
        die("unknown workload: %s", arguments[1]);
    for (int i = 2; i < count; i++)
        read_option(arguments[i]);
    if (options.url == NULL)
        die("the server is missing: url=ws://127.0.0.1:PORT");
    if (options.size < MIN_BODY)
        die("s must be at least %d", MIN_BODY);
    if (options.pairs < 1 || options.peers < 1 || options.window < 1 || options.depth < 1 ||
        options.databases < 1 || options.at_once < 1 || options.per_database < 1 ||
        options.rate < 1)
        die("all numbers must be positive");
    if (options.pairs + options.peers + options.databases > MAX_CLIENTS)
        die("at most %d peers", MAX_CLIENTS);
    if (options.databases > options.peers)
        die("every database needs a worker");
    if (options.window > WINDOW || options.depth > WINDOW || options.outstanding > WINDOW)
        die("at most %d messages of a peer may be under way", WINDOW);
}

static void connect_all(void)
{
    uint64_t deadline = now_ns() + CONNECT_SECONDS * SECOND;
    unsigned started = 0;

    while (network.opened < client_count) {
        while (started < client_count && started - network.opened < (unsigned)options.at_once)
            client_connect(&clients[started++]);
        network_turn(100);
        if (network.errors)
            die("errors while connecting");
        if (now_ns() > deadline)
            die("%u of %u connected in time", network.opened, client_count);
    }
}

/* Wait until every peer has been told of every other. */
static void wait_for_quiet(void)
{
    uint64_t now = now_ns(), deadline = now + SETTLE_SECONDS * SECOND, quiet_since = now;
    uint64_t heard = network.control;

    while (now < deadline && now - quiet_since < QUIET_MS * UINT64_C(1000000)) {
        network_turn(QUIET_MS / 4);
        now = now_ns();
        if (network.control != heard)
            quiet_since = now;
        heard = network.control;
    }
}

/* Send what is due, and receive for up to so many milliseconds, or not at all if there is more. */
static void turn(int timeout, uint64_t now)
{
    if (workload->turn != NULL)
        workload->turn(now);
    network_turn(workload->turn != NULL && running ? 0 : timeout);
}

/* Run for so long; returns false if nothing has arrived for a second. */
static bool run_for(double seconds)
{
    uint64_t now = now_ns(), end = now + (uint64_t)(seconds * 1e9), checked = now;
    uint64_t before = arrived_ever;

    while ((now = now_ns()) < end) {
        uint64_t left = (end - now) / 1000000;

        turn(left < 20 ? (int)left : 20, now);
        if (now - checked > SECOND) {
            if (arrived_ever == before)
                return false;
            before = arrived_ever;
            checked = now;
        }
    }
    return true;
}

/* Wait for the messages under way. */
static struct order drain(void)
{
    uint64_t before = arrived_ever, last = now_ns();

    running = false;
    do {
        network_turn(10);
        if (arrived_ever != before)
            last = now_ns();
        before = arrived_ever;
    } while (workload->order().lost > 0 && now_ns() - last < DRAIN_SECONDS * SECOND);
    network_turn(10); /* for a duplicate that may follow */
    return workload->order();
}

static void part(void)
{
    for (unsigned i = 0; i < client_count; i++)
        client_close(&clients[i]);
    network_turn(0);
}

static void print_common(const char *unit, double count, double seconds, struct cpu used,
                         double own)
{
    double each = count > 0 ? 1e6 / count : 0;

    printf("{\"workload\": \"%s\", \"unit\": \"%s\", \"seconds\": %.3f, \"per_second\": %.1f, "
           "\"server_us\": %.3f, \"server_system_us\": %.3f, \"server_cpu\": %.3f, "
           "\"generator_cpu\": %.3f, \"p50_us\": %.1f, \"p99_us\": %.1f, \"p999_us\": %.1f, "
           "\"connections\": %u, \"control\": %llu, \"errors\": %llu, ",
           workload->name, unit, seconds, count / seconds, used.total * each, used.system * each,
           used.total / seconds, own / seconds, histogram_quantile_us(&latencies, 0.5),
           histogram_quantile_us(&latencies, 0.99), histogram_quantile_us(&latencies, 0.999),
           client_count, (unsigned long long)network.control, (unsigned long long)network.errors);
}

static struct cpu cpu_since(struct cpu before)
{
    struct cpu now = process_cpu(options.pid);

    return (struct cpu){now.total - before.total, now.system - before.system};
}

/* Measure connecting. */
static bool run_connections(void)
{
    long rss_before = process_rss_kb(options.pid), rss;
    struct cpu before = process_cpu(options.pid), used;
    double own_before = own_cpu(), own, seconds;
    uint64_t began = now_ns();

    connect_all();
    seconds = (double)(now_ns() - began) / 1e9;
    used = cpu_since(before);
    own = own_cpu() - own_before;
    wait_for_quiet();
    rss = process_rss_kb(options.pid);
    print_common("connections", client_count, seconds, used, own);
    printf("\"rss_kb\": %ld, \"rss_per_connection\": %.0f}\n", rss,
           (double)(rss - rss_before) * 1024 / client_count);
    return network.errors == 0;
}

static bool run_messages(void)
{
    struct cpu before, used;
    double own_before, own, seconds;
    struct order order;
    uint64_t began;
    bool flowing;

    connect_all();
    wait_for_quiet();
    running = true;
    workload->start(now_ns());
    flowing = run_for(options.warm_up);

    before = process_cpu(options.pid);
    own_before = own_cpu();
    began = now_ns();
    measuring = true;
    flowing = flowing && run_for(options.seconds) && arrived > 0;
    measuring = false;
    seconds = (double)(now_ns() - began) / 1e9;
    used = cpu_since(before);
    own = own_cpu() - own_before;

    order = drain();
    print_common("messages", (double)arrived, seconds, used, own);
    printf("\"completed_per_second\": %.1f, \"rss_kb\": %ld, \"lost\": %llu, \"duplicated\": %llu, "
           "\"reordered\": %llu, \"stalled\": %s}\n",
           (double)completed / seconds, process_rss_kb(options.pid),
           (unsigned long long)order.lost, (unsigned long long)order.duplicated,
           (unsigned long long)order.reordered, flowing ? "false" : "true");
    return flowing && network.errors + order.lost + order.duplicated + order.reordered == 0;
}

int main(int count, char **arguments)
{
    bool good;

    read_arguments(count, arguments);
    alarm(DEADLINE_SECONDS + (unsigned)(options.seconds + options.warm_up));
    network.batch = options.batch;
    network_open(options.url, options.anywhere,
                 (unsigned)(4 * options.pairs + options.peers + options.databases));
    workload->prepare();
    good = workload->start == NULL ? run_connections() : run_messages();
    part();
    return good ? 0 : 1;
}
