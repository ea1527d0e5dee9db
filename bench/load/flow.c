#define _GNU_SOURCE
#include "flow.h"

#include "wire.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct client *clients;
unsigned client_count;
struct flow *flows;
unsigned flow_count;
struct tally *tallies;
unsigned tally_count;

void make_clients(unsigned count)
{
    clients = allocate(count, sizeof *clients);
    client_count = count;
    for (unsigned i = 0; i < count; i++) {
        clients[i].number = (int)i;
        snprintf(clients[i].id, MAX_ID, "client%018u", i); /* as long as AceBase's ids */
        snprintf(clients[i].database, MAX_DATABASE, "bench_data");
    }
}

void make_flows(unsigned count, unsigned receivers)
{
    flows = allocate(count, sizeof *flows);
    flow_count = count;
    tallies = allocate(receivers, sizeof *tallies);
    tally_count = receivers;
}

void write_number(uint8_t *digits, unsigned count, uint32_t number)
{
    while (count-- > 0) {
        digits[count] = (uint8_t)('0' + number % 10);
        number /= 10;
    }
}

bool read_number(const uint8_t *digits, unsigned count, uint32_t *number)
{
    *number = 0;
    for (unsigned i = 0; i < count; i++) {
        if (digits[i] < '0' || digits[i] > '9')
            return false;
        *number = 10 * *number + (uint32_t)(digits[i] - '0');
    }
    return true;
}

static void make_body(struct flow *flow, size_t length)
{
    uint8_t *body = allocate(length + 1, 1);
    int head = snprintf((char *)body, length,
                        BODY_HEAD "%0*d\",\"f\":\"%0*d\",\"from\":\"%s\",\"x\":\"",
                        SEQUENCE_DIGITS, 0, FLOW_DIGITS, (int)(flow - flows), flow->from->id);

    for (size_t i = (size_t)head; i < length - 2; i++)
        body[i] = (uint8_t)('a' + i * 7 % 26);
    memcpy(body + length - 2, "\"}", 2);
    flow->body = body;
    flow->body_length = length;
}

/* Build the complete message: to:<id>;<body>, or for a broadcast the body alone. */
static uint8_t *make_message(const struct flow *flow, size_t *length, size_t *body_at)
{
    uint8_t *message = allocate(MAX_ID + 8 + flow->body_length, 1);

    *body_at = 0;
    if (flow->to != NULL)
        *body_at = (size_t)sprintf((char *)message, "to:%s;", flow->to->id);
    memcpy(message + *body_at, flow->body, flow->body_length);
    *length = *body_at + flow->body_length;
    return message;
}

void flow_of_frames(struct flow *flow, struct client *from, struct client *to, size_t size)
{
    size_t length, body_at, header;
    uint8_t *message;

    flow->from = flow->over = from;
    flow->to = to;
    make_body(flow, size);
    message = make_message(flow, &length, &body_at);
    flow->wire = wire_frame(message, length, &header);
    flow->wire_length = header + length;
    flow->sequence_at = header + body_at + SEQUENCE_AT;
    for (size_t i = 0; i < SEQUENCE_DIGITS; i++)
        flow->mask[i] = flow->wire[flow->sequence_at + i] ^ '0';
    free(message);
}

void flow_of_posts(struct flow *flow, struct client *from, struct client *to, struct client *over,
                   size_t size)
{
    size_t length, body_at;
    char head[1024];
    uint8_t *message;
    int header;

    flow->from = from;
    flow->to = to;
    flow->over = over;
    make_body(flow, size);
    message = make_message(flow, &length, &body_at);
    header = snprintf(head, sizeof head,
                      "POST %s/%s/send?id=%s&t=%s HTTP/1.1\r\nHost: %s\r\n"
                      "Content-Type: text/plain; charset=utf-8\r\nContent-Length: %zu\r\n\r\n",
                      server.prefix, from->database, from->id, server.token, server.address,
                      length);
    if (header < 0 || (size_t)header >= sizeof head)
        die("the token or the prefix is too long");
    flow->wire_length = (size_t)header + length;
    flow->wire = allocate(flow->wire_length, 1);
    memcpy(flow->wire, head, (size_t)header);
    memcpy(flow->wire + header, message, length);
    flow->sequence_at = (size_t)header + body_at + SEQUENCE_AT;
    free(message);
}

void flow_send(struct flow *flow, uint64_t now)
{
    uint8_t *wire = client_append(flow->over, flow->wire_length);
    uint8_t *digits = wire + flow->sequence_at;

    memcpy(wire, flow->wire, flow->wire_length);
    write_number(digits, SEQUENCE_DIGITS, flow->sent);
    for (int i = 0; i < SEQUENCE_DIGITS; i++)
        digits[i] ^= flow->mask[i];
    flow->sent_at[flow->sent % WINDOW] = now;
    flow->sent++;
}

/* Return the flow of a body, and its sequence number; NULL if any byte is wrong. */
static struct flow *recognise(const uint8_t *body, size_t length, uint32_t *sequence)
{
    const size_t rest = SEQUENCE_AT + SEQUENCE_DIGITS;
    struct flow *flow;
    uint32_t number;

    if (length < MIN_BODY || !read_number(body + FLOW_AT, FLOW_DIGITS, &number) ||
        number >= flow_count)
        return NULL;
    flow = &flows[number];
    if (length != flow->body_length ||
        !read_number(body + SEQUENCE_AT, SEQUENCE_DIGITS, sequence) ||
        memcmp(body, flow->body, SEQUENCE_AT) != 0 ||
        memcmp(body + rest, flow->body + rest, length - rest) != 0)
        return NULL;
    return flow;
}

struct flow *flow_receive(struct client *client, const uint8_t *body, size_t length,
                          uint32_t *sequence)
{
    struct flow *flow = recognise(body, length, sequence);
    bool broadcast = flow != NULL && flow->to == NULL;

    if (flow == NULL || (!broadcast && flow->to != client) || *sequence >= flow->sent) {
        client_error(client, "received a message that was not sent to it");
        return NULL;
    }
    return tally_receive(&tallies[broadcast ? client->number : flow - flows], *sequence) ? flow
                                                                                         : NULL;
}

struct order flows_order(void)
{
    struct order order = {0, 0, 0};

    for (unsigned i = 0; i < tally_count; i++) {
        const struct tally *tally = &tallies[i];
        const struct flow *flow = flows[0].to == NULL ? &flows[0] : &flows[i];

        order.lost += tally->missing + (flow->sent - tally->next);
        order.duplicated += tally->duplicated;
        order.reordered += tally->reordered;
    }
    return order;
}
