#define _GNU_SOURCE
#include "transport.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#ifdef WITH_TLS
#include <openssl/err.h>
#endif

struct server server = {.token = "undefined"}; /* as AceBase sends it without a token */

static struct sockaddr_storage address;
static socklen_t address_length;
#ifdef WITH_TLS
static SSL_CTX *tls_context;
#endif

_Noreturn void die(const char *format, ...)
{
    va_list arguments;

    fputs("load: ", stderr);
    va_start(arguments, format);
    vfprintf(stderr, format, arguments);
    va_end(arguments);
    fputc('\n', stderr);
    exit(2);
}

void *allocate(size_t count, size_t size)
{
    void *memory = calloc(count ? count : 1, size);

    if (memory == NULL)
        die("out of memory");
    return memory;
}

static bool is_loopback(const struct sockaddr *where)
{
    if (where->sa_family == AF_INET) {
        const struct sockaddr_in *v4 = (const struct sockaddr_in *)where;

        return ntohl(v4->sin_addr.s_addr) >> 24 == 127;
    }
    return IN6_IS_ADDR_LOOPBACK(&((const struct sockaddr_in6 *)where)->sin6_addr);
}

/* Set `server`, and the host and port to look up. */
static void split_url(char *url, const char **host, const char **port)
{
    char *rest, *slash, *colon;

    if (strncmp(url, "ws://", 5) == 0)
        rest = url + 5;
    else if (strncmp(url, "wss://", 6) == 0)
        rest = url + 6;
    else
        die("the url must begin with ws:// or wss://");
    server.secure = rest == url + 6;
    server.prefix = "";
    if ((slash = strchr(rest, '/')) != NULL) {
        if (slash[strlen(slash) - 1] == '/')
            slash[strlen(slash) - 1] = '\0';
        server.prefix = strdup(slash);
        *slash = '\0';
    }
    *port = server.secure ? "443" : "80";
    server.address = strdup(rest);
    colon = strrchr(rest, ':');
    if (colon != NULL && strchr(colon, ']') == NULL) {
        *colon = '\0';
        *port = colon + 1;
    }
    if (*rest == '[') {
        rest++;
        rest[strcspn(rest, "]")] = '\0';
    }
    *host = rest;
}

static void prepare_tls(void)
{
    if (!server.secure)
        return;
#ifdef WITH_TLS
    /* The user chooses the server and no secret is sent, so the certificate is not verified. */
    tls_context = SSL_CTX_new(TLS_client_method());
    SSL_CTX_set_verify(tls_context, SSL_VERIFY_NONE, NULL);
    SSL_CTX_set_mode(tls_context,
                     SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER);
#else
    die("built without TLS: the headers of OpenSSL were missing");
#endif
}

void server_find(char *url, bool anywhere)
{
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM}, *found;
    const char *host, *port;
    int error;

    split_url(url, &host, &port);
    error = getaddrinfo(host, port, &hints, &found);
    if (error)
        die("%s: %s", host, gai_strerror(error));
    if (!anywhere && !is_loopback(found->ai_addr))
        die("%s is another machine: anywhere=1 if you may put it under load", host);
    memcpy(&address, found->ai_addr, found->ai_addrlen);
    address_length = found->ai_addrlen;
    freeaddrinfo(found);
    prepare_tls();
}

void transport_connect(struct transport *transport)
{
    int on = 1;

    transport->fd = socket(address.ss_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (transport->fd < 0)
        die("no socket: %s", strerror(errno));
    setsockopt(transport->fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    if (connect(transport->fd, (struct sockaddr *)&address, address_length) < 0 &&
        errno != EINPROGRESS)
        die("cannot connect to %s: %s", server.address, strerror(errno));
}

static enum progress check_connected(const struct transport *transport)
{
    int error = 0;
    socklen_t length = sizeof error;

    getsockopt(transport->fd, SOL_SOCKET, SO_ERROR, &error, &length);
    if (error)
        die("cannot connect to %s: %s", server.address, strerror(error));
    return DONE;
}

#ifdef WITH_TLS

static enum progress progress_of(struct transport *transport, int result)
{
    switch (SSL_get_error(transport->tls, result)) {
    case SSL_ERROR_NONE:
        return DONE;
    case SSL_ERROR_WANT_READ:
        return WAIT_TO_READ;
    case SSL_ERROR_WANT_WRITE:
        return WAIT_TO_WRITE;
    default:
        return FAILED;
    }
}

enum progress transport_secure(struct transport *transport)
{
    if (transport->tls == NULL) {
        check_connected(transport);
        if (!server.secure)
            return DONE;
        transport->tls = SSL_new(tls_context);
        SSL_set_fd(transport->tls, transport->fd);
    }
    ERR_clear_error();
    return progress_of(transport, SSL_connect(transport->tls));
}

#else

enum progress transport_secure(struct transport *transport)
{
    return check_connected(transport);
}

#endif

ssize_t transport_read(struct transport *transport, uint8_t *data, size_t length)
{
    ssize_t result;

#ifdef WITH_TLS
    if (transport->tls != NULL) {
        size_t count = 0;

        ERR_clear_error();
        if (SSL_read_ex(transport->tls, data, length, &count))
            return (ssize_t)count;
        return progress_of(transport, 0) == FAILED ? -1 : 0;
    }
#endif
    result = recv(transport->fd, data, length, 0);
    if (result > 0)
        return result;
    return result < 0 && errno == EAGAIN ? 0 : -1;
}

ssize_t transport_write(struct transport *transport, const uint8_t *data, size_t length)
{
    ssize_t result;

#ifdef WITH_TLS
    if (transport->tls != NULL) {
        size_t count = 0;

        ERR_clear_error();
        if (SSL_write_ex(transport->tls, data, length, &count))
            return (ssize_t)count;
        return progress_of(transport, 0) == FAILED ? -1 : 0;
    }
#endif
    result = send(transport->fd, data, length, MSG_NOSIGNAL);
    return result < 0 && errno == EAGAIN ? 0 : result;
}
