"""In which fields a mount differs from the desired one, and what the record says of it."""

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
