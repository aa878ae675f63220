"""What is in the way of a volume's mount: mostly mounts of others."""

from mountd.core.desired import Desired, DesiredMount, Later, Unready
from mountd.core.model import Fault
from mountd.core.mounts import Managed, ObservedMount, Top, may_adopt
from mountd.core.scene import Scene
from mountd.core.words import mount_faults


def refusal(desired: Desired, top: Top | None, scene: Scene) -> Fault | None:
    """Why there can't be a mount, whatever the target shows."""
    if isinstance(desired, Unready):
        return desired.fault
    if top and (other := _of_another_manifest(desired.target, top, scene)):
        return mount_faults.managed_elsewhere(desired.target, other.volume, other.manifest)
    copied = scene.copies.get(top.id) if top else None
    if copied and copied.id not in scene.going:
        return mount_faults.copy_at(desired.target, copied.volume, scene.point(copied))
    if isinstance(desired, Later):
        if not desired.over:
            fault = _stranger(desired, top, scene)
        elif desired.over in scene.going:
            fault = None
        else:
            fault = scene.stuck.get(desired.over) or mount_faults.hidden_source(desired.target)
        if fault:
            return fault
    return scene.judgement.refused.get(desired.volume.name)


def _stranger(desired: Later, top: Top | None, scene: Scene) -> Fault | None:
    """The conflict, if what is mounted at its target can't be a clone of its filesystem."""
    target = desired.target
    mount = scene.observed.mounts.get(top.id) if top else None
    if mount is None or mount.id in scene.by_id:
        return None
    if mount.fs_type == desired.volume.type and may_adopt(scene.adoptable, target):
        return None
    return _foreign(target, mount, scene)


def _foreign(target: str, top: ObservedMount, scene: Scene) -> Fault:
    covers = bool(scene.mine(target))
    return mount_faults.foreign_mount(target, top, scene.forest, scene.known, covers=covers)


def _of_another_manifest(target: str, top: Top, scene: Scene) -> Managed | None:
    """What of another manifest's is mounted at a target, be it covered."""
    mounts = scene.observed.mounts
    mount = mounts.get(top.id)
    while mount and mount.point == target:
        managed = scene.by_id.get(mount.id)
        if managed and managed.manifest != scene.manifest:
            return managed
        mount = mounts.get(mount.parent)
    return None


def obstacle(desired: DesiredMount, scene: Scene, old: int | None) -> Fault | None:
    """What isn't ours and lies below where this volume's mount would go."""
    points = {f"{desired.target}/{each}" for each in desired.submounts if desired.is_in_place}
    strangers = strangers_on(desired.target, old, scene)
    if found := [each for each in strangers if each.point not in points]:
        return mount_faults.mount_below(found, scene.forest, scene.known)
    return None


def strangers_on(target: str, under: int | None, scene: Scene) -> list[ObservedMount]:
    """What isn't ours and lies below a target, by path; `under` a mount, if given."""
    strangers = scene.strangers.get(target, ())
    found = [mount for mount in strangers if scene.is_under(mount.id, under)]
    return sorted(found, key=lambda mount: (mount.point, mount.id))


def intrusion(
    desired: DesiredMount,
    top: Top,
    mount: ObservedMount,
    scene: Scene,
    *,
    is_equal: bool,
    is_known: bool,
) -> Fault | None:
    """The conflict, if a foreign mount is at the target.

    An unrecorded mount counts as ours if the record was lost and it equals the desired one
    (`is_equal`). A record that is whole knows all of ours.
    """
    target = desired.target
    mine = {each.id for each in scene.mine(target)}
    if is_known:  # whatever may lie beneath, as propagation puts it there, shows nowhere
        return None
    if other := scene.by_id.get(top.id):
        return mount_faults.managed_elsewhere(target, other.volume, other.manifest)
    if desired.through == top.id and not is_equal:
        return mount_faults.perhaps_ours(target)
    lower = scene.observed.mounts.get(mount.parent)
    is_stacked = lower is not None and lower.point == target and not desired.is_in_place
    if mine or is_stacked or not is_equal or not may_adopt(scene.adoptable, target):
        return _foreign(target, mount, scene)  # of two that are equal, nobody knows which is ours
    return None
