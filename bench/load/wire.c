#define _GNU_SOURCE
#include "wire.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* The example of RFC 6455, section 1.3: a key, and the answer to it. */
static const char KEY[] = "dGhlIHNhbXBsZSBub25jZQ==";
static const char ACCEPT[] = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";

/* ---- Sending ---- */

void wire_upgrade(struct client *client)
{
    char request[1024];
    const char *query = client->documented ? "id=%2$s&v=1.0.0&t=%1$s" : "v=1.0.0&id=%2$s&t=%1$s";
    char filled[512];
    int length;

    snprintf(filled, sizeof filled, query, server.token, client->id);
    length = snprintf(request, sizeof request,
                      "GET %s/%s/connect?%s HTTP/1.1\r\n"
                      "Host: %s\r\n"
                      "Upgrade: websocket\r\n"
                      "Connection: Upgrade\r\n"
                      "Sec-WebSocket-Key: %s\r\n"
                      "Sec-WebSocket-Version: 13\r\n"
                      "\r\n",
                      server.prefix, client->database, filled, server.address, KEY);
    if (length < 0 || (size_t)length >= sizeof request)
        die("the token or the prefix is too long");
    memcpy(client_append(client, (size_t)length), request, (size_t)length);
    client->state = UPGRADING;
}

size_t wire_frame_length(const uint8_t *frame)
{
    size_t length = frame[1] & 0x7f;

    if (length == 126)
        return 8 + ((size_t)frame[2] << 8 | frame[3]);
    if (length == 127)
        return 14 + ((size_t)frame[6] << 24 | (size_t)frame[7] << 16 | (size_t)frame[8] << 8 |
                     frame[9]);
    return 6 + length;
}

static size_t header_length(size_t text_length)
{
    return text_length < 126 ? 6 : text_length < 65536 ? 8 : 14;
}

/* Write a masked text frame to `frame`, which has space for it. */
static void fill_frame(uint8_t *frame, const uint8_t *text, size_t length)
{
    uint8_t *payload = frame + header_length(length), *mask = payload - 4;
    size_t i = 0;

    frame[0] = 0x80 | OP_TEXT;
    if (length < 126) {
        frame[1] = (uint8_t)(0x80 | length);
    } else if (length < 65536) {
        frame[1] = 0x80 | 126;
        frame[2] = (uint8_t)(length >> 8);
        frame[3] = (uint8_t)length;
    } else {
        frame[1] = 0x80 | 127;
        for (int j = 0; j < 8; j++)
            frame[2 + j] = (uint8_t)(length >> (56 - 8 * j));
    }
    for (int j = 0; j < 4; j++)
        mask[j] = (uint8_t)(rand() >> 7);
    for (; i + 4 <= length; i += 4) {
        uint32_t key, word;

        memcpy(&key, mask, 4);
        memcpy(&word, text + i, 4);
        word ^= key;
        memcpy(payload + i, &word, 4);
    }
    for (; i < length; i++)
        payload[i] = text[i] ^ mask[i & 3];
}

uint8_t *wire_frame(const uint8_t *text, size_t length, size_t *header)
{
    uint8_t *frame;

    *header = header_length(length);
    frame = allocate(*header + length, 1);
    fill_frame(frame, text, length);
    return frame;
}

void wire_text(struct client *client, const uint8_t *text, size_t length)
{
    fill_frame(client_append(client, header_length(length) + length), text, length);
}

void wire_control(struct client *client, enum opcode opcode, const uint8_t *payload, size_t length)
{
    uint8_t *frame = client_append(client, 6 + length);

    frame[0] = (uint8_t)(0x80 | opcode);
    frame[1] = (uint8_t)(0x80 | length);
    memset(frame + 2, 0, 4); /* a mask of zeros leaves the payload as it is */
    memcpy(frame + 6, payload, length);
}

/* ---- Receiving ---- */

static void take_frame(struct client *client, enum opcode opcode, const uint8_t *payload,
                       size_t length, uint64_t now)
{
    switch (opcode) {
    case OP_TEXT:
        if (client->state == OPEN) {
            network.on_text(client, payload, length, now);
            return;
        }
        network.control++;
        if (length < 8 || memcmp(payload, "welcome:", 8) != 0)
            client_end(client, "the first message is not welcome:");
        else
            client_opened(client, now);
        return;
    case OP_PING:
        if (length < 126)
            wire_control(client, OP_PONG, payload, length);
        return;
    case OP_PONG:
        return;
    case OP_CLOSE:
        client_end(client, "closed by the server");
        return;
    default:
        client_error(client, "an unexpected kind of frame");
    }
}

/* Each of these returns the number of bytes used, 0 if the data is incomplete. */

static size_t take_frames(struct client *client, const uint8_t *data, size_t length, uint64_t now)
{
    size_t used = 0;

    while (length - used >= 2 && client->state != CLOSED) {
        const uint8_t *frame = data + used;
        size_t payload = frame[1], header = 2;

        if ((frame[0] & 0xf0) != 0x80 || (frame[1] & 0x80)) {
            client_end(client, "a frame with a reserved bit or a mask, or a fragment");
            break;
        }
        if (payload == 126) {
            header = 4;
            if (length - used < header)
                break;
            payload = (size_t)frame[2] << 8 | frame[3];
        } else if (payload == 127) {
            header = 10;
            if (length - used < header)
                break;
            payload = 0;
            for (int i = 2; i < 10; i++)
                payload = payload << 8 | frame[i];
        }
        if (payload > length - used - header) {
            client->needed = header + payload;
            break;
        }
        take_frame(client, frame[0] & 0x0f, frame + header, payload, now);
        used += header + payload;
    }
    return used;
}

static size_t take_upgrade(struct client *client, const uint8_t *data, size_t length)
{
    const uint8_t *blank = memmem(data, length, "\r\n\r\n", 4);

    if (blank == NULL)
        return 0;
    if (length < 12 || memcmp(data + 8, " 101", 4) != 0 ||
        memmem(data, (size_t)(blank - data), ACCEPT, sizeof ACCEPT - 1) == NULL) {
        fprintf(stderr, "load: the answer was: %.*s\n", (int)strcspn((const char *)data, "\r\n"),
                (const char *)data);
        client_end(client, "the upgrade was refused");
        return length;
    }
    client->state = WELCOMING;
    return (size_t)(blank + 4 - data);
}

static size_t take_response(struct client *client, const uint8_t *data, size_t length,
                            uint64_t now)
{
    const uint8_t *blank = memmem(data, length, "\r\n\r\n", 4);
    const char *field = NULL;
    size_t header, body;

    if (blank == NULL)
        return 0;
    header = (size_t)(blank + 4 - data);
    for (const uint8_t *line = data; line < blank;) {
        line = (const uint8_t *)memmem(line, (size_t)(blank + 2 - line), "\r\n", 2) + 2;
        if (strncasecmp((const char *)line, "Content-Length:", 15) == 0)
            field = (const char *)line + 15;
    }
    if (field == NULL) {
        client_end(client, "a response without Content-Length");
        return length;
    }
    body = strtoul(field, NULL, 10);
    if (length < header + body) {
        client->needed = header + body;
        return 0;
    }
    network.on_response(client, atoi((const char *)data + 9), data + header, body, now);
    return header + body;
}

size_t wire_take(struct client *client, const uint8_t *data, size_t length, uint64_t now)
{
    size_t used = 0, step;

    do {
        if (client->http)
            step = take_response(client, data + used, length - used, now);
        else if (client->state == UPGRADING)
            step = take_upgrade(client, data + used, length - used);
        else
            step = take_frames(client, data + used, length - used, now);
        used += step;
    } while (step > 0 && used < length && client->state != CLOSED);
    return used;
}

