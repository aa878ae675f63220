"""Where else a mount shows, because mounts propagate: on the peers and slaves of what it lies on.

mount_namespaces(7), "Shared subtrees". Other namespaces are not looked at.
"""

from collections.abc import Iterable, Iterator, Mapping

from mountd.core.mounts import TOO_DEEP, Managed, ObservedMount, root_at
from mountd.core.targets import is_within


class Propagation:
    """The mounts of a table by the groups that they receive from."""

    def __init__(self, mounts: Mapping[int, ObservedMount]) -> None:
        self._mounts = mounts
        found: dict[int, list[ObservedMount]] = {}
        for mount in mounts.values():
            for group in {mount.peers, mount.master} - {0}:
                found.setdefault(group, []).append(mount)
        self._receivers = {group: each for group, each in found.items() if len(each) > 1}
        self._tops: dict[str, ObservedMount] = {}
        if self._receivers:
            under = {each.parent for each in mounts.values() if _is_stacked(each, mounts)}
            self._tops = {each.point: each for each in mounts.values() if each.id not in under}

    def __bool__(self) -> bool:
        """Whether any mount shows anywhere else."""
        return bool(self._receivers)

    def shown_at(self, path: str) -> tuple[str, ...]:
        """The other paths at which a mount shows that is attached at this one."""
        if not self._receivers:
            return ()
        folder = path
        while folder:
            folder = folder.rpartition("/")[0]
            if under := self._tops.get(folder or "/"):
                return tuple({point: None for _, point in self._places(path, under)})
        return ()

    def copies_of(self, known: Mapping[int, Managed]) -> dict[int, Managed]:
        """The mounts that are copies of these, with the mount each is a copy of."""
        found: dict[int, Managed] = {}
        for number, managed in known.items() if self._receivers else ():
            mount = self._mounts.get(number)
            under = self._mounts.get(mount.parent) if mount else None
            if mount is None or under is None or mount.peers not in self._receivers:
                continue
            places = {(parent.id, point) for parent, point in self._places(mount.point, under)}
            for each in self._receivers[mount.peers]:
                if each.id not in known and (each.parent, each.point) in places:
                    found[each.id] = managed
        return found

    def _places(self, path: str, under: ObservedMount) -> Iterator[tuple[ObservedMount, str]]:
        """The peers and slaves of a mount, and where each of them shows this path below it."""
        root = root_at(under, path)
        for mount in self._all_that_receive(under.peers):
            top = mount.root.removesuffix("//deleted").rstrip("/")
            if mount.id != under.id and root != TOO_DEEP and is_within(root, top):
                yield mount, mount.point.rstrip("/") + root[len(top) :]

    def _all_that_receive(self, group: int) -> Iterable[ObservedMount]:
        """The peers, their slaves, and the slaves of peers of those."""
        found: dict[int, ObservedMount] = {}
        groups = [group]
        for each in groups:  # which grows
            for mount in self._receivers.get(each, ()):
                found[mount.id] = mount
                if mount.peers and mount.peers not in groups:
                    groups.append(mount.peers)
        return found.values()


def _is_stacked(mount: ObservedMount, mounts: Mapping[int, ObservedMount]) -> bool:
    under = mounts.get(mount.parent)
    return under is not None and under is not mount and under.point == mount.point
