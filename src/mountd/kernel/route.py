"""The way to a path, walked name by name as the kernel does, and what a user may at each step."""

import os
import stat
from collections.abc import Callable
from contextlib import ExitStack
from errno import ELOOP, ENAMETOOLONG
from typing import Literal, TypeVar

from mountd.core.named_tuple import NamedTuple
from mountd.kernel.access import Asker, May, may, reach
from mountd.kernel.files import (
    RESOLVE_NO_MAGICLINKS,
    STATX_ATTR_APPEND,
    STATX_ATTR_IMMUTABLE,
    Stat,
    openat2,
    statx,
)
from mountd.kernel.syscalls import Fd
from mountd.kernel.trusted import has_acl

_Answer = TypeVar("_Answer")
_PATH_MAX = 4096
_MOST_LINKS = 40  # as the kernel's own walk (path_resolution(7))


class Step(NamedTuple):
    """What a name on the way leads to. `may` is None for a link, and where nobody could be asked.

    A link's `leads_to` is its text.
    """

    path: str
    found: Stat
    leads_to: str | None = None
    may: May | None = None
    has_acl: bool = False

    @property
    def attribute(self) -> Literal["immutable", "append-only"] | None:
        """The one of chattr(1)'s attributes that stops everybody from writing, if it has it."""
        if self.found.attributes & STATX_ATTR_IMMUTABLE:
            return "immutable"
        return "append-only" if self.found.attributes & STATX_ATTR_APPEND else None


class Route(NamedTuple):
    """The steps from `/` to `path`, each once; `crossed` are the folders through which it leads.

    Where names are `missing`, `end` is the last folder that is there. `error`: at which path the
    walk had to end, and the kernel's errno. `said` is the errno for the path as a whole, where that
    was asked.
    """

    path: str
    steps: tuple[Step, ...]
    crossed: tuple[Step, ...]
    end: Step
    missing: tuple[str, ...] = ()
    error: tuple[str, int] | None = None
    said: int = 0


def walk(path: str, asker: Asker | None) -> Route:
    """Walk an absolute path. Raises OSError where the kernel can't be asked."""
    with ExitStack() as held:
        walker = _Walker(asker, held)
        if len(os.fsencode(path)) < _PATH_MAX:
            walker.walk([each for each in reversed(path.split("/")) if each])
        else:  # nobody gets there by its path
            walker.error = path, ENAMETOOLONG
    said = 0
    if asker and not (walker.missing or walker.error):
        said = asker.ask(lambda: reach(path))
    end = walker.stack[-1][1]
    crossed = tuple(dict.fromkeys(walker.crossed))
    return Route(
        path, tuple(dict.fromkeys(walker.steps)), crossed, end, walker.missing, walker.error, said
    )


class _Walker:
    def __init__(self, asker: Asker | None, held: ExitStack) -> None:
        self._asker = asker
        self._held = held
        self._links = 0
        root = held.enter_context(openat2(None, "/", os.O_PATH, 0))
        self.stack = [(root, self._step("/", root))]
        self.steps = [self.stack[0][1]]
        self.crossed: list[Step] = []
        self.missing: tuple[str, ...] = ()
        self.error: tuple[str, int] | None = None

    def walk(self, todo: list[str]) -> None:
        """Go down the names in `todo`, the next one last; a link's own names join them."""
        while todo:
            name = todo.pop()
            folder, here = self.stack[-1]
            self.crossed.append(here)
            if name == "..":
                if len(self.stack) > 1:
                    self.stack.pop()
                continue
            path = os.path.join(here.path, name)
            try:
                self._enter(path, self._open(folder, name), todo)
            except (FileNotFoundError, NotADirectoryError):
                self.missing = (name, *reversed(todo))
                return
            except OSError as error:
                self.error = path, error.errno or 0
                return

    def _enter(self, path: str, file: Fd, todo: list[str]) -> None:
        step = self._step(path, self._held.enter_context(file))
        self.steps.append(step)
        if step.leads_to is None:
            self.stack.append((file, step))
            return
        self._links += 1
        if self._links > _MOST_LINKS:
            raise OSError(ELOOP, os.strerror(ELOOP), path)
        if step.leads_to.startswith("/"):
            del self.stack[1:]
        todo += [each for each in reversed(step.leads_to.split("/")) if each not in ("", ".")]

    def _open(self, folder: Fd, name: str) -> Fd:
        flags = os.O_PATH | os.O_NOFOLLOW
        return self._as_either(lambda: openat2(folder, name, flags, RESOLVE_NO_MAGICLINKS))

    def _step(self, path: str, file: Fd) -> Step:
        found = self._as_either(lambda: statx(file))
        if stat.S_ISLNK(found.mode):
            return Step(path, found, os.readlink("", dir_fd=file.number))
        answers = self._asker.ask(lambda: may(file)) if self._asker else None
        return Step(path, found, None, answers, has_acl(file))

    def _as_either(self, look: Callable[[], _Answer]) -> _Answer:
        """By us, else by the person: FUSE, or a server that squashes root, may shut root out."""
        try:
            return look()
        except PermissionError:
            if not self._asker:
                raise
        return self._asker.ask(look)
