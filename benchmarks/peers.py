"""Who else shows a folder's owner as somebody else: mount(8) and bindfs.

Where this machine's own mount(8) is too old to idmap, Debian 13's is used, out of the root
filesystem that the tests keep, with the libraries that lie there.
"""

import re
import shutil
import subprocess
from pathlib import Path
from typing import NamedTuple

from debian import debian_13

_SINCE = (2, 39)
"""util-linux before that ignores X-mount.idmap in silence."""


class Peer(NamedTuple):
    """A program: what starts it, and which one it is."""

    words: list[str]
    version: str


def find(place: Path) -> dict[str, Peer]:
    """The peers that this machine has, or can have; their files go into a folder."""
    peers = {}
    mount = _peer(["mount"])
    if _numbers(mount.version) >= _SINCE:
        peers["mount"] = mount
    if shutil.which("bindfs"):
        peers["bindfs"] = _peer(["bindfs"])
    if len(peers) < 2 and shutil.which("mmdebstrap"):
        loader = _unpack(place)
        for name in {"mount", "bindfs"} - peers.keys():
            peers[name] = _peer([*loader, str(place / "usr/bin" / name)])
    return peers


def _unpack(place: Path) -> list[str]:
    """Put Debian 13's programs there, and return what starts one with its own libraries."""
    wanted = ["./usr/bin/mount", "./usr/bin/bindfs", "./usr/lib/*-linux-gnu*/*.so*"]
    subprocess.run(["tar", "-xf", debian_13(), "-C", place, "--wildcards", *wanted], check=True)
    (loader,) = place.glob("usr/lib/*-linux-gnu*/ld-linux*.so.*")
    return [str(loader), "--library-path", str(loader.parent)]


def _peer(words: list[str]) -> Peer:
    command = [*words, "--version"]
    told = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    found = re.search(r"(util-linux|bindfs) [\d.]+", told)
    assert found, told
    return Peer(words, found[0])


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(map(int, version.split()[1].split(".")))
