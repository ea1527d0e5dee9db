/* The bytes of a connection: the upgrade, WebSocket frames, HTTP responses. */
#ifndef WIRE_H
#define WIRE_H

#include "client.h"

enum opcode { OP_TEXT = 0x1, OP_CLOSE = 0x8, OP_PING = 0x9, OP_PONG = 0xa };

/* Append the request for a WebSocket. */
void wire_upgrade(struct client *client);

/* Parse received bytes; returns how many were used. Pass the rest again, together with later bytes,
 * when there are client->needed of them (0: any more). */
size_t wire_take(struct client *client, const uint8_t *data, size_t length, uint64_t now);

/* Allocate a masked text frame for `length` bytes of text; `header` is set to the offset of the
 * text. The mask is the four bytes before it. */
uint8_t *wire_frame(const uint8_t *text, size_t length, size_t *header);

/* Append a masked text frame. */
void wire_text(struct client *client, const uint8_t *text, size_t length);

/* Return the length of the frame that begins at `frame`. */
size_t wire_frame_length(const uint8_t *frame);

/* Append a control frame. */
void wire_control(struct client *client, enum opcode opcode, const uint8_t *payload, size_t length);

#endif
