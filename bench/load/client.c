#define _GNU_SOURCE
#include "client.h"

#include "measure.h"
#include "wire.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>

enum {
    RECEIVE = 256 * 1024,  /* bytes read at a time */
    COMPACT = 1024 * 1024, /* written bytes that may remain at the beginning of a buffer */
    EVENTS = 512,          /* events handled in one turn */
    ERRORS_TOLD = 5,
};

struct network network;

static int epoll_fd;
static struct client **marked; /* the clients that have bytes to write */
static unsigned marked_count;
static uint8_t received[RECEIVE];

static uint8_t *buffer_extend(struct buffer *buffer, size_t length)
{
    if (buffer->length + length > buffer->capacity) {
        buffer->capacity = 2 * (buffer->length + length);
        buffer->data = realloc(buffer->data, buffer->capacity);
        if (buffer->data == NULL)
            die("out of memory");
    }
    buffer->length += length;
    return buffer->data + buffer->length - length;
}

void client_error(const struct client *client, const char *what)
{
    if (network.errors++ < ERRORS_TOLD)
        fprintf(stderr, "load: %s of %s: %s\n", client->id, client->database, what);
}

void network_open(char *url, bool anywhere, unsigned clients)
{
    struct rlimit files;

    server_find(url, anywhere);
    getrlimit(RLIMIT_NOFILE, &files);
    files.rlim_cur = files.rlim_max;
    setrlimit(RLIMIT_NOFILE, &files);
    if (files.rlim_cur < clients + 16)
        die("%u connections need more open files than 'ulimit -n' allows", clients);
    marked = allocate(clients, sizeof *marked);
    epoll_fd = epoll_create1(0);
}

/* ---- States ---- */

static void watch(struct client *client, bool writable)
{
    struct epoll_event event = {.events = EPOLLIN | (writable ? EPOLLOUT : 0u)};

    event.data.ptr = client;
    if (client->wants_write != writable) {
        client->wants_write = writable;
        epoll_ctl(epoll_fd, EPOLL_CTL_MOD, client->transport.fd, &event);
    }
}

void client_end(struct client *client, const char *why)
{
    if (why != NULL)
        client_error(client, why);
    client->state = CLOSED;
    epoll_ctl(epoll_fd, EPOLL_CTL_DEL, client->transport.fd, NULL);
}

void client_opened(struct client *client, uint64_t now)
{
    client->state = OPEN;
    network.opened++;
    if (network.on_open != NULL)
        network.on_open(client, now);
}

/* ---- Writing ---- */

uint8_t *client_append(struct client *client, size_t length)
{
    struct buffer *out = &client->out;

    if (client->written == out->length) {
        client->written = out->length = 0;
    } else if (client->written > COMPACT) {
        out->length -= client->written;
        memmove(out->data, out->data + client->written, out->length);
        client->written = 0;
    }
    if (!client->marked) {
        client->marked = true;
        marked[marked_count++] = client;
    }
    return buffer_extend(out, length);
}

static void flush(struct client *client)
{
    if (client->state == CONNECTING || client->state == CLOSED)
        return;
    while (client->written < client->out.length) {
        size_t length = client->out.length - client->written;
        ssize_t result;

        if (!network.batch && client->state == OPEN && !client->http) {
            if (client->frame_left == 0)
                client->frame_left = wire_frame_length(client->out.data + client->written);
            length = client->frame_left;
        }
        result = transport_write(&client->transport, client->out.data + client->written, length);
        if (result < 0) {
            client_end(client, "lost while writing");
            return;
        }
        if (result == 0) {
            watch(client, true);
            return;
        }
        client->written += (size_t)result;
        if (client->frame_left > 0)
            client->frame_left -= (size_t)result;
    }
    watch(client, false);
}

void client_close(struct client *client)
{
    static const uint8_t normal[] = {1000 >> 8, 1000 & 0xff};

    if (client->state == OPEN && !client->http)
        wire_control(client, OP_CLOSE, normal, sizeof normal);
}

/* ---- Reading ---- */

/* Incomplete data is kept in a buffer; data that is complete on arrival is not copied. */
static void receive(struct client *client, const uint8_t *data, size_t length, uint64_t now)
{
    struct buffer *in = &client->in;
    bool kept = in->length > 0;
    size_t used;

    if (kept) {
        memcpy(buffer_extend(in, length), data, length);
        if (in->length < client->needed)
            return;
        data = in->data;
        length = in->length;
    }
    client->needed = 0;
    used = wire_take(client, data, length, now);
    if (client->state == CLOSED)
        used = length;
    if (kept) {
        memmove(in->data, in->data + used, length - used);
        in->length = length - used;
    } else if (used < length) {
        memcpy(buffer_extend(in, length - used), data + used, length - used);
    }
}

static void readable(struct client *client)
{
    do {
        ssize_t length = transport_read(&client->transport, received, sizeof received);

        if (length < 0)
            client_end(client, "lost");
        if (length <= 0)
            return;
        receive(client, received, (size_t)length, now_ns());
        /* epoll does not report data that OpenSSL has already decrypted. */
    } while (server.secure && client->state != CLOSED);
}

/* ---- Connecting ---- */

static void secure(struct client *client)
{
    switch (transport_secure(&client->transport)) {
    case DONE:
        if (client->http)
            client_opened(client, now_ns());
        else
            wire_upgrade(client);
        flush(client);
        return;
    case WAIT_TO_READ:
        watch(client, false);
        return;
    case WAIT_TO_WRITE:
        watch(client, true);
        return;
    case FAILED:
        client_end(client, "the TLS handshake failed");
    }
}

void client_connect(struct client *client)
{
    struct epoll_event event = {.events = EPOLLIN | EPOLLOUT};

    client->started_at = now_ns();
    client->state = CONNECTING;
    client->wants_write = true;
    transport_connect(&client->transport);
    event.data.ptr = client;
    epoll_ctl(epoll_fd, EPOLL_CTL_ADD, client->transport.fd, &event);
}

/* ---- The loop ---- */

void network_turn(int milliseconds)
{
    struct epoll_event events[EVENTS];
    int count = epoll_wait(epoll_fd, events, EVENTS, milliseconds);

    for (int i = 0; i < count; i++) {
        struct client *client = events[i].data.ptr;

        if (client->state == CONNECTING)
            secure(client);
        else if (client->state != CLOSED) {
            if (events[i].events & EPOLLOUT)
                flush(client);
            if (events[i].events & ~(unsigned)EPOLLOUT && client->state != CLOSED)
                readable(client);
        }
    }
    for (unsigned i = 0; i < marked_count; i++) {
        marked[i]->marked = false;
        flush(marked[i]);
    }
    marked_count = 0;
}
