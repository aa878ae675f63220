"""Targets as text: which of them would take the machine down, and which lie below which."""

from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache

SYSTEM_FOLDERS = frozenset(
    f"/{name}"
    for name in (
        "",
        "bin",
        "boot",
        "dev",
        "etc",
        "proc",
        "root",
        "run",
        "sbin",
        "sys",
        "usr",
        "var",
    )
)
KERNEL_FOLDERS = ("/dev/", "/proc/", "/sys/")


def why_forbidden(target: str, reserved: Mapping[str, str]) -> str | None:
    """Why nothing may be mounted at this path, to complete "the target is …"; None where it may.

    `reserved` is what mountd itself needs, as `with_folders_above` has it.
    """
    if target in SYSTEM_FOLDERS or (target.startswith("/lib") and "/" not in target[1:]):
        return "a folder that the system needs as it is"
    if target.startswith(KERNEL_FOLDERS):
        return f"below {target[: target.index('/', 1)]}, which is the kernel's"
    return reserved.get(target)


def with_folders_above(reserved: Mapping[str, str]) -> dict[str, str]:
    """These paths, and the folders above them, which a mount would take them along with."""
    above = {
        folder: f"above {what}"
        for path, what in reserved.items()
        if len(path) < _PATH_MAX  # else the kernel takes none of it
        for folder in folders_above(path)
    }
    return {**above, **reserved}


def folders_above(path: str) -> tuple[str, ...]:
    """The folders that a path lies in, from the nearest up, without the root.

    They take the square of a path's length: of paths that users make ask `Places` instead.
    """
    folder = path.rpartition("/")[0]
    return _from(folder) if len(folder) < _USUAL else tuple(_up_from(folder))


@lru_cache(4096)  # many targets lie in few folders
def _from(folder: str) -> tuple[str, ...]:
    return tuple(_up_from(folder))


def _up_from(folder: str) -> Iterator[str]:
    while folder:
        yield folder
        folder = folder.rpartition("/")[0]


_USUAL = 256
_PATH_MAX = 4096


def normalised_path(path: str) -> str:
    """The path without a trailing `/`, `//` and `.`, so that equal paths compare equal."""
    if "//" not in path and "/." not in path and not path.endswith("/"):
        return path
    return "/" + "/".join(name for name in path.split("/") if name not in ("", "."))


def is_within(path: str, folder: str) -> bool:
    """Whether a path is a folder's, or lies below it."""
    return path == folder or path.startswith(f"{folder.rstrip('/')}/")


class Places:
    """A set of paths, asked how another path lies to them.

    That costs as many looks as they have lengths, not as many as the other path has folders: that
    one may be a mount's, and then a user can have made it as deep as she likes.
    """

    def __init__(self, paths: Iterable[str]) -> None:
        self._paths = frozenset(paths)
        self._lengths = sorted({len(each) for each in self._paths}, reverse=True)
        self._sorted: list[str] | None = None

    def __len__(self) -> int:
        return len(self._paths)

    def above(self, path: str) -> Iterator[str]:
        """Those in which a path lies, from the nearest up, without the root."""
        end = len(path)
        for length in self._lengths:
            if 0 < length < end and path[length] == "/" and path[:length] in self._paths:
                yield path[:length]

    def from_(self, path: str) -> Iterator[str]:
        """The same, and before them the path itself if it is one of them."""
        if path in self._paths:
            yield path
        yield from self.above(path)

    def lie_within(self, path: str) -> bool:
        """Whether one of them is this path, or lies below it."""
        if path in self._paths:
            return True
        if self._sorted is None:
            self._sorted = sorted(self._paths)
        begin = f"{path.rstrip('/')}/"
        index = bisect_left(self._sorted, begin)
        return index < len(self._sorted) and self._sorted[index].startswith(begin)
