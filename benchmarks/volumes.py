"""Volumes to measure with: folders of 501:20, of which every side makes 1000:1000's."""

import os
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

MOUNTD = str(Path(sys.executable).with_name("mountd"))
WORLD = Path("/mnt")
MANIFEST = WORLD / "mountd.toml"
STATE = WORLD / "state"
PLACES = ["--manifest", str(MANIFEST), "--state-dir", str(STATE)]
FSTAB = WORLD / "fstab"
SEEN = (1000, 1000)
_SWAPS = [
    f"{kind}:{extent}"
    for kind, stored in (("u", 501), ("g", 20))
    for extent in (
        f"0:0:{stored}",
        f"{stored}:1000:1",
        f"{stored + 1}:{stored + 1}:{999 - stored}",
        f"1000:{stored}:1",
        "1001:1001:4294966294",
    )
]
OPTIONS = f"bind,nosuid,nodev,X-mount.idmap={' '.join(_SWAPS)}"
"""For mount(8), what mountd makes of a volume with `user = "1000:1000"`."""


def make(count: int) -> None:
    """Make them on a tmpfs of their own, with a manifest and an fstab that say the same."""
    subprocess.run(["mount", "-t", "tmpfs", "-o", "mode=755", "tmpfs", WORLD], check=True)
    for number in range(count):
        make_source(str(number))
        (WORLD / f"t/{number}").mkdir(parents=True)
    write(map(str, range(count)))
    options = OPTIONS.replace(" ", "\\040")
    lines = [f"{WORLD}/s/{each} {WORLD}/t/{each} none {options} 0 0\n" for each in range(count)]
    FSTAB.write_text("".join(lines))


def make_source(name: str) -> None:
    """Make one more folder of the owner's."""
    source = WORLD / "s" / name
    source.mkdir(parents=True)
    os.chown(source, 501, 20)


def write(names: Iterable[str]) -> None:
    """Make these the manifest's volumes, in one step."""
    tables = ['[defaults]\nuser = "1000:1000"\n']
    tables += [
        f'[volumes.v{each}]\nsource = "{WORLD}/s/{each}"\ntarget = "{WORLD}/t/{each}"\n'
        for each in names
    ]
    new = MANIFEST.with_suffix(".new")
    new.write_text("\n".join(tables))
    new.rename(MANIFEST)


def is_seen(name: str) -> bool:
    """Whether the user is seen to own a target."""
    try:
        found = os.stat(WORLD / "t" / name)
    except FileNotFoundError:
        return False
    return (found.st_uid, found.st_gid) == SEEN


def check(count: int) -> None:
    """What was measured counts only if every target is the user's."""
    missing = [each for each in map(str, range(count)) if not is_seen(each)]
    assert not missing, f"{len(missing)} of {count} volumes aren't mounted: {missing[:10]}"
