/*
 * umlfast: QEMU in User-Mode Linux, where a system call costs 10 us and there is no vDSO.
 *
 * QEMU reads QMP byte by byte, asks the clock around each byte and wakes itself through eventfds: some seven system calls
 * a byte, for the 40 KB that libvirt sends at every start. Here
 *  - clock_gettime() and its kin answer from the TSC, set right by the kernel's clock every few milliseconds;
 *  - a one-byte recvmsg() reads a block, and poll() and read() answer from it;
 *  - a write to an eventfd that is signalled already is left out.
 * The library is a dependency of the QEMU binary (host/disk.py), so it is in no other process. Not for KVM or vhost, where
 * the kernel itself consumes the eventfds.
 */
#define _GNU_SOURCE
#include <poll.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>
#include <x86intrin.h>

#define SECOND 1000000000LL
#define CALIBRATION 20000000LL /* ns of a process's life after which the rate of its TSC is known */
#define RESYNC 4000000LL       /* ns that the TSC is trusted */
#define DESCRIPTORS 1024

/* ---- time ---- */

static double ns_per_tick; /* 0 while it is not known */
static __thread struct {
    unsigned long long tsc; /* when the kernel was asked last */
    long long ns;           /* its answer */
    long long given;        /* our last answer: time does not go back */
} clocks[2];                /* CLOCK_REALTIME, CLOCK_MONOTONIC */

static long long ask_kernel(clockid_t id)
{
    struct timespec t;
    syscall(SYS_clock_gettime, id, &t);
    return t.tv_sec * SECOND + t.tv_nsec;
}

static long long calibrate(clockid_t id)
{
    static unsigned long long first_tsc;
    static long long first_ns;
    unsigned long long tsc = __rdtsc();
    long long ns = ask_kernel(id);

    if (id != CLOCK_MONOTONIC)
        return ns;
    if (!first_tsc) {
        first_ns = ns;
        first_tsc = tsc;
    } else if (ns - first_ns > CALIBRATION && tsc > first_tsc) {
        ns_per_tick = (double)(ns - first_ns) / (double)(tsc - first_tsc);
    }
    return ns;
}

static long long now(clockid_t id)
{
    unsigned long long tsc = __rdtsc();
    long long ns;

    if (ns_per_tick == 0)
        return calibrate(id);
    ns = (long long)((double)(tsc - clocks[id].tsc) * ns_per_tick);
    if (clocks[id].tsc == 0 || tsc < clocks[id].tsc || ns > RESYNC) {
        ns = clocks[id].ns = ask_kernel(id);
        clocks[id].tsc = tsc;
    } else {
        ns += clocks[id].ns;
    }
    if (id == CLOCK_MONOTONIC && ns < clocks[id].given)
        ns = clocks[id].given;
    return clocks[id].given = ns;
}

int clock_gettime(clockid_t id, struct timespec *t)
{
    long long ns;

    if (id != CLOCK_REALTIME && id != CLOCK_MONOTONIC)
        return (int)syscall(SYS_clock_gettime, id, t);
    ns = now(id);
    t->tv_sec = ns / SECOND;
    t->tv_nsec = ns % SECOND;
    return 0;
}

int gettimeofday(struct timeval *restrict t, void *restrict zone)
{
    long long ns = now(CLOCK_REALTIME);

    (void)zone;
    t->tv_sec = ns / SECOND;
    t->tv_usec = ns % SECOND / 1000;
    return 0;
}

time_t time(time_t *t)
{
    time_t seconds = now(CLOCK_REALTIME) / SECOND;

    if (t)
        *t = seconds;
    return seconds;
}

/* ---- descriptors ---- */

enum { NOT_AN_EVENT, IDLE, SIGNALLED };
static atomic_char events[DESCRIPTORS];
static struct block {
    size_t at, length;
    char content[4096];
} *blocks[DESCRIPTORS]; /* what recvmsg() read ahead */

static int known(int fd)
{
    return fd >= 0 && fd < DESCRIPTORS;
}

static struct block *ahead(int fd)
{
    return known(fd) && blocks[fd] && blocks[fd]->at < blocks[fd]->length ? blocks[fd] : NULL;
}

static ssize_t take(struct block *b, void *to, size_t n)
{
    if (n > b->length - b->at)
        n = b->length - b->at;
    memcpy(to, b->content + b->at, n);
    b->at += n;
    return (ssize_t)n;
}

int eventfd(unsigned int count, int flags)
{
    int fd = (int)syscall(SYS_eventfd2, count, flags);

    if (known(fd))
        events[fd] = IDLE;
    return fd;
}

int close(int fd)
{
    if (known(fd)) {
        events[fd] = NOT_AN_EVENT;
        if (blocks[fd])
            blocks[fd]->at = blocks[fd]->length = 0;
    }
    return (int)syscall(SYS_close, fd);
}

ssize_t read(int fd, void *to, size_t n)
{
    struct block *b = ahead(fd);
    ssize_t got;

    if (b)
        return take(b, to, n);
    got = syscall(SYS_read, fd, to, n);
    /* only now: whoever still saw SIGNALLED changed its state before we look at that state again */
    if (known(fd) && events[fd] != NOT_AN_EVENT)
        atomic_exchange(&events[fd], IDLE);
    return got;
}

ssize_t write(int fd, const void *from, size_t n)
{
    if (n == 8 && known(fd) && events[fd] != NOT_AN_EVENT && atomic_exchange(&events[fd], SIGNALLED) == SIGNALLED)
        return 8;
    return syscall(SYS_write, fd, from, n);
}

ssize_t recvmsg(int fd, struct msghdr *message, int flags)
{
    struct block *b = ahead(fd);
    struct iovec whole, *wanted = message->msg_iov;
    ssize_t got;

    if (b && !(flags & MSG_PEEK)) {
        message->msg_controllen = message->msg_namelen = 0;
        message->msg_flags = 0;
        return take(b, wanted[0].iov_base, wanted[0].iov_len);
    }
    if (!known(fd) || flags & MSG_PEEK || message->msg_iovlen != 1 || wanted[0].iov_len != 1)
        return syscall(SYS_recvmsg, fd, message, flags);
    if (!blocks[fd] && !(blocks[fd] = calloc(1, sizeof(struct block))))
        return syscall(SYS_recvmsg, fd, message, flags);
    b = blocks[fd];
    whole = (struct iovec){b->content, sizeof b->content};
    message->msg_iov = &whole; /* descriptors that are passed come with the first byte, as before */
    got = syscall(SYS_recvmsg, fd, message, flags);
    message->msg_iov = wanted;
    if (got <= 0)
        return got;
    b->at = 0;
    b->length = (size_t)got;
    return take(b, wanted[0].iov_base, 1);
}

/* How many of the descriptors can be read from what was read ahead; only these are then told as ready. */
static int ready_ahead(struct pollfd *fds, nfds_t n)
{
    int ready = 0;

    for (nfds_t i = 0; i < n; i++)
        ready += ahead(fds[i].fd) && fds[i].events & POLLIN;
    for (nfds_t i = 0; ready && i < n; i++)
        fds[i].revents = ahead(fds[i].fd) ? fds[i].events & POLLIN : 0;
    return ready;
}

int poll(struct pollfd *fds, nfds_t n, int timeout)
{
    int ready = ready_ahead(fds, n);

    return ready ? ready : (int)syscall(SYS_poll, fds, n, timeout);
}

int ppoll(struct pollfd *fds, nfds_t n, const struct timespec *timeout, const sigset_t *mask)
{
    int ready = ready_ahead(fds, n);
    struct timespec rest; /* the kernel writes into it what is left */

    if (ready)
        return ready;
    if (timeout)
        rest = *timeout;
    return (int)syscall(SYS_ppoll, fds, n, timeout ? &rest : NULL, mask, _NSIG / 8);
}
