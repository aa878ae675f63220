"""A FUSE server of a user's, by the raw protocol, that can lie and fall silent.

    with served(point, {"/link": {"to": "/srv"}}, silent_while=flag) as server: ...

What it shows is given by path: `to` makes a link, `data` a file, else it is a folder; `uid`, `gid`
and `mode` are whatever is claimed (root's, 0755, if nothing is). It is mounted as fusermount does
it for a user with allow_other. The structs are from linux/fuse.h.
"""

import ctypes
import errno
import json
import os
import stat
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from struct import Struct
from typing import Any

MS_NOSUID, MS_NODEV, MNT_DETACH = 2, 4, 2
LOOKUP, FORGET, GETATTR, READLINK, OPEN, READ, WRITE, STATFS = 1, 2, 3, 5, 14, 15, 16, 17
INIT, INTERRUPT, BATCH_FORGET = 26, 36, 42
INIT_EXT, DIRECT_IO_ALLOW_MMAP, ALLOW_IDMAP = 1 << 30, 1 << 4, 1 << 8
DIRECT_IO = 1

_IN = Struct("<IIQQIIIHH")
_OUT = Struct("<IiQ")
_ATTR = Struct("<QQQQQQIIIIIIIIII")
_ENTRY = Struct("<QQQQII")
_INIT = Struct("<IIIIHHIIHHII24x")
_libc = ctypes.CDLL(None, use_errno=True)


@contextmanager
def served(
    point: str | Path, files: Mapping[str, Mapping[str, Any]], *, user: int = 1000, **how: Any
) -> Iterator[int]:
    """Serve these files at a folder, from a process of its own, whose pid is told.

    `how` may be: `options` (of the mount, added), `read_only`, `no_default_permissions`,
    `silent_while` (a path: nothing is answered while it is there, and what was asked then never),
    `silent_after` (so many LOOKUPs and GETATTRs are answered), `silent_to` (operations that are
    never answered), `direct` (files are open with direct_io, and may be mapped), `idmapped` (the
    server allows idmapped mounts).
    """
    from world import running

    spec = json.dumps({"files": files, "user": user, "how": how}, default=str)
    with running(sys.executable, __file__, str(point), spec) as process:
        try:
            yield process.pid
        finally:
            process.kill()  # whoever waits for an answer gets ENOTCONN with its last descriptor
            _libc.umount2(os.fsencode(point), MNT_DETACH)


class Server:
    """Mounts, and answers one request after the other."""

    def __init__(self, point: str, spec: dict[str, Any]) -> None:
        self.how: dict[str, Any] = spec["how"]
        self.files: dict[str, dict[str, Any]] = {"/": {}, **spec["files"]}
        self.paths = ["?", "/"]  # by nodeid
        self.looks = 0
        self.device = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)
        user = spec["user"]
        words = [f"fd={self.device}", "rootmode=40000", f"user_id={user}", f"group_id={user}"]
        words += ["allow_other", *self.how.get("options", [])]
        words += [] if self.how.get("no_default_permissions") else ["default_permissions"]
        flags = MS_NOSUID | MS_NODEV | bool(self.how.get("read_only"))
        data = ",".join(words).encode()
        if _libc.mount(b"liar", os.fsencode(point), b"fuse.liar", flags, data):
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), point)

    def serve(self) -> None:
        """Until it is unmounted."""
        while True:
            try:
                request = os.read(self.device, 1 << 18)
            except OSError as error:
                if error.errno == errno.ENODEV:
                    return
                if error.errno in (errno.EINTR, errno.ENOENT):
                    continue
                raise
            length, operation, unique, node, *_ = _IN.unpack_from(request)
            if self._is_silent(operation):
                continue
            body = request[_IN.size : length]
            path = self.paths[node] if node < len(self.paths) else "?"
            failed, answer = self._answer(operation, path, body)
            with suppress(FileNotFoundError):  # it was interrupted meanwhile
                os.write(self.device, _OUT.pack(_OUT.size + len(answer), -failed, unique) + answer)

    def _is_silent(self, operation: int) -> bool:
        if operation in (FORGET, INTERRUPT, BATCH_FORGET):
            return True  # to these there is no answer
        if operation in (LOOKUP, GETATTR):
            self.looks += 1
        most, flag = self.how.get("silent_after"), self.how.get("silent_while")
        return operation != INIT and (
            (most is not None and self.looks > most)
            or (flag is not None and os.path.exists(flag))
            or operation in self.how.get("silent_to", [])
        )

    def _node(self, path: str) -> int:
        if path not in self.paths:
            self.paths.append(path)
        return self.paths.index(path)

    def _attr(self, path: str) -> bytes:
        file = self.files[path]
        kind, mode, size = stat.S_IFDIR, 0o755, 0
        if "to" in file:
            kind, mode, size = stat.S_IFLNK, 0o777, len(file["to"])
        elif "data" in file:
            kind, mode, size = stat.S_IFREG, 0o644, len(file["data"])
        mode = kind | file.get("mode", mode)
        ids = file.get("uid", 0), file.get("gid", 0)
        return _ATTR.pack(self._node(path), size, *[0] * 7, mode, 1, *ids, 0, 4096, 0)

    def _entry(self, path: str) -> bytes:
        return _ENTRY.pack(self._node(path), *[0] * 5) + self._attr(path)

    def _answer(self, operation: int, path: str, body: bytes) -> tuple[int, bytes]:
        """An errno, and what is told."""
        match operation:
            case 26:  # INIT
                return 0, self._init()
            case 1:  # LOOKUP
                return self._look_up(path, body)
            case 9:  # MKDIR
                self.files[self._child(path, body[8:])] = {}
                return self._look_up(path, body[8:])
            case 3 | 4:  # GETATTR, SETATTR
                return 0, bytes(16) + self._attr(path)
            case 14 | 27:  # OPEN, OPENDIR
                is_direct = operation == OPEN and self.how.get("direct")
                return 0, Struct("<QII").pack(1, DIRECT_IO if is_direct else 0, 0)
            case 18 | 28 | 29 | 34:  # RELEASE, READDIR, RELEASEDIR, ACCESS
                return 0, b""
            case _:
                return self._data(operation, path, body)

    def _init(self) -> bytes:
        more = ALLOW_IDMAP * bool(self.how.get("idmapped"))
        more |= DIRECT_IO_ALLOW_MMAP * bool(self.how.get("direct"))
        return _INIT.pack(7, 38, 65536, INIT_EXT if more else 0, 12, 10, 1 << 17, 1, 32, 0, more, 0)

    def _child(self, path: str, body: bytes) -> str:
        return f"{path.rstrip('/')}/{os.fsdecode(body.split(bytes(1))[0])}"

    def _look_up(self, path: str, body: bytes) -> tuple[int, bytes]:
        child = self._child(path, body)
        return (0, self._entry(child)) if child in self.files else (errno.ENOENT, b"")

    def _data(self, operation: int, path: str, body: bytes) -> tuple[int, bytes]:
        if operation == READLINK:
            return 0, os.fsencode(self.files[path]["to"])
        if operation == READ:
            offset, size = Struct("<8xQI").unpack_from(body)
            return 0, self.files[path].get("data", "").encode()[offset : offset + size]
        if operation == WRITE:  # which goes nowhere
            return 0, Struct("<II").pack(Struct("<16xI").unpack_from(body)[0], 0)
        if operation == STATFS:
            return 0, Struct("<QQQQQIIII24x").pack(0, 0, 0, 0, 0, 4096, 255, 4096, 0)
        return errno.ENOSYS, b""


if __name__ == "__main__":
    server = Server(sys.argv[1], json.loads(sys.argv[2]))
    print("ready", flush=True)
    server.serve()
