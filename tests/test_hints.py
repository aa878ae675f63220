"""Every hint about a volume, followed to the letter: the state, the hint, and what that does.

A row brings a state about in which a pass fails, and names the function that has the words. What
follows the hint are its own commands, or what a person does who reads it; then the pass is made
again, and the trouble has to be gone.
"""

import inspect
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import pytest
from fuse_server import served
from refusals import filesystem
from silent_server import Server
from watcher import PATIENCE, eventually
from world import MOUNTD, Result, World, mount_idmapped, owner, run, running

from mountd.check import words
from mountd.check.words import Doubt
from mountd.core.words import faults, filesystem_faults, idmap_faults, mount_faults

Step = Callable[[World, ExitStack], object]
_STATE = "--manifest $/mountd.toml --state-dir $/state"
_PATH = {"PATH": f"{os.path.dirname(MOUNTD)}:{os.environ['PATH']}"}


class Row(NamedTuple):
    """A state, the hint in it (`$` is the world's path), and what follows it.

    `follow` None: the hint's own commands, in their order. `again` is run instead of the first
    command, where that one was wrong itself.
    """

    of: str
    make: Step
    hint: str
    follow: Step | None = None
    run: Callable[[World], Result] = lambda world: world.mountd("reconcile")
    again: Callable[[World], Result] = lambda world: world.mountd("reconcile")


def work(world: World, **keys: Any) -> None:
    """A manifest of the volume `work` alone, whose source is 501's."""
    world.volumes(work=table(world, **keys))


def table(world: World, **keys: Any) -> dict[str, Any]:
    if not (world / "source").exists():
        world.folder("source")
    keys = {"source": world / "source", "target": world / "work", "user": "1000:1000"} | keys
    return {key: value for key, value in keys.items() if value is not None}


def mounted(world: World, **keys: Any) -> None:
    work(world, **keys)
    world.reconcile()


def says(**keys: Any) -> Step:
    """Have the manifest's volume say this instead."""
    return lambda world, _: work(world, **{key: _real(world, each) for key, each in keys.items()})


def _real(world: World, value: Any) -> Any:
    return value.replace("$", world.path) if isinstance(value, str) else value


def shell(script: str) -> Step:
    return lambda world, _: run("sh", "-ec", script.replace("$/", f"{world.path}/"))


def then(*steps: Step) -> Step:
    def each(world: World, held: ExitStack) -> None:
        for step in steps:
            step(world, held)

    return each


def first(**keys: Any) -> Step:
    """One pass with these keys, which succeeds."""
    return lambda world, _: mounted(world, **{key: _real(world, it) for key, it in keys.items()})


def as_user(world: World) -> Result:
    return world.mountd("reconcile", "--dry-run", uid=1000)


def _two(world: World, _: ExitStack, **others: Any) -> None:
    world.volumes(work=table(world), other=table(world, **others))


def _by_another_manifest(world: World, _: ExitStack) -> None:
    world.manifest = f"{world.path}/other file.toml"
    mounted(world)
    world.manifest = f"{world.path}/mountd.toml"
    work(world)


def _stranger_with_one_of_ours(world: World, _: ExitStack) -> None:
    (world / "work").mkdir()
    run("mount", "-t", "tmpfs", "tmpfs", str(world / "work"))
    world.volumes(sub=table(world, target=world / "work/sub"))
    world.reconcile()
    world.volumes(work=table(world), sub=table(world, target=world / "work/sub"))


def _rest_without_sub(world: World, _: ExitStack) -> None:
    world.volumes(work=table(world))


def _holder(program: str, **keys: Any) -> Step:
    """A process that runs this in the volume's mount, until the hint is followed."""

    def hold(world: World, held: ExitStack) -> None:
        mounted(world, idmap="always")
        script = f"{program}; print(flush=True); input()"
        held.enter_context(running(sys.executable, "-c", script, cwd=world / "work"))
        if keys:
            work(world, idmap="always", **keys)
        else:
            world.write("version = 1")

    return hold


def _let_go(_: World, held: ExitStack) -> None:
    held.close()


def _leaving_but_busy_below(world: World, held: ExitStack) -> None:
    world.volumes(sub=table(world, target=world / "work/sub"))
    world.reconcile()
    words = [sys.executable, "-c", "print(flush=True); input()"]
    held.enter_context(running(*words, cwd=world / "work/sub"))
    work(world)


def _moved_in_vain(world: World, _: ExitStack) -> None:
    mounted(world)
    os.symlink("/usr", world / "link")
    (world / "disk").mkdir()
    run("mount", "-t", "tmpfs", "-o", "ro", "tmpfs", str(world / "disk"))
    work(world, target=world / "disk/work")


def _tmpfs(**keys: Any) -> Step:
    """The volume is of a tmpfs, or of what the keys say."""
    return lambda world, _: world.volumes(
        work={"type": "tmpfs", "source": "files", "target": world / "work", **keys}
    )


def _layers(lower: str) -> Step:
    def make(world: World, _: ExitStack) -> None:
        (world / "upper").mkdir()
        layers = [f"lowerdir={_real(world, lower)}:{world / 'upper'}"]
        keys = {"type": "overlay", "source": "overlay", "options": layers}
        world.volumes(work={**keys, "target": world / "work"})

    return make


def _linked(world: World, held: ExitStack) -> None:
    world.reconcile()
    (world / "work/real").mkdir()
    (world / "work/link").symlink_to("real")
    _tmpfs(subdir="link")(world, held)


def _group(name: str) -> Step:
    return lambda world, _: world.rootfs("root:x:0:0::/:/bin/sh\n", f"{name}:x:1000:\n")


def _user(name: str) -> Step:
    return lambda world, _: world.rootfs(f"root:x:0:0::/:/bin/sh\n{name}:x:1000:1000::/:/bin/sh\n")


def _accounts(user: str) -> Step:
    def make(world: World, _: ExitStack) -> None:
        work(world, user=user, accounts=world.rootfs("root:x:0:0::/:/bin/sh\n"))

    return make


def _link_of_a_users(world: World, _: ExitStack) -> None:
    world.folder("home", owner=(1000, 1000))
    world.folder("source")
    os.symlink(world / "source", world / "home/link")
    os.lchown(world / "home/link", 1000, 1000)
    work(world, source=world / "home/link")


def _loose_accounts(world: World, _: ExitStack) -> None:
    etc = world.rootfs("root:x:0:0::/:/bin/sh\nnode:x:1000:1000::/:/bin/sh\n") / "etc"
    run("mount", "--bind", str(etc), "/etc")
    os.chmod("/etc/passwd", 0o666)
    work(world, user="node")


def _passwd_is(make: Callable[[Path], object]) -> Step:
    def step(world: World, _: ExitStack) -> None:
        root = world.rootfs("")
        (root / "etc/passwd").unlink()
        make(root / "etc/passwd")
        work(world, user="node", accounts=root)

    return step


def _put_passwd(world: World, held: ExitStack) -> None:
    run("rm", "-r", str(world / "rootfs/etc/passwd"))
    _user("node")(world, held)


def _waiting(world: World, _: ExitStack) -> None:
    world.folder("source/in")
    world.volumes(
        base={"source": world / "late", "target": world / "base"},
        work=table(world, source=world / "base/in"),
    )


def _circle(world: World, _: ExitStack) -> None:
    for name in ("a", "b"):
        (world / name / "x").mkdir(parents=True)
    os.symlink(world / "b/x", world / "to-b")
    os.symlink(world / "a/x", world / "to-a")
    world.volumes(
        one={"source": world / "to-b", "target": world / "a"},
        work={"source": world / "to-a", "target": world / "b"},
    )


def _straightened(world: World, _: ExitStack) -> None:
    world.volumes(
        one={"source": world.folder("real/one"), "target": world / "a"},
        work={"source": world.folder("real/two"), "target": world / "b"},
    )


def _silent(world: World, held: ExitStack) -> None:
    server = Server(world / "source")
    held.callback(server.die)
    work(world)
    server.fall_silent()


def _replaced_server(world: World, held: ExitStack) -> None:
    held.close()
    run("umount", "--lazy", str(world / "source"))
    server = Server(world / "source")
    held.callback(server.die)


def _gone(world: World, _: ExitStack) -> None:
    server = Server(world / "source")
    work(world)
    server.die()


def _private_fuse(world: World, held: ExitStack) -> None:
    """As an sshfs of 1000's is without allow_other: whoever else asks is refused unheard."""
    (world / "source").mkdir()
    work(world)
    options = "rootmode=40000,user_id=1000,group_id=1000"
    script = "import ctypes, os; fuse = os.open('/dev/fuse', os.O_RDWR); print(ctypes.CDLL(None)"
    script += f".mount(b'x', b'{world.path}/source', b'fuse', 0, f'fd={{fuse}},{options}'.encode()"
    script += "), flush=True); input()"
    held.enter_context(running(sys.executable, "-c", script))


_SSHFS = {"/": {"uid": 501, "gid": 20}}


def _public_fuse(world: World, held: ExitStack) -> None:
    held.close()
    run("umount", str(world / "source"))
    held.enter_context(served(world / "source", _SSHFS, idmapped=True))


def _full(world: World, _: ExitStack) -> None:
    Path(world.state).mkdir()
    run("mount", "-t", "tmpfs", "-o", "mode=755,size=4k", "tmpfs", world.state)
    Path(world.state, "ballast").write_bytes(bytes(4096))
    work(world)


def _overlay(**keys: Any) -> Step:
    def make(world: World, held: ExitStack) -> None:
        held.enter_context(filesystem(world, "overlay"))
        work(world, **keys)

    return make


def _idmapped_below(world: World, _: ExitStack) -> None:
    for name in ("real", "source", "source/below"):
        world.folder(name)
    mount_idmapped(world / "real", world / "source/below", (0, 0, 4294967295))
    work(world, recursive=True, fallback="fail")


def _of_root(world: World, _: ExitStack) -> None:
    world.folder("source", owner=(0, 0))
    run("mount", "-o", "remount,suid", world.path)
    work(world)


def _in_place_over_another(world: World, _: ExitStack) -> None:
    world.folder("source")
    world.folder("source/sub")
    world.volumes(sub=table(world, target=world / "source/sub"))
    world.reconcile()
    world.volumes(
        sub=table(world, target=world / "source/sub"),
        work=table(world, target=world / "source", recursive=True),
    )


def _not_recursive(world: World, _: ExitStack) -> None:
    world.volumes(
        sub=table(world, target=world / "source/sub"), work=table(world, target=world / "source")
    )


def _lost(world: World, _: ExitStack) -> None:
    mounted(world, target=world / "source")
    Path(world.state, "record.json").unlink()
    work(world, target=world / "source", user="1001:1001")


_BIND = 'mount -t tmpfs -o mode=755 x "$/{}"'.format
_NO_OVERLAY = (
    "name the folder on the filesystem below, the overlay's lowerdir, as the source, or mount it"
    ' with raw ids by `idmap = "never"`'
)
_OR_CHOOSE = ", or choose another target"
_UNMOUNT = f"`mountd unmount {{}} {_STATE}`".format

ROWS = {
    # Mounts that are in the way.
    "a mount at the target": Row(
        "foreign_mount", then(shell(f"mkdir $/work; {_BIND('work')}"), says()),
        f"`umount $/work`{_OR_CHOOSE}",
    ),
    "two on each other, and one below": Row(
        "foreign_mount",
        then(shell(f"mkdir $/work; {_BIND('work')}; {_BIND('work')}; mkdir $/work/in;"
                   f"{_BIND('work/in')}"), says()),
        f"`umount $/work/in $/work $/work`{_OR_CHOOSE}",
    ),
    "a mount at a target with a space and a quote": Row(
        "foreign_mount",
        then(shell(f"""mkdir "$/My 'Disk"; {_BIND("My 'Disk")}"""), says(target="$/My 'Disk")),
        f"""`umount '$/My '"'"'Disk'`{_OR_CHOOSE}""",
    ),
    "a mount over the volume's own": Row(
        "foreign_mount", then(first(), shell(_BIND("work"))), f"`umount $/work`{_OR_CHOOSE}",
    ),
    "a stranger's with a mount of ours on it": Row(
        "foreign_mount", _stranger_with_one_of_ours,
        f"{_UNMOUNT('sub')}, then `umount $/work`{_OR_CHOOSE}",
    ),
    "mounts below the target, in a name of two lines": Row(
        "mount_below",
        then(shell("mkdir -p $/work/a '$/work/b\nc' && mount -t tmpfs x $/work/a &&"
                   " mount -t tmpfs x '$/work/b\nc'"), says()),
        f'`umount $/work/a "$(printf \'$/work/b\\012c\')"`{_OR_CHOOSE}',
    ),
    "a mount over a folder above": Row(
        "covered_above", then(first(target="$/home/a/work"), shell(_BIND("home"))),
        "`umount $/home`",
    ),
    "two such, each with one below": Row(
        "covered_above",
        then(first(target="$/home/a/work"),
             shell(f"{_BIND('home/a')}; {_BIND('home')}; mkdir $/home/b; {_BIND('home/b')}")),
        "`umount $/home/b $/home $/home/a`",
    ),
    "its mount is to leave, and is covered": Row(
        "covered_above",
        then(first(target="$/home/work"), shell(_BIND("home")), says(enabled=False)),
        "`umount $/home`",
    ),
    "another manifest's mount": Row(
        "managed_elsewhere", _by_another_manifest,
        f"`mountd unmount work --manifest '$/other file.toml' --state-dir $/state`{_OR_CHOOSE}",
    ),
    "a mount in place of a record that was lost": Row(
        "perhaps_ours", _lost, "if so, `umount $/source`",
    ),
    "two targets that are one": Row(
        "same_target",
        then(shell("ln -s work $/link"), lambda world, _: _two(world, _, target=world / "link")),
        "give one of them another target",
        lambda world, _: _two(world, _, target=world / "elsewhere"),
    ),
    "an unbindable source": Row(
        "unbindable",
        then(says(), shell("mount --bind $/source $/source; mount --make-unbindable $/source;"
                           "mkdir $/source/in; chown 501:20 $/source/in"),
             says(source="$/source/in")),
        "`mount --make-private $/source`",
    ),
    "a volume below a recursive one in place": Row(
        "volume_below_recursive", _in_place_over_another,
        "leave `recursive` out, or choose another target for one of them", _not_recursive,
    ),
    "a mount on one that is to go": Row(
        "busy",
        then(first(), shell("mkdir $/work/a; mount -t tmpfs x $/work/a; mkdir $/work/a/b;"
                            "mount -t tmpfs x $/work/a/b"), says(enabled=False)),
        "`umount --recursive $/work/a`; the next pass tries again",
    ),
    "a process in one that is to go": Row(
        "busy", _holder("pass"),
        "have them leave the folder and close its files; the next pass tries again", _let_go,
    ),
    "a writer on one that becomes read-only": Row(
        "busy_writers", _holder("file = open('hello', 'a')", read_only=True),
        "have them closed; the next pass tries again", _let_go,
    ),
    "one that is busy below a new one": Row(
        "busy_below", _leaving_but_busy_below,
        "free $/work/sub; the next pass tries again", _let_go,
    ),
    "a target that was moved to where nothing can be": Row(
        "read_only_above", _moved_in_vain,
        "make it beforehand, or choose a place that can be written",
        says(target="$/elsewhere"),
    ),
    # Sources and targets.
    "no source yet": Row(
        "no_source", says(source="$/late"), "the first pass that finds it mounts the volume",
        shell("mkdir $/late; chown 501:20 $/late"),
    ),
    "no target, and none is made": Row(
        "no_target", says(create=False), "make it, or leave `create = false` out",
        shell("mkdir $/work"),
    ),
    "no target, and it is made now": Row(
        "no_target", says(create=False), "make it, or leave `create = false` out", says(),
    ),
    "a folder that its owner may not write": Row(
        "not_writable_by_owner",
        then(shell("mkdir -m 555 $/home; chown 1000:1000 $/home"), says(target="$/home/work")),
        "make the target by hand, or let its owner write there", shell("chmod u+w $/home"),
    ),
    "a link of a user's": Row(
        "unsafe_link", _link_of_a_users,
        "write the path that the link leads to, or have root make the link where only root can",
        says(),
    ),
    "a target that leads to /usr": Row(
        "forbidden_target", then(shell("ln -s /usr $/link"), says(target="$/link")),
        "choose a folder of its own", says(),
    ),
    "a source of another kind than its target": Row(
        "wrong_target_kind", then(shell("touch $/work"), says()),
        f"remove $/work{_OR_CHOOSE}", shell("rm $/work"),
    ),
    "the same, where the volume is mounted": Row(
        "wrong_target_kind",
        then(shell("touch $/file"), first(source="$/file", user=None),
             shell("rm $/file; mkdir $/file"), says(source="$/file", user=None)),
        f"{_UNMOUNT('work')}, then remove $/work{_OR_CHOOSE}",
        lambda world, _: commands_of(world, f"{_UNMOUNT('work')} `rm $/work`"),
    ),
    "the same, where a stranger's is": Row(
        "foreign_mount",
        then(shell("touch $/work $/file; mount --bind $/file $/work"), says()),
        f"`umount $/work`{_OR_CHOOSE}",
        then(lambda world, _: commands_of(world, "`umount $/work`"), shell("rm $/work")),
    ),
    "a socket as the source": Row(
        "wrong_source_kind",
        then(shell("mkdir $/run; mkfifo $/run/fifo"), says(source="$/run/fifo", user=None)),
        "name the folder that it lies in, $/run, as the source",
        says(source="$/run", user=None),
    ),
    "a file above the target": Row(
        "no_folder", then(shell("touch $/file"), says(target="$/file/work")),
        "choose another target", says(),
    ),
    "a target in its own recursive source": Row(
        "target_in_source", says(target="$/source/in", recursive=True),
        "leave `recursive` out, or choose a target outside", says(target="$/source/in"),
    ),
    "a volume that waits for another": Row(
        "waits_for", _waiting, "fix volume `base` first",
        lambda world, _: world.folder("late/in"),
    ),
    "volumes in a circle of links": Row(
        "in_circle", _circle, "move one of their sources or targets", _straightened,
    ),
    # Accounts.
    "no user": Row(
        "no_user", _accounts("node"), "add it there, or give `user` as a number", _user("node"),
    ),
    "no user, given as a number": Row(
        "no_user", _accounts("node"), "add it there, or give `user` as a number",
        says(user="1000:1000"),
    ),
    "no group": Row(
        "no_group", _accounts("1000:dev"), "add it there, or give the group as a number",
        _group("dev"),
    ),
    "an account file that others can write": Row(
        "unsafe_file", _loose_accounts,
        "check that root owns it and the folders above it, and that nobody else can write them",
        shell("chmod go-w /etc/passwd"),
    ),
    "a folder for an account file": Row(
        "not_a_file", _passwd_is(Path.mkdir), "put a file in its place", _put_passwd,
    ),
    "an account file without end": Row(
        "too_many_accounts", _passwd_is(lambda path: path.write_bytes(b"x" * (2 << 20))),
        "give `user` as `uid:gid`, or have `accounts` name a root filesystem with less", says(),
    ),
    # Servers, and what else fails.
    "a server that is silent": Row(
        "not_answering", _silent,
        "see whether the server behind it (FUSE, NFS, virtiofs) is alive; the next pass asks again",
        _replaced_server,
    ),
    "a server that is gone": Row(
        "from_kernel", _gone,
        "the server behind it is gone: unmount it, and start the server again", _replaced_server,
    ),
    "a folder that is immutable": Row(
        "immutable",
        then(shell("mkdir '$/it is'; chattr +i '$/it is'"), says(target="$/it is/work")),
        "`chattr -i '$/it is'`, or choose another target",
    ),
    "a name of too many bytes": Row(
        "name_too_long", says(target=f"$/{'n' * 256}"), "choose a target with shorter names",
        says(target="$/n"),
    ),
    "a read-only place for the target": Row(
        "read_only_above",
        then(shell("mkdir $/disk; mount -t tmpfs -o ro x $/disk"), says(target="$/disk/work")),
        "make it beforehand, or choose a place that can be written",
        shell("mount -o remount,rw $/disk; mkdir $/disk/work; mount -o remount,ro $/disk"),
    ),
    "a FUSE mount that keeps root out": Row(
        "private_fuse", _private_fuse,
        "have uid 1000 mount the FUSE filesystem at $/source with the option `allow_other`, which"
        " takes `user_allow_other` in /etc/fuse.conf",
        _public_fuse,
    ),
    "a state directory without room": Row(
        "unwritable_record", _full,
        "nothing is mounted that can't be recorded; make room, or fix the state directory",
        shell("rm $/state/ballast; mount -o remount,size=1m $/state"),
    ),
    "what a user may not see": Row(
        "not_visible",
        then(shell("mkdir -m 700 $/root; mkdir $/root/source; chown 501:20 $/root/source"),
             says(source="$/root/source")),
        "run it as root to see what root would do", lambda *_: None,
        run=as_user, again=lambda world: world.mountd("reconcile", "--dry-run"),
    ),
    # Idmappings.
    "a source of root's, and nosuid": Row(
        "root_owned", _of_root,
        "have $ mounted nosuid, or set `read_only = true`, or, where you trust uid 1000 with root,"
        ' say so with `owner = "0:0"`',
        shell("mount -o remount,nosuid $/"),
    ),
    "a source of root's, read-only": Row(
        "root_owned", _of_root,
        "have $ mounted nosuid, or set `read_only = true`, or, where you trust uid 1000 with root,"
        ' say so with `owner = "0:0"`',
        says(read_only=True, idmap="always"),
    ),
    "a source of root's, trusted": Row(
        "root_owned", _of_root,
        "have $ mounted nosuid, or set `read_only = true`, or, where you trust uid 1000 with root,"
        ' say so with `owner = "0:0"`',
        says(owner="0:0"),
    ),
    "a filesystem that refuses": Row(
        "filesystem_refuses", _overlay(fallback="fail"),
        _NO_OVERLAY,
        then(shell("chown 501:20 $/source-lower"), says(source="$/source-lower", fallback="fail")),
    ),
    "the same, with raw ids": Row(
        "filesystem_refuses", _overlay(fallback="fail"),
        _NO_OVERLAY,
        says(idmap="never", fallback="fail"),
    ),
    # Filesystems with a `type`.
    "an option that is refused": Row(
        "refused_options", _tmpfs(options=["size=1m", "bogus"]),
        "leave it out, or see what tmpfs takes in its man page or mount(8)",
        _tmpfs(options=["size=1m"]),
    ),
    "an option about the mount": Row(
        "refused_options", _tmpfs(options=["noexec"]),
        "that is about the mount, not the filesystem: volumes have the keys `nosuid`, `nodev`,"
        " `noexec`, `atime` and `required` for it",
        _tmpfs(noexec=True),
    ),
    "two options in one": Row(
        "refused_options", _tmpfs(options=["size=1m,mode=755"]),
        "where the comma parts two options, make each an item of the list",
        _tmpfs(options=["size=1m", "mode=755"]),
    ),
    "a layer that isn't there": Row(
        "option_names_nothing", _layers("$/late"),
        "the first pass that finds it mounts the volume", shell("mkdir $/late"),
    ),
    "a link in `subdir`": Row(
        "link_in_subdir",
        then(_tmpfs(), _linked), "name the folder that it leads to",
        _tmpfs(subdir="real"),
    ),
    "a label for a device": Row(
        "not_a_device_path", _tmpfs(type="ext4", source="LABEL=x"),
        "for a UUID or a label write /dev/disk/by-uuid/… or /dev/disk/by-label/…",
        _tmpfs(),
    ),
    "a filesystem that no kernel has": Row(
        "unknown_filesystem", _tmpfs(type="nosuchfs"),
        "`modprobe nosuchfs` says whether there is a module for it; /proc/filesystems lists those"
        " that need none",
        _tmpfs(),
    ),
    "a submount that is idmapped already": Row(
        "submount_is_idmapped", _idmapped_below,
        "leave `recursive` out, and give what is mounted there a volume of its own",
        says(fallback="fail"),
    ),
}  # fmt: skip

UNFOLLOWED = {
    "automount_fails": "who mounts there has the reason; tests/reconcile/test_automounts.py",
    "automount_is_empty": "the same",
    "automount_refuses": "before Linux 6.15; tests/reconcile/test_automounts.py",
    "asleep": "a note, not a hint",
    "not_moved": "what stops the new mount has a hint of its own",
    "no_home": "accounts of the machine; tests/reconcile/test_targets.py",
    "locked_below": "a user namespace; tests/reconcile/test_locked.py",
    "locked_flags": "a user namespace; tests/reconcile/test_locked.py",
    "not_cloned": "another mount namespace's mount",
    "copy_at": "mounts that propagate; tests/reconcile/test_propagation.py follows it",
    "covered_filesystem": "tests/reconcile/test_filesystem_volumes.py follows it",
    "filesystem_not_answering": "a server that hangs; tests/watch/test_hang.py",
    "no_filesystem_permitted": "a container's runtime",
    "no_subdir": "the next pass that finds it; tests/reconcile/test_filesystem_volumes.py",
    "nothing_there": "a host's share that is to come; tests/guests",
    "mounted_otherwise": "tests/reconcile/test_filesystem_volumes.py follows both",
    "not_in_force": "tests/reconcile/test_filesystem_volumes.py follows it",
    "read_only_device": "a device that is read-only; tests/kernel/test_filesystem.py",
    "busy_device": "who has a device is for a person to find out; tests/kernel/test_filesystem.py",
    "empty_device": "the next pass that finds it; tests/kernel/test_filesystem.py",
    "not_a_device": "a loop device; tests/kernel/test_filesystem.py",
    "refused_filesystem": "what is on a device is for a person to find out",
    "just_mounted": "a race; the next pass is the hint",
    "another_went": "a race; who mounts there is for a person to find out",
    "moved_meanwhile": "a race; the next pass is the hint",
    "hidden_source": "credentials that can't be read keep a mount; tests/manifest/test_layers.py",
    "keeps_being_undone": "somebody else's doing; tests/watch/test_fight.py",
    "mount_limit": "a sysctl of the whole machine; tests/kernel/test_limits.py",
    "raising": "as above",
    "too_deep": "a folder beyond PATH_MAX is moved back; tests/kernel/test_deep_paths.py",
    "never_ready": "the hint is to look at the other volumes, each of which has its own",
    "no_process": "a limit on processes; tests/kernel/test_limits.py",
    "not_as_owner": "takes a capability away; tests/kernel/test_trusted_paths.py",
    "refusing_server": "an NFS server, which there is none of here",
    "shut": "its hints are private_fuse, refusing_server, and capabilities",
    "stays_on": "its hint is that of what keeps the mount",
    "idmap_untrue": "a server of another machine's",
    "source_is_idmapped": "before Linux 6.15; tests/reconcile/test_idmapped_sources.py",
    "submount_refuses": "its hint is that of the submount's filesystem",
    "covered_submount_refuses": "the same, of a submount that doesn't show",
    "foreign_filesystem": "a container's host",
    "kernel_too_old": "another kernel; tests/kernel/test_old_kernels.py",
    "call_missing": "another kernel",
    "call_filtered": "a container's runtime; tests/kernel/test_old_kernels.py",
    "capability_missing": "a container's runtime",
    "foreign_mount_namespace": "a container's runtime",
    "unknown_ids": "a container's ids; tests/kernel/test_probe.py",
    "unknown_user": "a container's ids",
    "unknown_owner": "a container's host",
    "map_refused": "more extents than a manifest may have, composed",
    "namespaces_used_up": "a limit; tests/kernel/test_limits.py",
    "in_chroot": "a chroot; tests/kernel/test_probe.py",
    "no_namespace": "what isn't known",
    "accounts_shared": "a note, not a hint",
}
"""Why these are in no row: what their hints ask for can't be had in a test, or is shown there."""


def commands_of(world: World, hint: str) -> None:
    """Run a hint's commands, as they stand, in their order."""
    for command in hint.replace("$/", f"{world.path}/").split("`")[1::2]:
        env = {**os.environ, **_PATH}
        done = subprocess.run(["sh", "-c", command], env=env, capture_output=True, check=False)
        assert done.returncode == 0, f"{command}: {done.stderr.decode()}"


def hints_in(result: Result) -> list[str]:
    """Those of stderr, where lines aren't broken, or of a dry run's plan."""
    lines = (result.err + result.out).splitlines()
    return [line.removeprefix("hint: ") for line in lines if line.startswith("hint: ")] or [
        " ".join(result.out.split())
    ]


@pytest.fixture
def held() -> Iterator[ExitStack]:
    with ExitStack() as held:
        yield held


@pytest.mark.parametrize("state", ROWS)
def test_a_hint_that_is_followed_helps(world: World, held: ExitStack, state: str) -> None:
    row = ROWS[state]
    row.make(world, held)
    result = row.run(world)
    hint = row.hint.replace("$", world.path).replace(f"{world.path}(printf", "$(printf")
    assert result.status == 1, result
    assert any(hint == each or f"hint: {hint}" in each for each in hints_in(result)), result
    if row.follow:
        row.follow(world, held)
    else:
        commands_of(world, hint)
    again = row.again(world)
    assert again.status == 0, again
    assert "hint: " not in again.err + again.out


_MODULES: dict[str, ModuleType] = {
    each.__name__.rpartition(".")[2]: each
    for each in (faults, filesystem_faults, idmap_faults, mount_faults)
}


def test_every_hint_has_a_row_or_a_reason_why_not() -> None:
    known = {
        name
        for module in _MODULES.values()
        for name, each in inspect.getmembers(module, inspect.isfunction)
        if each.__module__ == module.__name__ and not name.startswith("_")
    }
    rows = {row.of for row in ROWS.values()}
    assert rows & UNFOLLOWED.keys() == set()
    assert rows | UNFOLLOWED.keys() == known


# Of runs, and what `mountd check` warns of.


def test_who_is_not_privileged_may_do_what_the_hint_says(world: World) -> None:
    work(world)
    result = world.mountd("reconcile", uid=1000)
    command = f"mountd reconcile --dry-run {_STATE}".replace("$", world.path)
    assert result.status == 77
    assert f"hint: run it as root; `{command}` is for anyone\n" in result.err
    assert world.mountd(*command.split()[1:], uid=1000).status == 0


def test_a_watch_that_is_in_the_way_is_stopped_by_what_the_hint_says(world: World) -> None:
    work(world)
    words = ["--manifest", world.manifest, "--state-dir", world.state]
    with subprocess.Popen([MOUNTD, "watch", *words], stderr=subprocess.DEVNULL) as watch:
        eventually((world / "work/hello").exists)
        result = world.mountd("unmount", "--all")
        assert result.status == 75
        kill = f"`kill {watch.pid}`"
        hint = f"hint: stop it first, by `systemctl stop mountd` or {kill}; its mounts stay\n"
        assert hint in result.err
        commands_of(world, kill)
        assert watch.wait(PATIENCE) == 0
    assert (world / "work/hello").exists()
    assert world.mountd("unmount", "--all").status == 0


def test_a_part_of_proc_is_told_and_the_whole_is_enough(world: World) -> None:
    work(world)
    run("mount", "-t", "proc", "-o", "subset=pid", "proc", "/proc")
    result = world.mountd("reconcile")
    assert result.status == 1
    assert "/proc/sys/kernel/random/boot_id" in result.err
    assert (
        "hint: mount /proc without `subset=pid`, or have the unit say ProcSubset=all\n"
        in result.err
    )
    run("mount", "-t", "proc", "proc", "/proc")
    world.reconcile()


def test_what_propagation_puts_beneath_a_mount_of_ours_is_in_nobodys_way(world: World) -> None:
    (world / "shared").mkdir()
    (world / "peer").mkdir()
    run("mount", "-t", "tmpfs", "-o", "mode=755", "x", str(world / "shared"))
    (world / "shared/work").mkdir()
    run("mount", "--make-shared", str(world / "shared"))
    mounted(world, target=world / "shared/work")
    run("mount", "--bind", str(world / "shared"), str(world / "peer"))
    run("mount", "-t", "tmpfs", "x", str(world / "peer/work"))
    points = [each.point for each in world.mounts()]
    assert points.count(str(world / "shared/work")) == 2
    assert not world.reconcile().document["changed"]
    work(world, target=world / "shared/work", user="1001:1001")
    world.reconcile()
    assert owner(world / "shared/work/hello") == (1001, 1001)
    assert world.mountd("unmount", "--all").status == 0


class Doubted(NamedTuple):
    """A state that `mountd check` warns of, how the warning ends, and what follows that."""

    make: Step
    hint: str
    follow: Step


_DOUBTS = {
    "left_out": Doubted(
        then(says(), shell("mkdir $/source/in; mount -t tmpfs x $/source/in")),
        "set `recursive = true` to include it", says(recursive=True),
    ),
    "hides": Doubted(
        then(says(), shell("mkdir $/work; touch $/work/file")),
        "move them away, or choose another target", shell("mv $/work/file $/elsewhere"),
    ),
    "overflow_user": Doubted(
        says(user="65534:65534"), "name an account of its own", says(),
    ),
    "no_accounts": Doubted(
        says(user="1000", accounts="$/nowhere"), 'fix the path, or write `user = "1000:GID"`',
        says(user="1000:1000", accounts="$/nowhere"),
    ),
    "no_account": Doubted(
        says(user="12345"), 'give the group too, `user = "12345:GID"`', says(user="12345:1000"),
    ),
    "out_of_reach": Doubted(
        then(shell("mkdir -m 700 '$/a b'"), says(target="$/a b/work")),
        "`chmod o+x '$/a b'`, or choose another target",
        lambda world, _: commands_of(world, "`chmod o+x '$/a b'`"),
    ),
    "raw_ids": Doubted(
        _overlay(), _NO_OVERLAY,
        then(shell("chown 501:20 $/source-lower"), says(source="$/source-lower")),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", _DOUBTS)
def test_a_warning_that_is_heeded_is_gone(world: World, held: ExitStack, name: str) -> None:
    doubted = _DOUBTS[name]
    doubted.make(world, held)
    (warning,) = world.mountd("check").err.splitlines()[:-1]
    assert warning.endswith(f"; {doubted.hint.replace('$', world.path)}")
    doubted.follow(world, held)
    (verdict,) = world.mountd("check").err.splitlines()
    assert verdict == f"{world.manifest}: ok, 1 volume"


def test_every_warning_is_among_these_or_there_is_a_reason_why_not() -> None:
    unfollowed = {"closed_to_us", "not_answering", "not_looked_at"}  # hints of kernel/cause.py's
    functions = inspect.getmembers(words, inspect.isfunction)
    known = {name for name, each in functions if inspect.signature(each).return_annotation is Doubt}
    assert known == _DOUBTS.keys() | unfollowed
