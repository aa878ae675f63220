"""Where volumes go: the targets found, and what would be made of those that are missing.

A home is never made. `useradd` makes one with its files, but says nothing and does nothing where
there is a folder already: root's and empty it would stay.
"""

import os
import stat
from collections.abc import Container, Mapping, Sequence
from contextlib import suppress
from errno import ENAMETOOLONG

from mountd.core.model import Fault, Kind, Volume
from mountd.core.mounts import Top
from mountd.core.named_tuple import NamedTuple
from mountd.core.targets import folders_above, why_forbidden
from mountd.core.words import faults
from mountd.core.words.faults import VolumeError
from mountd.kernel.making import NAME_MAX, why_not_makeable
from mountd.kernel.observe import top_of
from mountd.kernel.paths import Spot, plain_folder, spot
from mountd.reconcile.accounts import AccountsOfAll

_HOMES = "/home"


class Target(NamedTuple):
    """A target's path without links, and what is there; None where it has to be made."""

    path: str
    there: Kind | None = None
    top: Top | None = None
    """What is mounted there, where that was seen on the way."""
    makes: tuple[str, ...] = ()
    why_not: Fault | None = None
    """Why it can't be made, or has to be waited for."""


class Targets:
    """Finds targets, as the machine is in this round of a pass."""

    def __init__(
        self,
        points: Container[str],
        automounts: Container[str],
        reserved: Mapping[str, str],
        accounts: AccountsOfAll,
    ) -> None:
        """`points`: where something is mounted; `reserved`: what no target may cover, by path.

        `accounts` of `/` are read only where something is to be made.
        """
        self._points = points
        self._automounts = automounts
        self._reserved = reserved
        self._accounts = accounts
        self._homes: str | None = None
        """Where /home leads."""
        self._makeable: dict[str, Fault | None] = {}
        """Whether something can be made in a folder, by its path."""

    def find(self, volume: Volume) -> Target:
        """Find a volume's target. Raises VolumeError, or OSError as openat2(2) does."""
        folder = None
        if volume.target not in self._automounts:  # which it would trigger
            folder = plain_folder(volume.target)
        if folder:  # the very path that the manifest's rules saw
            with folder:
                top = top_of(folder) if volume.target in self._points else None
            return Target(volume.target, "folder", top)
        try:
            with spot(volume.target) as found:
                path = found.whole_path
                if why := why_forbidden(path, self._reserved):
                    raise VolumeError(faults.forbidden_target(path, why))
                if found.there:
                    return Target(path, "folder" if stat.S_ISDIR(found.there.mode) else "file")
                if volume.source == volume.target and not volume.type:
                    raise VolumeError(faults.no_source(volume.source))
                if not volume.create:
                    raise VolumeError(faults.no_target(volume.target))
                makes = found.missing
                why_not = self._awaited_home(volume.target, makes) or self._why_not(found)
                return Target(path, None, None, makes, why_not)
        except NotADirectoryError as error:
            raise VolumeError(faults.no_folder(volume.target)) from error
        except OSError as error:
            if error.errno != ENAMETOOLONG:
                raise
            raise VolumeError(faults.name_too_long(volume.target, NAME_MAX)) from error

    def _why_not(self, found: Spot) -> Fault | None:
        if found.path not in self._makeable:
            self._makeable[found.path] = why_not_makeable(found)
        return self._makeable[found.path]

    def _awaited_home(self, target: str, makes: Sequence[str]) -> Fault | None:
        """The home among what would have to be made; links may lead there under other names."""
        ways = [*makes, *folders_above(target), target]
        homes: Mapping[str, Sequence[tuple[str, str]]] = {}
        with suppress(VolumeError, OSError):  # of accounts that can't be read nobody waits for any
            homes = self._accounts.of("/").homes
        for way in ways:
            for home, name in homes.get(os.path.basename(way), ()):
                if path := _among(makes, home):
                    return faults.no_home(name, path, has_account=True)
        self._homes = self._homes or _resolved(_HOMES) or _HOMES
        for way in ways:
            is_below = os.path.dirname(way) in (_HOMES, self._homes)
            if is_below and (path := _among(makes, way)):
                return faults.no_home(os.path.basename(way), path, has_account=False)
        return None


def _among(makes: Sequence[str], path: str) -> str | None:
    """The one of these to which a path leads, if it does."""
    found = path if path in makes else _resolved(path)
    return found if found in makes else None


def _resolved(path: str) -> str | None:
    with suppress(VolumeError, OSError), spot(path) as found:
        return found.whole_path
    return None
