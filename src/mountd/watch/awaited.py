"""Which paths besides the manifest's the watch looks at, because a volume depends on them."""

from collections.abc import Collection, Mapping

from mountd.core.actions import Outcome
from mountd.core.mounts import Base
from mountd.core.nesting import paths_in
from mountd.manifest.load import Manifest
from mountd.watch.places import Sight

_ABOUT_ROOT = {"/etc/passwd", "/etc/subuid", "/etc/subgid"}


def awaited_by(
    manifest: Manifest, outcomes: Mapping[str, Outcome], raw: Collection[Base], state_dir: str
) -> dict[str, Sight]:
    """Paths that are missing, and that volumes wait for; `raw` are our mounts of filesystems."""
    awaited: dict[str, Sight] = {}
    for volume in manifest.volumes:
        outcome = outcomes.get(volume.name)
        code = outcome.fault.code if outcome and outcome.fault else None
        if code == "no-source":
            awaited |= dict.fromkeys(paths_in(volume.options))
        if code == "no-source" and volume.filesystem and volume.subdir:
            its = (it for it in raw if (it.type, it.source) == (volume.type, volume.source))
            awaited |= {f"{state_dir}/fs/{each.name}/{volume.subdir}": None for each in its}
        if code == "no-source" and volume.source.startswith("/"):
            awaited[volume.source] = None
        elif outcome and outcome.fault and code == "no-target":
            is_home = outcome.fault.state == "pending" and outcome.fault.object
            awaited[outcome.fault.object if is_home else volume.target] = None
    return awaited


def accounts_of_root(manifest: Manifest) -> set[str]:
    """The files of `/` in which users are looked up.

    And who could become root by a volume, wherever its user is.
    """
    used = {volume.accounts for volume in manifest.volumes if volume.user}
    return (_files(used & {"/"}) | _ABOUT_ROOT) if used else set()


def accounts_elsewhere(manifest: Manifest) -> dict[str, Sight]:
    """Those in other root filesystems, which may be on a server that hangs."""
    used = {volume.accounts for volume in manifest.volumes if volume.user}
    return dict.fromkeys(_files(used - {"/"}), ...)


def _files(roots: set[str]) -> set[str]:
    return {f"{root.rstrip('/')}/etc/{name}" for root in roots for name in ("passwd", "group")}
