"""The watch beside automounts: it looks at its sources all the time, and wakes none of them."""

import subprocess

from automounter import automount
from volumes import is_mounted
from watcher import do, eventually, watch
from world import World


def test_a_share_that_has_idled_out_isnt_woken_by_the_watch(world: World) -> None:
    world.folder("source")
    with automount(world / "auto") as auto:
        world.volumes(
            a={"source": "$/auto", "target": "$/a", "user": "1000:1000"},
            b={"source": "$/auto/sub", "target": "$/b", "user": "1000:1000"},
            c={"source": "$/source", "target": "$/c", "user": "1000:1000"},
        )
        with watch(world) as watcher:
            assert is_mounted(world / "a")
            assert is_mounted(world / "b")
            umount = ["umount", str(auto.point)]
            eventually(lambda: subprocess.run(umount, check=False).returncode == 0)
            assert not auto.is_awake
            asked = auto.asked
            watcher.reload()
            do(world, "umount c")
            eventually(lambda: is_mounted(world / "c"))
            assert auto.asked == asked
            assert is_mounted(world / "a")
            do(world, "umount a")
            eventually(lambda: is_mounted(world / "a"))  # which takes the share again
            assert auto.asked == asked + 1
