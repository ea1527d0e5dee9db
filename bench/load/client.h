/* Many non-blocking connections to one server, over TCP or TLS, in one epoll loop:
 * WebSockets, and HTTP connections that are kept for request after request. */
#ifndef CLIENT_H
#define CLIENT_H

#include "transport.h"

enum { MAX_ID = 40, MAX_DATABASE = 64 };

struct buffer {
    uint8_t *data;
    size_t length;
    size_t capacity;
};

enum state {
    UNCONNECTED,
    CONNECTING, /* until TLS is ready, too */
    UPGRADING,  /* until the 101 response */
    WELCOMING,  /* until the first message: welcome */
    OPEN,
    CLOSED,
};

struct client {
    int number;
    char id[MAX_ID];
    char database[MAX_DATABASE];
    bool http;       /* not a WebSocket */
    bool documented; /* the handshake is one of the documentation, not one of AceBase's */

    enum state state;
    struct transport transport;
    bool wants_write;
    bool marked; /* has something to write at the end of this turn */
    uint64_t started_at;
    struct buffer in;
    size_t needed; /* bytes of `in` below which there is nothing to be done */
    struct buffer out;
    size_t written;
    size_t frame_left; /* unbatched: bytes of the begun frame that are not written yet */
};

/* All connections together, and whom they tell what has come. */
struct network {
    bool batch; /* several frames for one connection in one write */

    unsigned opened;
    uint64_t errors;  /* broken frames, lost connections, bad responses */
    uint64_t control; /* welcome, connect:, hello and the like */

    /* A text message other than welcome. */
    void (*on_text)(struct client *, const uint8_t *text, size_t length, uint64_t now);
    /* A complete response on an HTTP connection. */
    void (*on_response)(struct client *, int status, const uint8_t *body, size_t length,
                        uint64_t now);
    /* A connection is ready to be used. */
    void (*on_open)(struct client *, uint64_t now);
};

extern struct network network;

/* Make room for so many connections to the server at `url`; see server_find. */
void network_open(char *url, bool anywhere, unsigned clients);

/* Begin to connect. */
void client_connect(struct client *client);

/* Room for `length` more bytes, which the caller fills; they are sent at the end of this turn. */
uint8_t *client_append(struct client *client, size_t length);

/* Say goodbye (1000) on an open WebSocket, after all that was appended. */
void client_close(struct client *client);

/* One turn: wait for at most so long, tell what has come, write what was appended. */
void network_turn(int milliseconds);

/* Count an error; the first few are told on stderr. */
void client_error(const struct client *client, const char *what);

/* A connection is ready to be used; it has ended, and if `why` is not NULL that is an error. */
void client_opened(struct client *client, uint64_t now);
void client_end(struct client *client, const char *why);

#endif
