"""Automounts (autofs(5)), with a daemon that mounts, refuses or falls silent as it is told to."""

import ctypes
import os
import struct
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from world import run

_DAEMON = """
import ctypes, fcntl, os, select, stat, struct, sys
point, kind, mood = sys.argv[1:]
os.setsid()  # whoever is in its process group is never waited for
libc = ctypes.CDLL(None, use_errno=True)
READY, FAIL = 0x9360, 0x9361
def mount(source, path, fs_type, data):
    done = libc.mount(source, os.fsencode(path), fs_type, 0, data.encode())
    assert done == 0, os.strerror(ctypes.get_errno())
def share(path):
    os.makedirs(path, exist_ok=True)
    if f" {path} rw,relatime - tmpfs" in open("/proc/self/mountinfo").read():
        return  # it was asked for by way of a copy
    mount(b"share", path, b"tmpfs", "mode=755,uid=501,gid=20")
    os.mkdir(f"{path}/sub")
    for each in ("hello", "sub/hello"):
        with open(f"{path}/{each}", "w") as file:
            file.write("hello\\n")
    for each in ("hello", "sub", "sub/hello"):
        os.chown(f"{path}/{each}", 501, 20)
reader, writer = os.pipe()
options = f"fd={writer},pgrp={os.getpgrp()},minproto=5,maxproto=5,{kind}"
mount(b"map", point, b"autofs", options)
os.close(writer)
root = os.open(point, os.O_RDONLY)
asked = 0
print("up", flush=True)
waiting = []
while True:
    heard, _, _ = select.select([0, reader], [], [], 0.05)
    if 0 in heard:
        break
    if reader in heard:
        packet = os.read(reader, 400)
        token, = struct.unpack_from("I", packet, 8)
        name = packet[44:packet.index(0, 44)].decode() if kind == "indirect" else ""
        waiting.append((token, f"{point}/{name}".rstrip("/")))
        asked += 1
        with open(f"{mood}.asked", "w") as file:
            file.write(str(asked))
    if os.path.exists(mood) and open(mood).read() == "silent":
        continue
    for token, path in waiting:
        refuses = os.path.exists(mood)
        if not refuses:
            share(path)
        fcntl.ioctl(root, FAIL if refuses else READY, token)
    waiting.clear()
"""


class Automount:
    """A place at which a tmpfs of 501:20 is mounted, with `hello` and `sub/hello`, once entered."""

    def __init__(self, point: Path, mood: Path) -> None:
        self.point = point
        self._mood = mood

    def refuse(self) -> None:
        """From now on what is asked for can't be mounted: ENOENT."""
        self._mood.write_text("refuse")

    def fall_silent(self) -> None:
        """From now on no answer comes."""
        self._mood.write_text("silent")

    def recover(self) -> None:
        """Mount again, also what is waited for."""
        self._mood.unlink()

    def expire(self) -> None:
        """Take off what is mounted there, as the daemon does when nobody has used it for a time."""
        run("umount", str(self.point))
        assert not self.is_awake

    def copy(self, place: Path) -> int:
        """Mount a clone of the automount alone somewhere; its unique id.

        By the calls themselves, for mountd's own would know it from then on.
        """
        place.mkdir(exist_ok=True)
        libc = ctypes.CDLL(None, use_errno=True)
        point = os.open(self.point, os.O_PATH)
        tree = libc.syscall(428, point, b"", 0x1000 | 0x1)  # open_tree(2), AT_EMPTY_PATH, a clone
        os.close(point)
        done = libc.syscall(429, tree, b"", -100, os.fsencode(place), 0x4)  # move_mount(2)
        assert done == 0, os.strerror(ctypes.get_errno())
        found = ctypes.create_string_buffer(256)
        assert libc.statx(tree, b"", 0x1000, 0x4000, found) == 0
        os.close(tree)
        unique: int = struct.unpack_from("=Q", found, 0x90)[0]
        return unique

    @property
    def asked(self) -> int:
        """How often the daemon was asked to mount something."""
        file = Path(f"{self._mood}.asked")
        return int(file.read_text()) if file.exists() else 0

    @property
    def is_awake(self) -> bool:
        """Whether something is mounted there; asking doesn't trigger it."""
        lines = Path("/proc/self/mountinfo").read_text().splitlines()
        return sum(line.split()[4] == str(self.point) for line in lines) > 1


@contextmanager
def automount(point: Path, kind: str = "direct") -> Iterator[Automount]:
    """Have an automount there; of an `indirect` one each name below it is asked for."""
    point.mkdir(parents=True, exist_ok=True)
    mood = point.parent / f"{point.name}.mood"
    command = [sys.executable, "-c", _DAEMON, str(point), kind, str(mood)]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True) as process:
        assert process.stdin and process.stdout
        try:
            assert process.stdout.readline() == "up\n"
            yield Automount(point, mood)
        finally:
            process.stdin.close()
