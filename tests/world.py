"""A small machine to try mountd on: sources, a manifest, the command as its user runs it."""

import ctypes
import json
import os
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import forks
from documents import document_of
from old_kernel import Kernel

from mountd.kernel.mount_api import move_mount, open_tree
from mountd.kernel.syscalls import Fd

MOUNTD = forks.MOUNTD
_LONG = 300.0
"""Seconds after which a program is held to hang: the machine may be busy."""


def run(*words: str, check: bool = True) -> str:
    """Run a program and return what it prints."""
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0 or not check, f"{words}: {done.stderr}"
    return done.stdout


@contextmanager
def running(*words: str, cwd: str | Path | None = None) -> Iterator[subprocess.Popen[str]]:
    """A process that has printed a line, and that ends, at the latest here, with its stdin."""
    pipe = subprocess.PIPE
    with subprocess.Popen(words, stdin=pipe, stdout=pipe, text=True, cwd=cwd) as process:
        assert process.stdin and process.stdout
        try:
            assert process.stdout.readline(), f"{words} didn't start"
            yield process
        finally:
            process.stdin.close()


class Result(NamedTuple):
    """What a run of mountd came to."""

    status: int
    out: str
    err: str

    @property
    def document(self) -> dict[str, Any]:
        """The JSON document, as its schema has it; it must be all there is on stdout."""
        return document_of(self.out)

    def volume(self, name: str) -> dict[str, Any]:
        """A volume of the document."""
        found: list[dict[str, Any]] = [
            each for each in self.document["volumes"] if each["name"] == name
        ]
        assert len(found) == 1, f"{name} is there {len(found)} times"
        return found[0]


class Mount(NamedTuple):
    """A line of mountinfo."""

    id: str
    point: str
    root: str
    options: set[str]
    is_shared: bool


class World:
    """A folder with everything in it, and mountd run on a manifest and a state directory there."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.manifest = f"{path}/mountd.toml"
        self.state = f"{path}/state"

    def __truediv__(self, name: str) -> Path:
        return Path(self.path) / name

    def folder(self, name: str, *, owner: tuple[int, int] = (501, 20), mode: int = 0o755) -> Path:
        """A folder with a file `hello` in it, both of this owner."""
        path = self / name
        path.mkdir(parents=True)
        (path / "hello").write_text("hello\n")
        os.chown(path / "hello", *owner)
        os.chown(path, *owner)
        path.chmod(mode)
        return path

    def rootfs(self, passwd: str | bytes, group: str | bytes = "") -> Path:
        """Another root filesystem, for `accounts`."""
        path = self / "rootfs"
        (path / "etc").mkdir(parents=True, exist_ok=True)
        for name, content in (("passwd", passwd), ("group", group)):
            data = content if isinstance(content, bytes) else content.encode()
            (path / "etc" / name).write_bytes(data)
        return path

    def write(self, text: str) -> None:
        """Make this the manifest; `$` in it stands for the world's own path."""
        Path(self.manifest).write_text(text.replace("$", self.path))

    def volumes(self, **tables: Mapping[str, Any]) -> None:
        """Make a manifest of these volumes, given as their keys and values."""
        lines = []
        for name, table in tables.items():
            lines.append(f"[volumes.{name}]")
            lines += [f"{key} = {_toml(value)}" for key, value in table.items()]
        self.write("\n".join(lines) or "version = 1")  # an empty file counts as missing

    def mountd(
        self,
        *words: str,
        env: Mapping[str, str] | None = None,
        uid: int = 0,
        kernel: Kernel | None = None,
    ) -> Result:
        """Run the command on this world's manifest, as this user.

        `kernel` is an older one that has less than ours.
        """
        command = [MOUNTD, *words]
        if "--manifest" not in words and "-f" not in words:
            command += ["--manifest", self.manifest]
        if "--state-dir" not in words:
            command += ["--state-dir", self.state]
        if uid:
            let_users_reach(MOUNTD, os.path.realpath(sys.executable), sys.base_prefix, __file__)
            ids = [f"--reuid={uid}", f"--regid={uid}", "--clear-groups"]
            command = ["setpriv", *ids, "--inh-caps=-all", "--", *command]
        if kernel:
            command = kernel.command(*command)
        return self.run(command, env=env)

    def run(self, command: Sequence[str], env: Mapping[str, str] | None = None) -> Result:
        """Run anything, without a terminal; mountd itself as a fork (fork_server.py)."""
        whole = {**os.environ, **(env or {})}
        if forks.can_be_forked(command, env or {}):
            result = Result(*forks.run(command, whole, _LONG))
        else:
            done = subprocess.run(
                command,
                capture_output=True,
                text=True,
                check=False,
                stdin=subprocess.DEVNULL,
                timeout=_LONG,
                env=whole,
            )
            result = Result(done.returncode, done.stdout, done.stderr)
        assert "Traceback" not in result.err, result.err
        return result

    def reconcile(
        self, *words: str, status: int = 0, uid: int = 0, kernel: Kernel | None = None
    ) -> Result:
        """One pass with --json, which must end with this status."""
        result = self.mountd("reconcile", "--json", *words, uid=uid, kernel=kernel)
        assert result.status == status, f"{result.status}: {result.err}{result.out}"
        return result

    def mounts(self) -> list[Mount]:
        """The mounts below this world, as mountinfo has them; not what the world's own covers."""
        lines = [line.split() for line in Path("/proc/self/mountinfo").read_text().splitlines()]
        parents = {words[0]: words[1] for words in lines}
        ours = [words[0] for words in lines if words[4] == self.path][-1]
        found = []
        for words in lines:
            above = words[0]
            while above != ours and above in parents:
                above = parents[above]
            if above == ours != words[0]:
                point = words[4].encode().decode("unicode_escape")
                is_shared = any(word.startswith("shared:") for word in words[6:8])
                mount = Mount(words[0], point, words[3], set(words[5].split(",")), is_shared)
                found.append(mount)
        return found

    def as_user(self, uid: int, program: str, *words: str) -> Result:
        """Run a program as this user, with its ids alone."""
        ids = [f"--reuid={uid}", f"--regid={uid}", "--clear-groups"]
        return self.run(["setpriv", *ids, "--inh-caps=-all", "--", program, *words])


@contextmanager
def disks(world: World) -> Iterator[Callable[..., str]]:
    """Makes loop devices, of a filesystem's type and losetup's flags, which go at the end.

    On each lies `hello`, which as the root belongs to 501:20. One may also be `blank`, or `empty`:
    of no size.
    """
    made: list[str] = []

    def make(fs_type: str, *flags: str) -> str:
        place = world / f"disk-{len(made)}"
        image = str(place / "image")
        place.mkdir()
        Path(image).touch()
        os.truncate(image, 0 if fs_type == "empty" else 512 << 20)
        if fs_type == "squashfs":
            content = world.folder(f"{place.name}/content")
            run("mksquashfs", str(content), image, "-noappend", "-quiet")
        elif fs_type == "erofs":
            run("mkfs.erofs", image, str(world.folder(f"{place.name}/content")))
        elif fs_type not in ("blank", "empty"):
            run(f"/sbin/mkfs.{fs_type}", "-q", image)
            (place / "root").mkdir()
            run("mount", "-t", fs_type, "-o", "loop", image, str(place / "root"))
            (place / "root/hello").write_text("hello\n")
            for path in ("root/hello", "root"):
                os.chown(place / path, 501, 20)
            run("umount", str(place / "root"))
        made.append(run("losetup", "--find", "--show", *flags, image).strip())
        return made[-1]

    try:
        yield make
    finally:
        for device in made:
            run("losetup", "--detach", device)  # where it is mounted, once it is not


def mount_table() -> set[str]:
    """The lines of mountinfo: `mount_table() <= before` where nothing was mounted or changed since.

    They need not be equal: whoever removes a folder takes off what is mounted on it, in every
    namespace. From a world nobody does (`World.mounts`).
    """
    return set(Path("/proc/self/mountinfo").read_text().splitlines())


def owner(path: str | Path) -> tuple[int, int]:
    """Who is seen to own a file."""
    found = os.lstat(path)
    return found.st_uid, found.st_gid


def mount_id(path: str | Path) -> int:
    """The unique id of the mount that a path lies on, as the record has it (statx(2))."""
    found = ctypes.create_string_buffer(256)
    assert ctypes.CDLL(None).statx(-100, os.fsencode(path), 0, 0x4000, found) == 0, path
    unique: int = struct.unpack_from("=Q", found, 0x90)[0]
    return unique


def record_of(world: World) -> list[dict[str, Any]]:
    """The mounts in a world's record."""
    file = Path(world.state, "record.json")
    assert file.is_file(), "there is no record, or a FIFO that would be waited for"
    document: dict[str, Any] = json.loads(file.read_text())
    mounts: list[dict[str, Any]] = document["mounts"]
    return mounts


def cover(*folders: str) -> None:
    """Mount an empty tmpfs over these; what runs the tests stays where it is, if it lies there."""
    checkout = Path(__file__).resolve().parents[1]
    for folder in folders:
        with Fd(os.open(checkout, os.O_PATH | os.O_CLOEXEC)) as inside, open_tree(inside) as kept:
            run("mount", "-t", "tmpfs", "-o", "mode=755", "tmpfs", folder)
            if checkout.is_relative_to(folder):
                checkout.mkdir(parents=True)
                with Fd(os.open(checkout.parent, os.O_PATH | os.O_CLOEXEC)) as above:
                    move_mount(kept, above, checkout.name)


@contextmanager
def acting_as(uid: int, gid: int) -> Iterator[None]:
    """Have this thread look at files, and make them, as this user does (setfsuid(2))."""
    libc = ctypes.CDLL(None)
    libc.setfsgid(ctypes.c_uint(gid))
    libc.setfsuid(ctypes.c_uint(uid))
    try:
        yield
    finally:
        libc.setfsuid(0)
        libc.setfsgid(0)


def mount_idmapped(source: Path, target: Path, *extents: tuple[int, int, int]) -> None:
    """Mount a folder with these as its uids and gids: stored, seen, count.

    Where something is mounted already it goes on top.
    """
    from mountd.core.idmapping import Extent, Idmapping
    from mountd.kernel.mount_api import MOUNT_ATTR_IDMAP, mount_setattr, move_mount, open_tree
    from mountd.kernel.syscalls import Fd
    from mountd.kernel.userns import make_user_namespace

    target.mkdir(exist_ok=True)
    ids = tuple(Extent(*each) for each in extents)
    with (
        Fd(os.open(source, os.O_PATH)) as folder,
        Fd(os.open(target.parent, os.O_PATH)) as place,
        make_user_namespace(Idmapping(ids, ids)) as userns,
        open_tree(folder) as tree,
    ):
        mount_setattr(tree, set_=MOUNT_ATTR_IDMAP, userns=userns)
        move_mount(tree, place, target.name)


_WATCHER = """
import json, os, select, sys
seen = {path: set() for path in sys.argv[1:]}
print("ready", flush=True)
while True:
    for path, found in seen.items():
        try:
            found.add(str(os.stat(path).st_uid))
            with open(f"{path}/hello" if os.path.isdir(path) else path) as file:
                found.add(f"{os.fstat(file.fileno()).st_uid} {file.read().strip()}")
        except OSError as error:
            found.add(str(error))
    if select.select([0], [], [], 0)[0]:
        break
print(json.dumps({path: sorted(found) for path, found in seen.items()}))
"""


@contextmanager
def watching(*paths: Path) -> Iterator[dict[Path, set[str]]]:
    """Look at these all the while: whose each is, and whose its `hello`, and what that says.

    What was seen is there afterwards; a file is its own `hello`.
    """
    seen: dict[Path, set[str]] = {}
    with running(sys.executable, "-c", _WATCHER, *map(str, paths)) as process:
        yield seen
        told = json.loads(process.communicate("end\n")[0])
        seen |= {path: set(told[str(path)]) for path in paths}


def let_users_reach(*paths: str) -> None:
    """Have every user reach these, though folders above them are root's alone.

    Such a folder is covered, in this mount namespace, by one that shows nothing else.
    """
    for path in paths:
        for folder in reversed(Path(path).parents):
            if not folder.stat().st_mode & 0o001:
                inner = Path(path).relative_to(folder).parts[0]
                kept = os.open(folder / inner, os.O_PATH)
                run("mount", "-t", "tmpfs", "-o", "mode=755", "tmpfs", str(folder))
                (folder / inner).mkdir()
                subprocess.run(
                    ["mount", "-c", "--bind", f"/proc/self/fd/{kept}", folder / inner],
                    pass_fds=[kept],
                    check=True,
                )
                os.close(kept)


def _toml(value: Any) -> str:
    if isinstance(value, Path):
        value = str(value)
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{key} = {_toml(each)}" for key, each in value.items()) + " }"
    if isinstance(value, list):
        return "[" + ", ".join(map(_toml, value)) + "]"
    return json.dumps(value)
