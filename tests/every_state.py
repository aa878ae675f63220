"""A world in which one manifest comes to every action and every state."""

from world import World, run

_MANIFEST = """
[defaults]
accounts = "$/rootfs"
user = "node"

[volumes.kept]
source = "$/source/kept"
target = "$/to/kept"

[volumes.{renamed}]
source = "$/source/renamed"
target = "$/to/renamed"

[volumes.replaced]
source = "$/source/replaced"
target = "$/to/replaced"
user = "{user}"

[volumes.adjusted]
source = "$/source/adjusted"
target = "$/to/adjusted"
noexec = {noexec}

[volumes.moved]
source = "$/source/moved"
target = "$/to/{moved}"
{rest}
"""

_BEFORE = """
[volumes.leaves]
source = "$/source/leaves"
target = "$/to/a-place-to-leave"

[volumes.goes]
source = "$/source/goes"
target = "$/to/one-more"
"""

_AFTER = """
[volumes.new]
source = "$/source/new"
target = "$/to/new"

[volumes.late]
source = "$/source/late"
target = "$/to/late"

[volumes.stranger]
source = "$/source/stranger"
target = "$/to/stranger"

[volumes.roots]
source = "$/source/roots"
target = "$/to/roots"
user = "1000:1000"

[volumes.plain]
source = "$/source/plain"
target = "$/to/plain"
read_only = true
"""

ACTIONS = {
    "kept": ("keep", None),
    "renamed": ("keep", None),
    "replaced": ("replace", None),
    "adjusted": ("adjust", None),
    "moved": ("mount", None),
    "new": ("mount", None),
    "late": (None, "no-source"),
    "stranger": (None, "foreign-mount"),
    "roots": (None, "root-owned"),
    "plain": ("mount", None),
}
"""Each volume's action and reason, in the manifest's order; what leaves comes behind."""


def make_every_state(world: World) -> None:
    """Mount what one manifest says, then edit it so that the next pass has all there is to do."""
    world.rootfs("node:x:1000:1000::/home/node:/bin/sh\n")
    for name in (*ACTIONS, "leaves", "goes"):
        if name != "late":
            world.folder(f"source/{name}", owner=(0, 0) if name == "roots" else (501, 20))
    words = {"renamed": "old", "user": "node", "noexec": "false", "moved": "before"}
    world.write(_MANIFEST.format(**words, rest=_BEFORE))
    world.reconcile()
    words = {"renamed": "renamed", "user": "1001:1001", "noexec": "true", "moved": "after"}
    world.write(_MANIFEST.format(**words, rest=_AFTER))
    (world / "to/stranger").mkdir()
    run("mount", "-t", "tmpfs", "tmpfs", str(world / "to/stranger"))
