/*
 * A TCP proxy on loopback that delivers everything a given time later, in each direction.
 *
 *   delay TARGET_PORT       says "port N"; then reads commands from its standard input:
 *     delay NANOSECONDS     what arrives from now on takes so long
 *     report                prints how late it was since the last report, as one line of JSON
 *   delay probe NANOSECONDS COUNT
 *                           sends COUNT bytes through a proxy to an echo, one after the other, and
 *                           prints the time of each round trip in nanoseconds
 *
 * One thread waits in ppoll until something arrives or is due. The timer slack is 1 ns, and where
 * the system permits it, the process has a real-time priority, so that it runs as soon as something
 * is due. It ends with its standard input.
 */

#define _GNU_SOURCE

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum {
    PIECE = 64 * 1024,   /* bytes read at once */
    LINKS = 256,         /* connections */
    SAMPLES = 1 << 20,   /* pieces of which the lateness is kept until the next report */
    COMMAND = 256,
};

static const int64_t SECOND = 1000000000;

/* Nanoseconds before something is due at which the proxy stops sleeping: a timer of an idle virtual
 * machine is late by as much. */
static const int64_t EARLY = 100000;

/* What was read at once, and when it is due. */
struct piece {
    struct piece *next;
    int64_t due;
    size_t size, sent;
    char data[];
};

/* One direction of a connection. */
struct flow {
    int from, to;
    bool ended; /* nothing more will be read */
    bool stuck; /* the receiver takes nothing at present */
    struct piece *first, **last;
};

static struct flow flows[2 * LINKS]; /* those of one connection are 2n and 2n + 1 */
static size_t flow_count;
static int64_t delay;
static int64_t lateness[SAMPLES];
static size_t lateness_count;

static void fail(const char *what)
{
    perror(what);
    exit(1);
}

static int64_t now(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec * SECOND + time.tv_nsec;
}

static void send_at_once(int sock)
{
    int on = 1;
    setsockopt(sock, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
}

static struct sockaddr_in loopback(int port)
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    return address;
}

static int listen_on_free_port(int *port)
{
    int sock = socket(AF_INET, SOCK_STREAM, 0);
    struct sockaddr_in address = loopback(0);
    socklen_t size = sizeof address;
    if (bind(sock, (struct sockaddr *)&address, size) || listen(sock, LINKS) ||
        getsockname(sock, (struct sockaddr *)&address, &size))
        fail("listen");
    *port = ntohs(address.sin_port);
    return sock;
}

static int connect_to(int port)
{
    int sock = socket(AF_INET, SOCK_STREAM, 0);
    struct sockaddr_in address = loopback(port);
    if (connect(sock, (struct sockaddr *)&address, sizeof address))
        fail("connect");
    send_at_once(sock);
    return sock;
}

/* -- the proxy */

static void add_flow(int from, int to)
{
    struct flow *flow = &flows[flow_count++];
    *flow = (struct flow){.from = from, .to = to};
    flow->last = &flow->first;
}

static void accept_link(int listener, int target)
{
    int near = accept(listener, NULL, NULL);
    if (near < 0)
        return;
    if (flow_count == 2 * LINKS) {
        close(near);
        return;
    }
    send_at_once(near);
    int far = connect_to(target);
    add_flow(near, far);
    add_flow(far, near);
}

static void add_piece(struct flow *flow, struct piece *piece, size_t size)
{
    piece->next = NULL;
    piece->due = now() + delay;
    piece->size = size;
    piece->sent = 0;
    *flow->last = piece;
    flow->last = &piece->next;
}

/* Take what has arrived; the end of a stream is an empty piece. */
static void receive(struct flow *flow)
{
    struct piece *piece = malloc(sizeof *piece + PIECE);
    ssize_t size = recv(flow->from, piece->data, PIECE, MSG_DONTWAIT);
    if (size < 0 && errno == EAGAIN) {
        free(piece);
        return;
    }
    flow->ended = size <= 0;
    size_t length = size > 0 ? (size_t)size : 0;
    piece = realloc(piece, sizeof *piece + length);
    add_piece(flow, piece, length);
}

/* Send what is due. */
static void deliver(struct flow *flow)
{
    struct piece *piece;
    flow->stuck = false;
    while ((piece = flow->first) && piece->due <= now()) {
        if (piece->sent == 0 && lateness_count < SAMPLES)
            lateness[lateness_count++] = now() - piece->due;
        if (piece->size == 0)
            shutdown(flow->to, SHUT_WR);
        while (piece->sent < piece->size) {
            ssize_t sent = send(flow->to, piece->data + piece->sent, piece->size - piece->sent,
                                MSG_DONTWAIT | MSG_NOSIGNAL);
            if (sent < 0 && errno == EAGAIN) {
                flow->stuck = true;
                return;
            }
            if (sent < 0)
                break; /* the receiver is gone */
            piece->sent += (size_t)sent;
        }
        flow->first = piece->next;
        if (!flow->first)
            flow->last = &flow->first;
        free(piece);
    }
}

/* Forget connections of which both directions have ended. */
static void forget(void)
{
    for (size_t i = 0; i < flow_count;) {
        struct flow *there = &flows[i], *back = &flows[i + 1];
        if (!(there->ended && back->ended && !there->first && !back->first)) {
            i += 2;
            continue;
        }
        close(there->from);
        close(back->from);
        flow_count -= 2;
        for (size_t each = 0; each < 2; each++) {
            flows[i + each] = flows[flow_count + each];
            if (!flows[i + each].first)
                flows[i + each].last = &flows[i + each].first;
        }
    }
}

static int compare(const void *a, const void *b)
{
    int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
    return (x > y) - (x < y);
}

static void report(void)
{
    qsort(lateness, lateness_count, sizeof *lateness, compare);
    size_t n = lateness_count;
    printf("{\"pieces\": %zu, \"p50_ns\": %lld, \"p99_ns\": %lld, \"max_ns\": %lld}\n", n,
           n ? (long long)lateness[n / 2] : 0, n ? (long long)lateness[n * 99 / 100] : 0,
           n ? (long long)lateness[n - 1] : 0);
    fflush(stdout);
    lateness_count = 0;
}

/* Execute the commands that have arrived; returns false at the end of the input. */
static bool execute(void)
{
    static char line[COMMAND];
    static size_t size;
    ssize_t got = read(STDIN_FILENO, line + size, sizeof line - 1 - size);
    if (got <= 0)
        return false;
    size += (size_t)got;
    line[size] = 0;
    char *end;
    while ((end = strchr(line, '\n'))) {
        long long value;
        if (sscanf(line, "delay %lld", &value) == 1)
            delay = value;
        else if (!strncmp(line, "report", 6))
            report();
        size -= (size_t)(end + 1 - line);
        memmove(line, end + 1, size + 1);
    }
    return size < sizeof line - 1;
}

/* Wait until something arrives or is due. The first two are the listener and the commands. */
static size_t wait_for_events(struct pollfd *polled, int listener, bool commands)
{
    int64_t due = INT64_MAX;
    size_t count = 2;
    polled[0] = (struct pollfd){.fd = listener, .events = POLLIN};
    polled[1] = (struct pollfd){.fd = commands ? STDIN_FILENO : -1, .events = POLLIN};
    for (size_t i = 0; i < flow_count; i++) {
        struct flow *flow = &flows[i];
        polled[count++] = (struct pollfd){.fd = flow->ended ? -1 : flow->from, .events = POLLIN};
        polled[count++] = (struct pollfd){.fd = flow->stuck ? flow->to : -1, .events = POLLOUT};
        if (flow->first && !flow->stuck && flow->first->due < due)
            due = flow->first->due;
    }
    int64_t left = due - EARLY - now();
    if (left < 0)
        left = 0;
    struct timespec timeout = {.tv_sec = left / SECOND, .tv_nsec = left % SECOND};
    if (ppoll(polled, count, due == INT64_MAX ? NULL : &timeout, NULL) < 0)
        fail("ppoll");
    return count;
}

static void run(int listener, int target, bool commands)
{
    static struct pollfd polled[2 + 4 * LINKS];
    for (;;) {
        size_t before = (wait_for_events(polled, listener, commands) - 2) / 2;
        if (polled[1].revents && !execute())
            return;
        for (size_t i = 0; i < before; i++)
            if (polled[2 + 2 * i].revents)
                receive(&flows[i]);
        for (size_t i = 0; i < before; i++)
            if (flows[i].first)
                deliver(&flows[i]);
        forget();
        if (polled[0].revents)
            accept_link(listener, target);
    }
}

/* Run as soon as something is due, if that is permitted. */
static bool be_punctual(void)
{
    struct sched_param priority = {.sched_priority = 1};
    prctl(PR_SET_TIMERSLACK, 1UL, 0, 0, 0);
    if (!sched_setscheduler(0, SCHED_FIFO, &priority))
        return true;
    setpriority(PRIO_PROCESS, 0, -20);
    return false;
}

/* -- the probe */

static void echo(int listener)
{
    char byte;
    int sock = accept(listener, NULL, NULL);
    send_at_once(sock);
    while (recv(sock, &byte, 1, 0) == 1 && send(sock, &byte, 1, MSG_NOSIGNAL) == 1)
        ;
    exit(0);
}

static void probe(long count)
{
    int echo_port, port;
    int echo_listener = listen_on_free_port(&echo_port);
    int listener = listen_on_free_port(&port);
    be_punctual(); /* the children inherit it */
    pid_t echoing = fork();
    if (!echoing)
        echo(echo_listener);
    pid_t proxy = fork();
    if (!proxy) {
        run(listener, echo_port, false);
        exit(0);
    }
    close(echo_listener);
    close(listener);
    int sock = connect_to(port);
    for (long i = 0; i < count; i++) {
        char byte = 'x';
        int64_t began = now();
        if (send(sock, &byte, 1, MSG_NOSIGNAL) != 1 || recv(sock, &byte, 1, 0) != 1)
            fail("probe");
        printf("%lld\n", (long long)(now() - began));
    }
    kill(proxy, SIGKILL);
    kill(echoing, SIGKILL);
    waitpid(proxy, NULL, 0);
    waitpid(echoing, NULL, 0);
}

int main(int count, char **words)
{
    if (count == 4 && !strcmp(words[1], "probe")) {
        delay = atoll(words[2]);
        probe(atol(words[3]));
        return 0;
    }
    if (count != 2) {
        fprintf(stderr, "usage: delay TARGET_PORT | delay probe NANOSECONDS COUNT\n");
        return 2;
    }
    int port;
    int listener = listen_on_free_port(&port);
    bool is_real_time = be_punctual();
    printf("port %d %s\n", port, is_real_time ? "real-time" : "ordinary");
    fflush(stdout);
    run(listener, atoi(words[1]), true);
    return 0;
}
