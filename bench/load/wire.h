/* What is said on a connection: the upgrade, WebSocket frames, HTTP responses. */
#ifndef WIRE_H
#define WIRE_H

#include "client.h"

enum opcode { OP_TEXT = 0x1, OP_CLOSE = 0x8, OP_PING = 0x9, OP_PONG = 0xa };

/* Ask to become a peer. */
void wire_upgrade(struct client *client);

/* Take what has come; returns how much of it was used. The rest has to be given again, with more,
 * when there are client->needed bytes (0: any more). */
size_t wire_take(struct client *client, const uint8_t *data, size_t length, uint64_t now);

/* Build a masked text frame of `length` bytes of text in memory of its own; `header` is set to
 * where the text begins. The mask is the four bytes before it. */
uint8_t *wire_frame(const uint8_t *text, size_t length, size_t *header);

/* The length of such a frame, which begins at `frame`. */
size_t wire_frame_length(const uint8_t *frame);

/* Append a control frame. */
void wire_control(struct client *client, enum opcode opcode, const uint8_t *payload, size_t length);

#endif
