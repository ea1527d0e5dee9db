#define _GNU_SOURCE
#include "workloads.h"

#include "cluster.h"

#include <stdio.h>
#include <string.h>

struct options options = {
    .pairs = 10, .window = 1, .size = 200, .peers = 10, .depth = 1, .databases = 1, .at_once = 32,
    .per_database = 10, .rate = 1000, .batch = 1, .seconds = 3, .warm_up = 1,
};

const struct workload *workload;

bool running;
bool measuring;
uint64_t arrived;
uint64_t completed;
struct histogram latencies;
uint64_t arrived_ever;

void message_arrived(void)
{
    arrived_ever++;
    if (measuring)
        arrived++;
}

void exchange_completed(uint64_t sent_at, uint64_t now)
{
    if (!measuring)
        return;
    completed++;
    histogram_add(&latencies, now - sent_at);
}

static void take_body(struct client *client, const uint8_t *body, size_t length, uint64_t now)
{
    uint32_t sequence;
    struct flow *flow = flow_receive(client, body, length, &sequence);

    if (flow == NULL)
        return;
    message_arrived();
    workload->arrived(flow, sequence, now);
}

static void take_text(struct client *client, const uint8_t *text, size_t length, uint64_t now)
{
    if (length > SEQUENCE_AT && memcmp(text, BODY_HEAD, SEQUENCE_AT) == 0)
        take_body(client, text, length, now);
    else
        network.control++;
}

static void completes(struct flow *flow, uint32_t sequence, uint64_t now)
{
    exchange_completed(flow->sent_at[sequence % WINDOW], now);
}

/* ---- pairs ---- */

static struct client *first_of(unsigned pair)
{
    return &clients[2 * pair];
}

static void pairs_prepare(void)
{
    size_t size = (size_t)options.size;
    unsigned pairs = (unsigned)options.pairs;

    network.on_text = take_text;
    make_clients(2 * pairs);
    make_flows(pairs, pairs);
    for (unsigned i = 0; i < pairs; i++)
        flow_of_frames(&flows[i], first_of(i), first_of(i) + 1, size);
}

static void start_windows(uint64_t now)
{
    for (unsigned i = 0; i < flow_count; i++)
        for (int j = 0; j < options.window; j++)
            flow_send(&flows[i], now);
}

static void pairs_arrived(struct flow *flow, uint32_t sequence, uint64_t now)
{
    completes(flow, sequence, now);
    if (running)
        flow_send(flow, now);
}

/* ---- steady ---- */

static uint64_t steady_began;
static uint64_t steady_sent;

static void steady_start(uint64_t now)
{
    steady_began = now;
}

static bool has_room(const struct flow *flow)
{
    return flow->sent - tallies[flow - flows].next < WINDOW;
}

/* Send what is due, each flow in turn. A message that the relay is too slow for is sent late, but
 * its latency counts from when it was due. */
static void steady_turn(uint64_t now)
{
    for (;;) {
        uint64_t due = steady_began + steady_sent * SECOND / (uint64_t)options.rate;
        struct flow *flow = &flows[steady_sent % flow_count];

        if (!running || due > now || !has_room(flow))
            return;
        flow_send(flow, due);
        steady_sent++;
    }
}

/* ---- rtt ---- */

/* Flow 2i carries requests, flow 2i + 1 the answers. */
static void rtt_prepare(void)
{
    size_t size = (size_t)options.size;
    unsigned pairs = (unsigned)options.pairs;

    network.on_text = take_text;
    make_clients(2 * pairs);
    make_flows(2 * pairs, 2 * pairs);
    for (unsigned i = 0; i < pairs; i++) {
        flow_of_frames(&flows[2 * i], first_of(i), first_of(i) + 1, size);
        flow_of_frames(&flows[2 * i + 1], first_of(i) + 1, first_of(i), size);
    }
}

static void rtt_start(uint64_t now)
{
    for (unsigned i = 0; i < flow_count; i += 2)
        flow_send(&flows[i], now);
}

static void rtt_arrived(struct flow *flow, uint32_t sequence, uint64_t now)
{
    bool is_answer = (flow - flows) % 2;

    if (!is_answer) {
        flow_send(flow + 1, now);
        return;
    }
    completes(flow - 1, sequence, now); /* the n-th answer is to the n-th request */
    if (running)
        flow_send(flow - 1, now);
}

/* ---- fanout ---- */

static void fanout_prepare(void)
{
    size_t size = (size_t)options.size;
    unsigned receivers = (unsigned)options.peers;

    network.on_text = take_text;
    make_clients(receivers + 1);
    make_flows(1, receivers);
    flow_of_frames(&flows[0], &clients[receivers], NULL, size);
}

/* Each delivery is a message with its own latency; a broadcast completes with its last delivery. */
static void fanout_arrived(struct flow *flow, uint32_t sequence, uint64_t now)
{
    uint32_t *arrivals = &flow->arrivals[sequence % WINDOW];

    if (measuring)
        histogram_add(&latencies, now - flow->sent_at[sequence % WINDOW]);
    if (++*arrivals < (uint32_t)options.peers)
        return;
    *arrivals = 0;
    if (measuring)
        completed++;
    if (running)
        flow_send(flow, now);
}

/* ---- post ---- */

/* Pair i has four connections: A and B, A's for POST, B's for downloads. */
static struct client *of_pair(unsigned pair, unsigned which)
{
    return &clients[4 * pair + which];
}

static void take_announcement(struct client *client, const uint8_t *text, size_t length,
                              uint64_t now)
{
    char request[1024];
    int wanted;

    (void)now;
    if (length < 5 || memcmp(text, "get:", 4) != 0) {
        network.control++;
        return;
    }
    wanted = snprintf(request, sizeof request,
                      "GET %s/%s/receive?id=%s&msg=%.*s&t=%s HTTP/1.1\r\nHost: %s\r\n\r\n",
                      server.prefix, client->database, client->id, (int)length - 4, text + 4,
                      server.token, server.address);
    if (wanted < 0 || (size_t)wanted >= sizeof request)
        die("an announcement of %zu bytes", length);
    memcpy(client_append(client + 2, (size_t)wanted), request, (size_t)wanted);
}

static void take_download(struct client *client, int status, const uint8_t *body, size_t length,
                          uint64_t now)
{
    bool is_download = client->number % 4 == 3;

    if (status != 200)
        client_error(client, is_download ? "a download was refused" : "a POST was refused");
    else if (is_download)
        take_body(client - 2, body, length, now);
}

static void post_prepare(void)
{
    unsigned pairs = (unsigned)options.pairs;

    options.window = 1; /* concurrent POSTs have no order */
    network.on_text = take_announcement;
    network.on_response = take_download;
    make_clients(4 * pairs);
    make_flows(pairs, pairs);
    for (unsigned i = 0; i < 4 * pairs; i++) {
        clients[i].documented = true; /* the npm package acebase cannot download */
        clients[i].http = i % 4 >= 2;
        snprintf(clients[i].id, MAX_ID, "peer-%u", i);
    }
    for (unsigned i = 0; i < pairs; i++)
        flow_of_posts(&flows[i], of_pair(i, 0), of_pair(i, 1), of_pair(i, 2),
                      (size_t)options.size);
}

/* ---- conns ---- */

static void conns_opened(struct client *client, uint64_t now)
{
    histogram_add(&latencies, now - client->started_at);
}

static void conns_prepare(void)
{
    network.on_text = take_text;
    network.on_open = conns_opened;
    make_clients((unsigned)options.peers);
    for (unsigned i = 0; i < client_count; i++)
        snprintf(clients[i].database, MAX_DATABASE, "bench%u_data",
                 i / (unsigned)options.per_database);
}

static const struct workload WORKLOADS[] = {
    {"pairs", pairs_prepare, start_windows, NULL, pairs_arrived, flows_order},
    {"steady", pairs_prepare, steady_start, steady_turn, completes, flows_order},
    {"rtt", rtt_prepare, rtt_start, NULL, rtt_arrived, flows_order},
    {"fanout", fanout_prepare, start_windows, NULL, fanout_arrived, flows_order},
    {"mixed", cluster_prepare, cluster_start, NULL, NULL, cluster_order},
    {"post", post_prepare, start_windows, NULL, pairs_arrived, flows_order},
    {"conns", conns_prepare, NULL, NULL, NULL, NULL},
};

const struct workload *workload_named(const char *name)
{
    for (size_t i = 0; i < sizeof WORKLOADS / sizeof *WORKLOADS; i++)
        if (strcmp(name, WORKLOADS[i].name) == 0)
            return &WORKLOADS[i];
    return NULL;
}
