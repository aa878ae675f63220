"""The user namespaces of a pass, and what they are tried on: which sources take an idmapping."""

from contextlib import ExitStack, suppress
from errno import EINVAL, EPERM
from typing import Self

from mountd.core.desired import DesiredMount
from mountd.core.idmapping import Idmapping
from mountd.core.model import Fault
from mountd.core.mounts import AUTOMOUNT
from mountd.core.words import idmap_faults
from mountd.core.words.faults import VolumeError
from mountd.kernel.clone import build
from mountd.kernel.files import statx
from mountd.kernel.observe import observe_mount
from mountd.kernel.paths import open_below
from mountd.kernel.probe import why_no_idmap, why_no_namespace
from mountd.kernel.syscalls import Fd
from mountd.kernel.userns import UserNamespaceError, make_user_namespace


class Namespaces:
    """One for each distinct map, made when first needed, closed at the end of the `with`."""

    def __init__(self) -> None:
        self._made: dict[Idmapping, Fd] = {}
        self._held = ExitStack()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._held.close()

    def of(self, wanted: DesiredMount) -> Fd | None:
        """The one that a mount needs; None where it keeps what its source is reached through."""
        if wanted.idmap is None or wanted.idmap == wanted.through_idmap:
            return None
        return self.carrying(wanted.idmap)

    @property
    def made(self) -> list[Fd]:
        """Those that there are."""
        return [*self._made.values()]

    def carrying(self, idmap: Idmapping) -> Fd:
        """The one that carries an idmapping. Raises UserNamespaceError."""
        if idmap not in self._made:
            self._made[idmap] = self._held.enter_context(make_user_namespace(idmap))
        return self._made[idmap]


class Prober:
    """Tells whether sources can have the idmappings wanted: tried once for each filesystem."""

    def __init__(self, namespaces: Namespaces, *, is_privileged: bool) -> None:
        self._namespaces = namespaces
        self.is_privileged = is_privileged
        self._known: dict[tuple[str, int], Fault | None] = {}

    @property
    def held(self) -> list[Fd]:
        """The namespaces that there are already."""
        return self._namespaces.made

    def __call__(self, source: Fd, wanted: DesiredMount) -> Fault | None:
        """Why this source can't have it. None where it can, and where we may not try."""
        assert wanted.idmap, "without one there is nothing to try"
        if not self.is_privileged or (wanted.through and wanted.through_idmap):
            return None  # the source is seen through our own mount, so it already took an idmapping
        try:
            namespace = self._namespaces.carrying(wanted.idmap)
        except UserNamespaceError as error:
            return why_no_namespace(error)
        if wanted.submounts:
            return _why_not_below(source, wanted, namespace)
        key = wanted.fs_type, wanted.device
        if key not in self._known:
            self._known[key] = _why_not(source, wanted, namespace)
        return self._known[key]


def _why_not(source: Fd, wanted: DesiredMount, namespace: Fd) -> Fault | None:
    if fault := why_no_idmap(source, wanted.fs_type, namespace):
        return fault
    try:
        build(source, wanted, namespace).fd.close()
    except VolumeError as error:
        if error.fault.code != "idmap-untrue":
            raise
        return error.fault
    return None


def _why_no_submount(submount: Fd, wanted: DesiredMount, namespace: Fd) -> Fault | None:
    mount = observe_mount(statx(submount).mount)
    if mount.fs_type == AUTOMOUNT:
        return None  # it is left out, where the kernel lets us
    if mount.is_idmapped and wanted.through is None:
        return idmap_faults.submount_is_idmapped(mount.point)
    fault = why_no_idmap(submount, mount.fs_type, namespace)
    return fault and idmap_faults.submount_refuses(mount.point, fault)


def _why_not_below(source: Fd, wanted: DesiredMount, namespace: Fd) -> Fault | None:
    """All of a recursive volume's mounts have to take it."""
    alone = wanted._replace(volume=wanted.volume._replace(recursive=False), submounts={})
    try:
        if fault := _why_not(source, alone, namespace):
            return fault
    except VolumeError as error:  # it can't be cloned alone, but perhaps with what is below it
        if error.fault.code != "mount-refused":
            raise
    for path in wanted.submounts:
        with suppress(FileNotFoundError, NotADirectoryError), open_below(source, path) as submount:
            if fault := _why_no_submount(submount, wanted, namespace):
                return fault
    try:
        build(source, wanted, namespace).fd.close()
    except OSError as error:
        if error.errno not in (EINVAL, EPERM):
            raise
        if wanted.automounts:
            point = f"{wanted.source.rstrip('/')}/{wanted.automounts[0]}"
            return idmap_faults.automount_refuses(point, error.errno)
        return idmap_faults.covered_submount_refuses(wanted.source, error.errno)
    return None
