"""What the kernel's calls have in common: by which number each is made, and what they answer with.

They are made through syscall(2), for glibc has wrappers for few of them; descriptors are
close-on-exec. Each call raises OSError with `strerror` naming the call and its object.
"""

import os
from types import EllipsisType
from typing import Self

AT_SYMLINK_NOFOLLOW = 0x100
AT_EACCESS = 0x200
AT_NO_AUTOMOUNT = 0x800
AT_EMPTY_PATH = 0x1000
AT_STATX_DONT_SYNC = 0x4000
AT_STATX_FORCE_SYNC = 0x2000

NUMBERS = {  # those of before 5.1 differ from one architecture to another
    "x86_64": {
        "setgroups": 116,
        "setresuid": 117,
        "setresgid": 119,
        "setfsuid": 122,
        "setfsgid": 123,
        "prctl": 157,
        "mount": 165,
        "umount2": 166,
        "statx": 332,
    },
}.get(
    os.uname().machine,
    {
        "setgroups": 159,
        "setresuid": 147,
        "setresgid": 149,
        "setfsuid": 151,
        "setfsgid": 152,
        "prctl": 167,
        "mount": 40,
        "umount2": 39,
        "statx": 291,
    },
)


class Fd:
    """An open descriptor and its owner: closed at the end of the `with`, or by `close`.

    `server` is that of the filesystem it is on, if that has been looked up: see `see_folder`.
    """

    __slots__ = ("number", "server")

    def __init__(self, number: int) -> None:
        self.number = number
        self.server: int | EllipsisType | None = ...

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close it, if that has not been done."""
        if self.number >= 0:
            number, self.number = self.number, -1
            os.close(number)
