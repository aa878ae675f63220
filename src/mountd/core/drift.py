"""In which fields a mount differs from the desired one, and what the record says of it."""

from collections.abc import Iterator, Mapping

from mountd.core.actions import Drift
from mountd.core.desired import DesiredMount
from mountd.core.idmapping import in_words
from mountd.core.mounts import Managed, ObservedMount, Top


def differences(
    wanted: DesiredMount,
    mount: ObservedMount,
    top: Top,
    known: Managed | None,
    *,
    tells_idmaps: bool,
) -> tuple[Drift, ...]:
    """The fields in which a mount at its target isn't what is wanted.

    Where the kernel reports no idmappings the record is believed; without one, the owner that is
    shown is compared.
    """
    found: list[Drift] = []
    if (top.device, top.inode) != (wanted.device, wanted.inode):
        found.append(Drift("source", wanted.source, f"{mount.root} of its {mount.fs_type}"))
    if tells_idmaps or known:
        idmap = mount.idmap if tells_idmaps else known.idmap if known else None
        if idmap != wanted.idmap:
            found.append(Drift("idmap", in_words(wanted.idmap), in_words(idmap)))
    elif top.owner != wanted.shown:
        found.append(Drift("idmap", f"owner seen as {wanted.shown}", f"as {top.owner}"))
    if mount.flags != wanted.flags:
        found.append(Drift("flags", str(wanted.flags), str(mount.flags)))
    return tuple(found)


def submount_differences(
    wanted: DesiredMount, known: Managed, mounts: Mapping[int, ObservedMount]
) -> Iterator[Drift]:
    """Where the submounts that a recursive mount was made with are gone, or have other flags.

    What was mounted or unmounted below the source since then is not compared.
    """
    inside = f"{wanted.target}/"
    below = [mounts[each] for each in known.submounts if each in mounts]
    there = [each for each in below if each.point.startswith(inside)]  # an id may be another's now
    if gone := len(known.submounts) - len(there):
        points = {each.point for each in there}
        missing = [f"{inside}{path}" for path in wanted.submounts if inside + path not in points]
        for point in missing[:gone] or ["a submount"]:
            yield Drift("mount", point, "nothing")
    flags = dict(zip(wanted.submounts, wanted.submount_flags, strict=True))
    for path in wanted.automounts:  # it may be asleep, so that its own flags are those that show
        flags.pop(path, None)
    for each in there:
        path = each.point.removeprefix(inside)
        if each.flags != flags.get(path, each.flags):
            yield Drift("flags", f"{path}: {flags[path]}", f"{path}: {each.flags}")


def record_entry(
    mount: DesiredMount, mount_id: int, manifest: str, submounts: tuple[int, ...] = ()
) -> Managed:
    """What the record says of a mount that is, or is about to be, as desired."""
    return Managed(
        mount_id,
        mount.volume.name,
        mount.source,
        mount.target,
        manifest,
        mount.owner,
        mount.idmap,
        mount.filesystem,
        submounts,
        mount.refused,
        mount.superblock,
        mount.root,
    )
