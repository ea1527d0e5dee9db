/* One connection's bytes, over TCP or TLS, never blocking; and where the server is. */
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
    const char *token;   /* what clients present */
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

/* Read ws[s]://host[:port][/prefix] and find the address; only one of this machine, unless
 * `anywhere`. */
void server_find(char *url, bool anywhere);

/* Begin to connect. When the socket is writable, transport_secure has to be called until it
 * says DONE. */
void transport_connect(struct transport *transport);

enum progress { DONE, WAIT_TO_READ, WAIT_TO_WRITE, FAILED };
enum progress transport_secure(struct transport *transport);

/* The number of bytes read or written; 0 if that is not possible now, -1 if the connection is
 * lost. With TLS, reading has to go on until it returns 0. */
ssize_t transport_read(struct transport *transport, uint8_t *data, size_t length);
ssize_t transport_write(struct transport *transport, const uint8_t *data, size_t length);

#endif
