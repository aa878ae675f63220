// The floor under `mountd reconcile`: the calls it makes for each new volume, in a loop in C.
// usage: floor SOURCES TARGETS COUNT, folders with subfolders 0 … COUNT-1; prints µs per volume.
//        floor SOURCES COUNT, the least a pass with nothing to do can do: one statx of each source.
#define _GNU_SOURCE
#include <fcntl.h>
#include <linux/mount.h>
#include <linux/openat2.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static void need(long result, const char *what) {
    if (result < 0) { perror(what); exit(1); }
}

static int opened(const char *path, int flags) {
    struct open_how how = {.flags = O_PATH | O_CLOEXEC | flags, .resolve = RESOLVE_NO_SYMLINKS};
    int fd = syscall(SYS_openat2, AT_FDCWD, path, &how, sizeof how);
    need(fd, path);
    return fd;
}

static void look(int fd, const char *name, int flags) {
    struct statx found;
    need(statx(fd, name, flags, STATX_BASIC_STATS | 0x4000, &found), "statx");
}

static int leave(void *unused) { (void)unused; _exit(0); }

static int namespace_of(const char *uids, const char *gids) {
    static char stack[65536];
    int child = clone(leave, stack + sizeof stack, CLONE_NEWUSER | CLONE_VM | CLONE_VFORK | CLONE_FILES, NULL);
    char path[64];
    need(child, "clone");
    for (int i = 0; i < 2; i++) {
        snprintf(path, sizeof path, "/proc/%d/%s", child, i ? "gid_map" : "uid_map");
        int fd = open(path, O_WRONLY);
        const char *map = i ? gids : uids;
        need(write(fd, map, strlen(map)), path);
        close(fd);
    }
    snprintf(path, sizeof path, "/proc/%d/ns/user", child);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    need(fd, path);
    waitpid(child, NULL, __WCLONE);
    return fd;
}

static struct timespec begin;

static void tell(int count) {
    struct timespec end;
    clock_gettime(CLOCK_MONOTONIC, &end);
    printf("%.3f\n", ((end.tv_sec - begin.tv_sec) * 1e9 + end.tv_nsec - begin.tv_nsec) / 1e3 / count);
}

static int look_at_all(const char *sources, int count) {
    char path[512];
    clock_gettime(CLOCK_MONOTONIC, &begin);
    for (int i = 0; i < count; i++) {
        snprintf(path, sizeof path, "%s/%d", sources, i);
        look(AT_FDCWD, path, AT_SYMLINK_NOFOLLOW);
    }
    tell(count);
    return 0;
}

int main(int argc, char **argv) {
    if (argc == 3) return look_at_all(argv[1], atoi(argv[2]));
    if (argc != 4) return 64;
    int count = atoi(argv[3]);
    int *source = calloc(count, sizeof *source), *tree = calloc(count, sizeof *tree);
    char path[512], name[16];
    clock_gettime(CLOCK_MONOTONIC, &begin);
    int userns = namespace_of(
        "0 0 501\n501 1000 1\n502 502 498\n1000 501 1\n1001 1001 4294966294\n",
        "0 0 20\n20 1000 1\n21 21 979\n1000 20 1\n1001 1001 4294966294\n");
    struct mount_attr attr = {
        .attr_set = MOUNT_ATTR_IDMAP | MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV,
        .attr_clr = MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV | MOUNT_ATTR_NOEXEC | MOUNT_ATTR__ATIME,
        .propagation = 1 << 18, // MS_PRIVATE
        .userns_fd = userns,
    };
    for (int i = 0; i < count; i++) { // resolve
        snprintf(path, sizeof path, "%s/%d", argv[1], i);
        source[i] = opened(path, 0);
        look(source[i], "", AT_EMPTY_PATH);
        int folder = opened(argv[2], O_DIRECTORY);
        snprintf(name, sizeof name, "%d", i);
        look(folder, name, AT_SYMLINK_NOFOLLOW);
        look(folder, name, AT_SYMLINK_NOFOLLOW);
        close(folder);
    }
    for (int i = 0; i < count; i++) { // build
        tree[i] = syscall(SYS_open_tree, source[i], "", OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | AT_EMPTY_PATH);
        need(tree[i], "open_tree");
        need(syscall(SYS_mount_setattr, tree[i], "", AT_EMPTY_PATH, &attr, sizeof attr), "mount_setattr");
        look(tree[i], "", AT_EMPTY_PATH);
        close(source[i]);
    }
    for (int i = 0; i < count; i++) { // attach
        snprintf(name, sizeof name, "%d", i);
        int folder = opened(argv[2], O_DIRECTORY);
        look(folder, name, AT_SYMLINK_NOFOLLOW);
        look(folder, name, AT_SYMLINK_NOFOLLOW);
        need(syscall(SYS_move_mount, tree[i], "", folder, name, MOVE_MOUNT_F_EMPTY_PATH), "move_mount");
        snprintf(path, sizeof path, "%s/%d", argv[2], i);
        look(AT_FDCWD, path, AT_SYMLINK_NOFOLLOW);
        close(folder);
        close(tree[i]);
    }
    tell(count);
    return 0;
}
