"""A FUSE server in a thread, by the raw protocol, that falls silent or dies when it is told to."""

import ctypes
import os
import select
import struct
import threading
from pathlib import Path
from typing import NamedTuple

_libc = ctypes.CDLL(None, use_errno=True)


class Reply(NamedTuple):
    error: int
    body: bytes = b""


class Server:
    """A FUSE filesystem whose root is an empty folder of 501:20, until its server falls silent.

    It speaks the protocol of /dev/fuse itself (fuse(4), include/uapi/linux/fuse.h).
    """

    def __init__(self, point: Path, *owners: tuple[int, int]) -> None:
        """`owners`: whose the root is the first time that it is asked, the second, and so on."""
        self.owners = owners or ((501, 20),)
        self.asked = 0
        self.silent_after = 1 << 32
        self.device = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)
        self.stopper, self.stop = os.pipe()
        point.mkdir(exist_ok=True)
        data = (
            f"fd={self.device},rootmode=40000,user_id=0,group_id=0,allow_other,default_permissions"
        )
        done = _libc.mount(b"silent", os.fsencode(point), b"fuse", 0, data.encode())
        assert done == 0, os.strerror(ctypes.get_errno())
        self.thread = threading.Thread(target=self._serve)
        self.thread.start()

    def fall_silent(self) -> None:
        """From now on every request waits for ever."""
        os.write(self.stop, b"x")
        self.thread.join()

    def die(self) -> None:
        """From now on every request fails with ENOTCONN."""
        if self.thread.is_alive():
            self.fall_silent()
        if self.device >= 0:
            os.close(self.device)
            os.close(self.stopper)
            os.close(self.stop)
        self.device = -1

    def _serve(self) -> None:
        poll = select.poll()
        for descriptor in (self.device, self.stopper):
            poll.register(descriptor, select.POLLIN)
        while all(descriptor == self.device for descriptor, _ in poll.poll()):
            request = os.read(self.device, 1 << 17)
            _, code, unique = struct.unpack_from("<IIQ", request)
            if code in (2, 36, 42):  # FORGET, INTERRUPT, BATCH_FORGET want none
                continue
            error, body = self._reply(code)
            os.write(self.device, struct.pack("<IiQ", 16 + len(body), -error, unique) + body)
            if self.asked >= self.silent_after:
                return  # without having read one more, for which nobody could be killed

    def _reply(self, code: int) -> Reply:
        match code:
            case 26:  # INIT
                version, extended, idmap = (7, 41), 1 << 30, 1 << 8  # FUSE_INIT_EXT, _ALLOW_IDMAP
                return Reply(
                    0,
                    struct.pack(
                        "<IIIIHHIIHHI28x",
                        *(*version, 0, extended, 12, 9, 1 << 16, 1, 0, 0, idmap),
                    ),
                )
            case 3:  # GETATTR, to be asked for again each time
                self.asked += 1
                ids = self.owners[min(self.asked, len(self.owners)) - 1]
                attributes = (1, 0, 0, 0, 0, 0, 0, 0, 0, 0o40755, 2, *ids, 0, 4096, 0)
                return Reply(0, struct.pack("<QII6Q10I", 0, 0, 0, *attributes))
            case 1:  # LOOKUP
                return Reply(2)
        return Reply(38)
