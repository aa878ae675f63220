"""Root filesystems of Debian 13, made of the mirror's packages once a week and kept as archives."""

import fcntl
import hashlib
import os
import shutil
import subprocess
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path

CACHE = Path.home() / ".cache/mountd-tests"
_PACKAGES = (
    "bindfs",
    "crun",
    "dbus",
    "mount",
    "python3",
    "python3-pydantic",
    "python3-systemd",
    "python3-tomli",
    "python3-watchfiles",
    "systemd-sysv",
)
_MONTH = 30 * 86400


def debian_13(*more: str) -> Path:
    """An archive of a root filesystem, with `node` as its user 1000; `more`: packages besides."""
    packages = sorted({*_PACKAGES, *more})
    week = datetime.now(tz=UTC).strftime("%G-%V")
    made_of = "\0".join([*packages, Path(__file__).read_text(), week])
    archive = CACHE / f"debian-13-{hashlib.sha256(made_of.encode()).hexdigest()[:16]}.tar"
    CACHE.mkdir(parents=True, exist_ok=True)
    with open(archive.with_suffix(".lock"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # another process may be making it
        if not archive.exists():
            forget_old("debian-13-*")
            with tempfile.TemporaryDirectory(dir=CACHE) as aside:
                os.replace(_make(Path(aside) / "root.tar", packages), archive)
    return archive


def _make(archive: Path, packages: list[str]) -> Path:
    origin = mirror()
    done = subprocess.run(
        [
            "mmdebstrap",
            "--quiet",
            "--variant=minbase",
            f"--include={','.join(packages)}",
            "--dpkgopt=path-exclude=/usr/share/doc/*",
            "--dpkgopt=path-exclude=/usr/share/locale/*",
            '--aptopt=Acquire::Check-Valid-Until "false"',  # a mirror may be a snapshot
            '--customize-hook=chroot "$1" useradd --create-home --uid 1000 node',
            '--customize-hook=: >"$1/etc/machine-id"',
            '--customize-hook=rm -f "$1/etc/hostname" "$1/etc/resolv.conf"',  # this machine's
            "trixie",
            archive,
            origin,
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"this needs Debian 13, and {origin} gives none:\n{done.stderr}")
    return archive


def mirror() -> str:
    """The one that this machine's own packages come from."""
    ask = ["apt-get", "indextargets", "--format", "$(REPO_URI)", "Identifier: Packages"]
    listed = subprocess.run(ask, stdout=subprocess.PIPE, text=True, check=True).stdout
    found = (each for each in listed.split() if each.rstrip("/").endswith("/debian"))
    return next(found, "http://deb.debian.org/debian")


def forget_old(pattern: str) -> None:
    """Remove what is cached by such a name since a month or more."""
    for each in CACHE.glob(pattern):
        if each.stat().st_mtime < time.time() - _MONTH:
            shutil.rmtree(each) if each.is_dir() else each.unlink(missing_ok=True)
