/* Non-blocking connections over TCP or TLS, and the address of the server. */
#ifndef TRANSPORT_H
#define TRANSPORT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#ifdef WITH_TLS
#include <openssl/ssl.h>
#endif

struct server {
    const char *address; /* host and port as in the URL */
    const char *prefix;  /* of all paths: empty, or /something */
    const char *token;   /* sent by every client */
    bool secure;
};

extern struct server server;

struct transport {
    int fd;
#ifdef WITH_TLS
    SSL *tls;
#endif
};

_Noreturn void die(const char *format, ...) __attribute__((format(printf, 1, 2)));
void *allocate(size_t count, size_t size);

/* Parse ws[s]://host[:port][/prefix] and look up the address, which has to be this machine's unless
 * `anywhere`. */
void server_find(char *url, bool anywhere);

/* Begin to connect. When the socket is writable, call transport_secure until it returns DONE. */
void transport_connect(struct transport *transport);

enum progress { DONE, WAIT_TO_READ, WAIT_TO_WRITE, FAILED };
enum progress transport_secure(struct transport *transport);

/* Return the number of bytes read or written; 0 if that is not possible now, -1 if the connection
 * is lost. With TLS, read until it returns 0. */
ssize_t transport_read(struct transport *transport, uint8_t *data, size_t length);
ssize_t transport_write(struct transport *transport, const uint8_t *data, size_t length);

#endif
