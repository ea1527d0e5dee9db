/* Non-blocking connections to one server, over TCP or TLS, in one epoll loop: WebSockets, and
 * persistent HTTP connections. */
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
    CONNECTING, /* until TCP is connected and the TLS handshake is complete */
    UPGRADING,  /* until the 101 response */
    WELCOMING,  /* until the first message: welcome */
    OPEN,
    CLOSED,
};

struct client {
    int number;
    char id[MAX_ID];
    char database[MAX_DATABASE];
    bool http;       /* a persistent HTTP connection, not a WebSocket */
    bool documented; /* the dialect of the handshake; else AceBase's */

    enum state state;
    struct transport transport;
    bool wants_write;
    bool marked; /* it has bytes to write at the end of this turn */
    uint64_t started_at;
    struct buffer in;
    size_t needed; /* least length of `in` that can be parsed */
    struct buffer out;
    size_t written;
    size_t frame_left; /* unbatched: unwritten bytes of the frame whose writing has begun */
};

/* State and callbacks of all connections. */
struct network {
    bool batch; /* whether one write may hold several frames */

    unsigned opened;
    uint64_t errors;  /* broken frames, lost connections, bad responses */
    uint64_t control; /* messages of the relay: welcome, connect:, hello and the like */

    /* A text message other than welcome. */
    void (*on_text)(struct client *, const uint8_t *text, size_t length, uint64_t now);
    /* A complete response on an HTTP connection. */
    void (*on_response)(struct client *, int status, const uint8_t *body, size_t length,
                        uint64_t now);
    /* A connection is ready to be used. */
    void (*on_open)(struct client *, uint64_t now);
};

extern struct network network;

/* Allocate `clients` connections to the server at `url`; see server_find. */
void network_open(char *url, bool anywhere, unsigned clients);

/* Begin to connect. */
void client_connect(struct client *client);

/* Returns space for `length` more bytes, which the caller fills; they are sent at the end of this
 * turn. */
uint8_t *client_append(struct client *client, size_t length);

/* Send a close frame (1000) on an open WebSocket, after all that was appended. */
void client_close(struct client *client);

/* One turn of the loop: wait for events, call back for arrived messages, write appended bytes. */
void network_turn(int milliseconds);

/* Count an error; the first few are printed on stderr. */
void client_error(const struct client *client, const char *what);

/* State changes: the connection is ready for use; it has ended (an error if `why` is not NULL). */
void client_opened(struct client *client, uint64_t now);
void client_end(struct client *client, const char *why);

#endif
