/* Preloaded into every process of a contender: counts the calls that make data durable, and slows them down.
 *
 * The file named by CAPTCHAD_BENCH_SYNC is mapped by all processes: the delay in nanoseconds, then the count. A sync
 * takes at least the delay; the real one is part of it. With a negative delay fsync and fdatasync do nothing: where only
 * the size of the files is of interest. Whatever writes with RWF_DSYNC or RWF_SYNC is a sync, too.
 * Nobody here opens files with O_DSYNC or O_SYNC: that would need a look at each write. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

struct shared { _Atomic int64_t delay_ns; _Atomic int64_t syncs; };

static struct shared *shared;

__attribute__((constructor)) static void map_shared(void)
{
    const char *path = getenv("CAPTCHAD_BENCH_SYNC");
    int fd = path ? open(path, O_RDWR | O_CLOEXEC) : -1;
    if (fd < 0)
        return;
    void *at = mmap(NULL, sizeof(struct shared), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    shared = at == MAP_FAILED ? NULL : at;
    close(fd);
}

static struct timespec begun(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now;
}

/* The sync that began at `start` has returned `result`: wait until its time is up. errno stays as it is. */
static long end_sync(struct timespec start, long result)
{
    if (!shared)
        return result;
    atomic_fetch_add(&shared->syncs, 1);
    int64_t delay = atomic_load(&shared->delay_ns);
    if (delay > 0) {
        start.tv_nsec += delay;
        start.tv_sec += start.tv_nsec / 1000000000;
        start.tv_nsec %= 1000000000;
        while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &start, NULL) != 0)
            ;
    }
    return result;
}

static int one_file(long call, int fd)
{
    struct timespec start = begun();
    return end_sync(start, shared && atomic_load(&shared->delay_ns) < 0 ? 0 : syscall(call, fd));
}

int fsync(int fd) { return one_file(SYS_fsync, fd); }

int fdatasync(int fd) { return one_file(SYS_fdatasync, fd); }

int syncfs(int fd) { struct timespec start = begun(); return end_sync(start, syscall(SYS_syncfs, fd)); }

int msync(void *at, size_t length, int flags)
{
    struct timespec start = begun();
    long result = syscall(SYS_msync, at, length, flags);
    return flags & MS_SYNC ? end_sync(start, result) : result;
}

int sync_file_range(int fd, off64_t offset, off64_t length, unsigned flags)
{
    struct timespec start = begun();
    long result = syscall(SYS_sync_file_range, fd, offset, length, flags);
    return flags & SYNC_FILE_RANGE_WAIT_AFTER ? end_sync(start, result) : result;
}

ssize_t pwritev2(int fd, const struct iovec *parts, int count, off_t offset, int flags)
{
    struct timespec start = begun();
    /* The kernel takes the offset in two halves; on 64 bits the first holds it all. */
    long result = syscall(SYS_pwritev2, fd, parts, count, offset, 0L, flags);
    return flags & (RWF_DSYNC | RWF_SYNC) ? end_sync(start, result) : result;
}

ssize_t pwritev64v2(int fd, const struct iovec *parts, int count, off64_t offset, int flags)
{
    return pwritev2(fd, parts, count, offset, flags);
}
