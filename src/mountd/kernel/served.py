"""What others serve, and who may wait for it.

A FUSE request that its server has taken can't be interrupted, not even by SIGKILL: a thread that
waits for one can't end, nor can its process, which keeps its locks. So the process that holds them
never makes a call that a server may leave unanswered; a child without locks does (`road`), and is
left behind.

Which calls these are is found out on the way, not foretold: the mount table, as it was read, may be
outdated by the time of a call, for a user may mount FUSE on a folder of hers at any moment. The
calls in `files` go on by descriptor and end at the first mount that is served, with ServedError,
before anything was asked of it: by the table, which knows what root mounted; by RESOLVE_CACHED,
which never asks a filesystem; and name by name with RESOLVE_NO_XDEV where the kernel has nothing
cached. What is done by name in a folder that lies on no served mount waits for nobody, unless the
name is that of a mount whose root asks its server (`see_entry`).

The filesystem of `/` doesn't count: our own program lies there.
"""

import os
from collections.abc import Callable, Iterable
from contextvars import ContextVar
from functools import partial, wraps
from typing import Any, ParamSpec, Protocol, TypeVar

from mountd.core.mountinfo import layers_of_overlays, parse_mount, parse_mountinfo
from mountd.core.served import asks_at_its_root, is_served
from mountd.kernel.statmount import HAS_STATMOUNT, statmount

_P = ParamSpec("_P")
_T = TypeVar("_T")


class ServedError(Exception):
    """A call would have to wait for a server, which this process must not.

    `server` is the same for all that one server serves. No OSError, lest it be taken for the
    kernel's word on a path.
    """

    def __init__(self, path: str, server: int) -> None:
        super().__init__(f"{path} lies on a filesystem that a server keeps")
        self.path = path
        self.server = server


class NoChildError(OSError):
    """No process can be started that could wait (fork(2)): EAGAIN at a limit, ENOMEM."""


class Errand(Protocol):
    """What takes calls on what is served to a child, and knows how long that may take."""

    def run(self, call: Callable[[], _T], needed: object, server: int) -> _T:
        """What the call answers, made in a child that keeps `needed` descriptors alone.

        Raises what it raises, and TimeoutError where there is no answer.
        """


_errand: ContextVar[Errand | None] = ContextVar("errand", default=None)


class _Known:
    """The mounts as they were last looked at, and whether we may wait for servers."""

    def __init__(self) -> None:
        self.may_wait = False
        self.ids: dict[int, int | None] = {}
        """For each mount its server's number; None where it has none."""
        self.points: dict[str, tuple[int, bool]] = {}
        """Where served mounts are: the server's number, and whether the root itself asks it."""
        self.asking: set[str] = set()
        """The last names of those whose root asks."""
        self.procs: set[int] = set()
        """Mounts of proc, whose links lead where their text doesn't say."""
        self.own_ids: set[int] = set()
        """Mounts of what is mounted at `/` where that is served."""
        self.own: set[int] = set()
        """The devices of what is mounted at `/`."""


_known = _Known()


def wait_for_servers() -> None:
    """Have this process, a child that nobody needs, make every call."""
    _known.may_wait = True
    _errand.set(None)


def may_wait() -> bool:
    """Whether this process may wait for servers."""
    return _known.may_wait


class Mount(Protocol):
    """What has to be known of one."""

    @property
    def id(self) -> int: ...  # noqa: D102
    @property
    def point(self) -> str: ...  # noqa: D102
    @property
    def fs_type(self) -> str: ...  # noqa: D102
    @property
    def device(self) -> int: ...  # noqa: D102


def learn(mounts: Iterable[Mount]) -> None:
    """Know these mounts, and no others."""
    mounts = [*mounts]
    _known.ids, _known.points, _known.procs, _known.own_ids = {}, {}, set(), set()
    _known.asking = set()
    _known.own = {each.device for each in mounts if each.point == "/"}
    for mount in mounts:
        learn_one(mount)
    if _known.points and any(each.fs_type == "overlay" for each in mounts):
        _learn_overlays(mounts)


def learn_one(mount: Mount) -> None:
    """Know this one too."""
    is_others = _is_others(mount.id, mount.device, mount.fs_type)
    if mount.fs_type == "proc":
        _known.procs.add(mount.id)
    if is_others:
        asks = asks_at_its_root(mount.fs_type)
        _known.points[mount.point] = mount.device, asks
        if asks:
            _known.asking.add(mount.point[mount.point.rfind("/") + 1 :])


def _learn_overlays(mounts: Iterable[Mount]) -> None:
    """An overlay is served where one of its layers is."""
    servers = {}
    for device, layers in layers_of_overlays(_mountinfo()):
        for layer in layers:
            if device not in _known.own and (server := _server_at(layer)) is not None:
                servers[device] = server
    for mount in mounts:
        if mount.device in servers:
            _known.ids[mount.id] = servers[mount.device]
            _known.points[mount.point] = servers[mount.device], False


def _server_at(path: str) -> int | None:
    try:
        see_path(f"{path}/")
    except ServedError as error:
        return error.server
    return None


def _learn_table() -> None:
    """Know what there is, where nothing was looked at yet: by mountinfo, which is read at once."""
    text = _mountinfo()
    types = {each[: each.find(" ")].partition(".")[0] for each in text.split(" - ")[1:]}
    if any(map(is_served, types)):
        learn(line.mount for line in parse_mountinfo(text))
    if HAS_STATMOUNT:
        _known.ids = {_UNKNOWN: _UNKNOWN}  # those of mountinfo are of the other kind


def _mountinfo() -> str:
    with open("/proc/self/mountinfo", "rb") as file:
        return os.fsdecode(file.read())


def is_registered(mount: int, device: int, fs_type: str) -> bool:
    """Whether a detached mount, which nobody can look up, is served; from now on it is known."""
    return _is_others(mount, device, fs_type)


def _is_others(mount: int, device: int, fs_type: str) -> bool:
    _known.ids[mount] = None
    if not is_served(fs_type):
        return False
    if device in _known.own:
        _known.own_ids.add(mount)
        return False
    _known.ids[mount] = device
    return True


def server_of(mount: int) -> int | None:
    """A number for the server of a mount that is served, by the mount's id."""
    if mount not in _known.ids:
        found: Mount | None
        if HAS_STATMOUNT:
            try:
                found = statmount(mount)
            except FileNotFoundError:
                found = None
        else:
            found = parse_mount(_mountinfo(), mount)
        if found is None:
            return _UNKNOWN  # detached, or gone: it may be anything
        learn_one(found)
    return _known.ids[mount]


_UNKNOWN = -1


def is_own(mount: int) -> bool:
    """Whether this mount, which has been looked up, has a server that we have to ask ourselves."""
    return mount in _known.own_ids


def is_proc(mount: int) -> bool:
    """Whether this mount, which has been looked up, is one of proc."""
    return mount in _known.procs


def see_mount(mount: int, path: str) -> None:
    """Raise ServedError where this mount, to which a path has led, is served."""
    server = server_of(mount)
    if server is not None:
        raise ServedError(path, server)


def see_path(path: str) -> None:
    """Raise ServedError where an absolute path leads through a mount that is known as served."""
    if not _known.ids:
        _learn_table()
    if not _known.points:
        return
    if (there := _known.points.get(path)) and there[1]:
        raise ServedError(path, there[0])
    end = path.rfind("/")
    while end > 0:
        if there := _known.points.get(path[:end]):
            raise ServedError(path, there[0])
        end = path.rfind("/", 0, end)


def see_entry(folder: int, name: str) -> None:
    """Raise ServedError where a mount is known at a name in an open folder whose root asks."""
    if name in _known.asking:
        path = os.path.join(os.readlink(f"/proc/self/fd/{folder}"), name)
        if (there := _known.points.get(path)) and there[1]:
            raise ServedError(path, there[0])


class errand:  # noqa: N801 - no generator, as each volume has several
    """Have calls on what is served go this way, in this thread, until the end of the `with`."""

    __slots__ = ("_each", "_token")

    def __init__(self, each: Errand | None) -> None:
        self._each = each

    def __enter__(self) -> None:
        self._token = _errand.set(self._each)

    def __exit__(self, *_: object) -> None:
        _errand.reset(self._token)


def by_road(function: Callable[_P, _T]) -> Callable[_P, _T]:
    """Have a function run again in a child, as a whole, where it meets something that is served.

    That takes an errand; without one ServedError is raised. What it did before it met that must
    be what can be done twice.
    """

    @wraps(function)
    def call(*args: _P.args, **kwargs: _P.kwargs) -> _T:
        way = _errand.get()
        if way is None:
            return function(*args, **kwargs)
        token = _errand.set(None)
        try:
            return function(*args, **kwargs)
        except ServedError as error:
            server = error.server
        finally:
            _errand.reset(token)
        whole: Any = partial(function, *args, **kwargs)
        found: _T = way.run(whole, (args, kwargs), server)
        return found

    return call
