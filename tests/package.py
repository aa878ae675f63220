"""The Debian package and the wheel, built in a Debian 13 root and kept while nothing changes.

`package.py FOLDER` puts both there. It needs root, Python and mmdebstrap, and none of the tests'.
"""

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

from debian import CACHE, debian_13, forget_old

PROJECT = Path(__file__).parents[1]
VERSION = (PROJECT / "debian/changelog").read_text().partition("(")[2].partition("-")[0]
_PACKAGES = (
    "build-essential",
    "debhelper",
    "dh-python",
    "lintian",
    "pybuild-plugin-pyproject",
    "python3-all",
    "python3-hatch-vcs",
    "python3-hatchling",
)
# in a mount namespace of its own
_BUILD = """
root=$1 archive=$2 place=$3
mount -t tmpfs -o mode=755 tmpfs "$root"
tar -xf "$archive" -C "$root"
mkdir "$root/build"
cp -a "$place/mountd" "$root/build"
chroot "$root" sh -euc '
cd /build/mountd
version=$(dpkg-parsechangelog --show-field Version)
SETUPTOOLS_SCM_PRETEND_VERSION=${version%-*} \\
	python3 -m hatchling build --target wheel --directory /build
dpkg-buildpackage -us -uc -b
lintian --allow-root --display-info --show-overrides /build/*.changes >/build/lintian || true
'
cp "$root"/build/*.whl "$root"/build/*.deb "$root/build/lintian" "$place"
"""


class Package(NamedTuple):
    """What a build comes to."""

    deb: Path
    wheel: Path
    lintian: str
    """All that lintian says of it, a tag a line; `O:` where it is overridden."""


def package(version: str = VERSION) -> Package:
    """The checkout as it is now, built; `version`: as if it were of another one."""
    CACHE.mkdir(parents=True, exist_ok=True)
    with (
        open(CACHE / "package.lock", "w") as lock,
        tempfile.TemporaryDirectory(dir=CACHE) as aside,
    ):
        fcntl.flock(lock, fcntl.LOCK_EX)  # another process may be building it
        place = Path(aside) / "place"
        _copy_to(place / "mountd", version)
        builder = debian_13(*_PACKAGES)
        made_of = f"{builder} {Path(__file__).read_text()} {_digest(place / 'mountd')}"
        kept = CACHE / f"package-{hashlib.sha256(made_of.encode()).hexdigest()[:16]}"
        if not kept.exists():
            forget_old("package-*")
            root = Path(aside) / "root"
            root.mkdir()
            done = subprocess.run(
                ["unshare", "--mount", "sh", "-euc", _BUILD, "sh", root, builder, place],
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                text=True,
                check=False,
                env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LANG": "C.UTF-8", "HOME": "/root"},
            )
            if done.returncode:
                raise RuntimeError(f"the package can't be built:\n{done.stdout}")
            shutil.rmtree(place / "mountd")
            os.rename(place, kept)
    (deb,), (wheel,) = kept.glob("*.deb"), kept.glob("*.whl")
    return Package(deb, wheel, (kept / "lintian").read_text())


def _copy_to(place: Path, version: str) -> None:
    """Copy all that a package may be made of, and no more."""

    def others(folder: str, names: list[str]) -> list[str]:
        other = ["tests", "benchmarks", "dist", "build"] if Path(folder) == PROJECT else []
        return [each for each in names if each in ("__pycache__", *other) or each[0] == "."]

    shutil.copytree(PROJECT, place, ignore=others)
    changelog = place / "debian/changelog"
    changelog.write_text(changelog.read_text().replace(f"({VERSION}-", f"({version}-", 1))


def _digest(folder: Path) -> str:
    files = sorted(each for each in folder.rglob("*") if each.is_file())
    whole = hashlib.sha256()
    for each in files:
        head = f"{each.relative_to(folder)}\0{each.stat().st_mode:o}\0{each.stat().st_size}\0"
        whole.update(head.encode() + each.read_bytes())
    return whole.hexdigest()


if __name__ == "__main__":
    made = package()
    os.makedirs(sys.argv[1], exist_ok=True)
    for each in (made.deb, made.wheel):
        print(shutil.copy(each, sys.argv[1]))
    found = [line for line in made.lintian.splitlines() if line.startswith(("E:", "W:"))]
    sys.exit("\n".join(found) or None)
