"""Mounts: those that the kernel has, and those that the record says are ours."""

from collections.abc import Iterable, Iterator, Mapping, Sequence

from mountd.core.idmapping import Idmapping
from mountd.core.model import Flags, Ids, Refused
from mountd.core.named_tuple import NamedTuple


class ObservedMount(NamedTuple):
    """A mount the kernel has. `id` and `parent` are unique within a boot (statmount(2), Linux 6.8).

    Before that they are mountinfo's, which are used again. `device` is the superblock's; where the
    kernel does not tell the idmapping, `idmap` is None for all.
    """

    id: int
    parent: int
    point: str
    root: str
    fs_type: str
    device: int
    flags: Flags
    is_fs_read_only: bool
    idmap: Idmapping | None
    is_idmapped: bool = False
    """Every kernel that can idmap reports this; unlike `idmap` it is always right."""
    peers: int = 0
    """The number of its peer group, which it propagates to and receives from; 0 for none."""
    master: int = 0
    """The peer group that it is a slave of, which it only receives from."""


TOO_DEEP = "(a path of more than 1 MiB)"
"""Where a mount is, if its path is longer: it is equal to no path, and below none."""
_LONGEST = 1 << 20


def bounded(path: str) -> str:
    """A mount's path, unless it is longer than anything that is worth looking at.

    A user may make it as long as she has room for folders.
    """
    return path if len(path) <= _LONGEST else TOO_DEEP


def parents_of(mount_id: int, mounts: Mapping[int, ObservedMount]) -> Iterator[ObservedMount]:
    """What a mount lies on, what that lies on, and so on, as far as the table tells.

    The root of a namespace may be its own parent; and of ids that are used again a table that was
    read while mounts came and went may tell a circle.
    """
    mount = mounts.get(mount_id)
    for _ in range(len(mounts)):
        above = mounts.get(mount.parent) if mount else None
        if above is None or above is mount:
            return
        yield above
        mount = above


class Forest(NamedTuple):
    """The mounts by their ids, and what lies on each: asked what goes first, so that one can go."""

    mounts: Mapping[int, ObservedMount]
    children: Mapping[int, Sequence[ObservedMount]]

    def stack_at(self, top: ObservedMount) -> Iterator[ObservedMount]:
        """The mounts that lie on each other at one place, from the topmost down."""
        yield top
        for each in parents_of(top.id, self.mounts):
            if each.point != top.point:
                return
            yield each

    def covers_of(self, mount_id: int) -> list[ObservedMount]:
        """The mounts that cover a folder above a mount, in the order in which they can go."""
        found: list[ObservedMount] = []
        child = self.mounts.get(mount_id)
        for above in parents_of(mount_id, self.mounts):
            covers = [
                each
                for each in self.children.get(above.id, ())
                if child and child.point.startswith(f"{each.point.rstrip('/')}/")
            ]
            found[:0] = sorted(covers, key=lambda it: len(it.point))
            child = above
        return found

    def to_take_off(self, roots: Iterable[ObservedMount]) -> list[ObservedMount]:
        """These, in their order, and before each what is mounted on it, as umount(2) lets go."""
        found: dict[int, ObservedMount] = {}
        for root in roots:
            todo = {root.id: root}
            rest = [root]
            for each in rest:  # which grows
                new = [it for it in self.children.get(each.id, ()) if it.id not in todo]
                todo |= {it.id: it for it in new}
                rest += new
            found |= {each.id: each for each in reversed(rest) if each.id not in found}
        return [*found.values()]


def forest_of(mounts: Mapping[int, ObservedMount]) -> Forest:
    """The mounts of a table, as they lie on each other."""
    children: dict[int, list[ObservedMount]] = {}
    for mount in mounts.values():
        children.setdefault(mount.parent, []).append(mount)
    return Forest(mounts, children)


def mount_at(path: str, mounts: Mapping[int, ObservedMount]) -> ObservedMount | None:
    """The mount on which a path without links lies, as far as the table tells."""
    on_the_way = [
        each
        for each in mounts.values()
        if path == each.point or path.startswith(f"{each.point.rstrip('/')}/")
    ]
    roots = (each for each in on_the_way if each.parent == each.id or each.parent not in mounts)
    here = next(roots, None)
    for _ in on_the_way:  # of several on one mount that is met first which is nearest to its root
        parent = here and here.id
        next_ = [each for each in on_the_way if each.parent == parent and each is not here]
        if not next_:
            break
        here = min(next_, key=lambda each: len(each.point))
    return here


AUTOMOUNT = "autofs"
"""The type of a mount on which another one is mounted once it, or a folder of it, is entered."""


class Top(NamedTuple):
    """What is seen at a target on which something is mounted: the topmost mount's id and root."""

    id: int
    device: int
    inode: int
    owner: Ids


class Nobodys(NamedTuple):
    """Of the uids that were asked for, those that nobody on this machine can have.

    `trouble` may have kept the account files from being read: then that is known of none.
    """

    uids: frozenset[int] = frozenset()
    trouble: str = ""


class Observed(NamedTuple):
    """The mounts of this namespace by id, and the topmost at each target that has one.

    `raw` are our own raw mounts of filesystems, which root alone can reach. Before Linux 6.15 the
    kernel does not tell idmappings: then the record's word counts. Before that it can't give a
    clone another idmapping either, and before 6.5 not mount beneath a mount.
    """

    mounts: dict[int, ObservedMount]
    tops: dict[str, Top]
    tells_idmaps: bool
    can_remap: bool = True
    can_go_beneath: bool = True
    raw: frozenset[int] = frozenset()
    nobodys: Nobodys = Nobodys()


class Managed(NamedTuple):
    """A mount that mountd made, as its record has it: enough to know it again, and whose it is."""

    id: int
    volume: str
    source: str
    target: str
    manifest: str
    owner: Ids
    idmap: Idmapping | None
    filesystem: str = ""
    """The name of the raw mount that it is a clone of, for a volume with a `type`."""
    submounts: tuple[int, ...] = ()
    refused: Refused | None = None
    device: int = 0
    """The superblock's; with `root` and `target` it tells a mount whose id may be another's now."""
    root: str = ""


FIRST_UNIQUE_ID = 1 << 31
"""Linux counts unique ids from here, beyond those of mountinfo, which it uses again."""


def is_same(managed: Managed, mount: ObservedMount) -> bool:
    """Whether a mount is the recorded one: by its unique id, or where it has none by all it is."""
    if managed.id != mount.id:
        return False
    return mount.id >= FIRST_UNIQUE_ID or (managed.device, managed.root, managed.target) == (
        mount.device,
        mount.root.removesuffix("//deleted"),  # a single file that was replaced by rename
        mount.point,
    )


def root_at(mount: ObservedMount, path: str) -> str:
    """The root that a clone has which is made of a path on this mount."""
    if mount.root == TOO_DEEP:
        return TOO_DEEP
    root = mount.root.removesuffix("//deleted").rstrip("/")
    return root + path.removeprefix(mount.point.rstrip("/")) or "/"


Adoptable = frozenset[str] | None
"""Targets at which mounts may be ours though no record names them; None: any target."""


def may_adopt(adoptable: Adoptable, target: str) -> bool:
    """Whether what is mounted at a target, and is on no record, may be ours."""
    return adoptable is None or target in adoptable


class Base(NamedTuple):
    """The raw mount of a filesystem, below the state directory under its `name`."""

    id: int
    name: str
    type: str = ""
    source: str = ""
    """Empty, as the type is, where the record that names it is older than these."""
    ignored: tuple[str, ...] = ()
    """The keys of those of its options that are not in force: it was mounted already."""
