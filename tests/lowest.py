"""Runs pytest in a root of Debian 13, whose Python and libraries are the lowest that are supported.

    lowest.py [OPTION OF PYTEST… | TEST…]

The package is installed there as on any machine. All tests are run but those that need a machine (a
guest or a container) or the newest tools, which make what is shipped: `.venv` alone has them.
"""

import ast
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

from package import PROJECT, package

from debian import CACHE, debian_13

_PACKAGES = (
    "acl",
    "bindfs",
    "btrfs-progs",
    "e2fsprogs",
    "erofs-utils",
    "locales",
    "make",
    "python3-hypothesis",
    "python3-jsonschema",
    "python3-pytest",
    "python3-pytest-xdist",
    "squashfs-tools",
    "strace",
    "xfsprogs",
)
_ELSEWHERE = {"container", "guest", "jsonschema_rs", "pexpect", "rich", "shipped"}
"""Whoever imports one of these is run by `.venv` alone."""
_BESIDE = "not the_demo_runs and not the_benchmarks_run"  # by what `.venv` has, and a compiler
_FEWER = "--hypothesis-profile=fewer"  # what is looked for here doesn't hang on an example
_ENTER = """
root=$1 archive=$2 deb=$3 project=$4; shift 4
mount -t tmpfs -o mode=755 tmpfs "$root"
tar -xf "$archive" -C "$root"
mkdir "$root/opt/mountd" "$root/old"
cp "$deb" "$root/mountd.deb"
mount --rbind /dev "$root/dev"
mount --rbind /sys "$root/sys"
mount --rbind "$project" "$root/opt/mountd"
mount -t proc proc "$root/proc"
mount -t tmpfs -o mode=755 tmpfs "$root/run"
cd "$root"
pivot_root . old
umount --lazy old
rmdir old
dpkg --install mountd.deb >/dev/null
cd /opt/mountd
exec "$@"
"""
_SEE = """
import os, subprocess, sys
from importlib.metadata import version
for name, floor in (each.split("=") for each in os.environ.pop("FLOORS").split()):
    if not f"{version(name)}.".startswith(f"{floor}."):
        sys.exit(f"{name} is {version(name)} in Debian 13, and {floor} is said to be the lowest")
pytest = [sys.executable, "-m", "pytest", *sys.argv[1:]]
if "--numprocesses" in pytest:  # else each of them compiles all tests by itself
    collect = [*pytest, "--collect-only", "--numprocesses=0", "--quiet"]
    subprocess.run(collect, stdout=subprocess.DEVNULL, check=False)
os.execv(sys.executable, pytest)
"""


def floors() -> dict[str, str]:
    """The lowest version of each library, by its name on PyPI."""
    project = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]
    return dict(each.split(" >= ") for each in project["dependencies"])


def main(*options: str) -> int:
    """Run them, and return how that ended."""
    files = [each for each in PROJECT.glob("tests/**/test_*.py") if not _imports(each) & _ELSEWHERE]
    tests = [_FEWER, "-k", _BESIDE, *(str(each.relative_to(PROJECT)) for each in sorted(files))]
    if any(each.startswith("tests/") for each in options):
        tests = []
    archive, deb = debian_13(*_PACKAGES), package().deb
    with tempfile.TemporaryDirectory(dir=CACHE) as root:
        places = [root, str(archive), str(deb), str(PROJECT)]
        given = [*places, "python3", "-c", _SEE, *options, *tests]
        return subprocess.run(
            ["unshare", "--mount", "--propagation=private", "sh", "-euc", _ENTER, "sh", *given],
            env={
                "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
                "HOME": "/root",
                "LANG": "C.UTF-8",
                "FLOORS": " ".join(f"{name}={floor}" for name, floor in floors().items()),
            },
            check=False,
        ).returncode


def _imports(path: Path) -> set[str]:
    """The modules that a test names, as far as their first dot."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {each.name.partition(".")[0] for each in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module.partition(".")[0])
    return found


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
