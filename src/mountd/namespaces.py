"""The user namespaces of a pass, and what they are tried on: which sources take an idmapping."""

from contextlib import ExitStack
from typing import Self

from mountd.core import faults
from mountd.core.faults import VolumeError
from mountd.core.idmapping import Idmapping
from mountd.core.model import DesiredMount, Fault
from mountd.kernel import tree
from mountd.kernel.observe import observe_mount
from mountd.kernel.paths import open_below
from mountd.kernel.probe import why_no_idmap, why_no_namespace
from mountd.kernel.syscalls import Fd, statx
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

    def carrying(self, idmap: Idmapping) -> Fd:
        """The one that carries an idmapping. Raises UserNamespaceError."""
        if idmap not in self._made:
            self._made[idmap] = self._held.enter_context(make_user_namespace(idmap))
        return self._made[idmap]


class Prober:
    """Tells whether sources can have the idmappings wanted: once for each filesystem and map."""

    def __init__(self, namespaces: Namespaces, *, is_privileged: bool) -> None:
        self._namespaces = namespaces
        self._is_privileged = is_privileged
        self._known: dict[tuple[str, int, Idmapping], Fault | None] = {}

    def __call__(self, source: Fd, wanted: DesiredMount) -> Fault | None:
        """Why this source can't have it. None where it can, and where we may not try."""
        assert wanted.idmap, "without one there is nothing to try"
        if not self._is_privileged or (wanted.through and wanted.through_idmap):
            return None  # what shows our own mount has had one
        if wanted.submounts:
            return self._why_not_below(source, wanted, wanted.idmap)
        key = wanted.fs_type, wanted.device, wanted.idmap
        if key not in self._known:
            self._known[key] = self._why_not(source, wanted, wanted.idmap)
        return self._known[key]

    def _why_not(self, source: Fd, wanted: DesiredMount, idmap: Idmapping) -> Fault | None:
        try:
            namespace = self._namespaces.carrying(idmap)
            if fault := why_no_idmap(source, wanted.fs_type, namespace):
                return fault
            tree.build(source, wanted, namespace).fd.close()
        except UserNamespaceError as error:
            return why_no_namespace(error)
        except VolumeError as error:
            if error.fault.code == "idmap-untrue":
                return error.fault
            raise
        return None

    def _why_not_below(self, source: Fd, wanted: DesiredMount, idmap: Idmapping) -> Fault | None:
        """All of a recursive volume's mounts have to take it."""
        alone = wanted._replace(volume=wanted.volume._replace(recursive=False), submounts=())
        if fault := self._why_not(source, alone, idmap):
            return fault
        for path in wanted.submounts:
            with open_below(source, path) as submount:
                fs_type = observe_mount(statx(submount).mount).fs_type
                if fault := why_no_idmap(submount, fs_type, self._namespaces.carrying(idmap)):
                    return faults.submount_refuses(f"{wanted.source}/{path}", fault)
        return None
