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
    elif top.owner != wanted.choice.shown:
        found.append(Drift("idmap", f"owner seen as {wanted.choice.shown}", f"as {top.owner}"))
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
    for each in there:
        path = each.point.removeprefix(inside)
        flags = wanted.submounts.get(path, each.flags)
        if each.flags != flags and path not in wanted.automounts:  # asleep, it shows its own flags
            yield Drift("flags", f"{path}: {flags}", f"{path}: {each.flags}")


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
        mount.views[0].device,
        mount.views[0].root,
    )
