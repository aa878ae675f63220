"""Volumes of one source, which are node's at targets of their names; and what is seen of them."""

from pathlib import Path
from typing import Any

from watcher import eventually
from world import World, owner

NODE = (1000, 1000)
Table = list[tuple[str, str, list[str]]]


def make_plain(world: World, *names: str, **keys: Any) -> None:
    """A manifest with these volumes, all of one source."""
    if not (world / "source").exists():
        world.folder("source")
    common = {"source": world / "source", "user": "1000:1000", **keys}
    world.volumes(**{name.replace("/", "-"): {**common, "target": world / name} for name in names})


def volumes(world: World, *names: str, user: str = "1000:1000") -> str:
    """The text of a manifest of these, each of which is the source, at `to` and its name."""
    return "".join(
        f'[volumes.{name}]\nsource = "{world.path}/source"\ntarget = "{world.path}/to/{name}"\n'
        f'user = "{user}"\n'
        for name in names
    )


def is_mounted(path: Path) -> bool:
    """Whether it is there as desired; this alone says nothing of what else there is."""
    return owner(path / "hello") == NODE


def shown(world: World) -> str:
    """The volumes whose files are seen to be node's, in the order of the alphabet."""
    targets = sorted((world / "to").glob("*"))
    return " ".join(each.name for each in targets if _is_nodes(each / "hello"))


def _is_nodes(path: Path) -> bool:
    try:
        return owner(path) == NODE
    except FileNotFoundError:
        return False


def comes_to_show(world: World, names: str) -> None:
    eventually(lambda: shown(world) == names, f"{names!r}, for it is {shown(world)!r}")


def table(world: World) -> Table:
    """All mounts, as a person sees them."""
    return sorted((each.point, each.root, sorted(each.options)) for each in world.mounts())
