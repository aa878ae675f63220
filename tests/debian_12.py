"""Packages of Debian 12, whose kernel and QEMU are older, got once a week and kept."""

import os
import subprocess
import tempfile
from datetime import UTC, datetime
from pathlib import Path

from debian import CACHE, forget_old, mirror

_SETTINGS = """
APT::Sandbox::User "root";
Acquire::Check-Valid-Until "false";
Acquire::Languages "none";
Dir::Etc::SourceList "{place}/sources";
Dir::Etc::SourceParts "/dev/null";
Dir::State::Lists "{place}/lists";
Dir::State::status "{place}/status";
Dir::Cache "{place}";
"""
_KEYS = "/usr/share/keyrings/debian-archive-keyring.gpg"


def debian_12(pattern: str) -> Path:
    """The last package that apt finds by a regular expression, as a file."""
    week = datetime.now(tz=UTC).strftime("%G-%V")
    kept = CACHE / f"debian-12-{week}-{pattern}.deb"
    if not kept.exists():
        CACHE.mkdir(parents=True, exist_ok=True)
        forget_old("debian-12-*.deb")
        with tempfile.TemporaryDirectory(dir=CACHE) as aside:
            os.replace(_get(Path(aside), pattern), kept)
    return kept


def _get(place: Path, pattern: str) -> Path:
    """Have apt get it, with lists and a state of its own: this machine may be another Debian."""
    (place / "settings").write_text(_SETTINGS.format(place=place))
    (place / "sources").write_text(f"deb [signed-by={_KEYS}] {mirror()} bookworm main\n")
    (place / "lists/partial").mkdir(parents=True)
    (place / "status").touch()
    _apt(place, "apt-get", "update")
    found = _apt(place, "apt-cache", "search", "--names-only", f"^{pattern}$")
    _apt(place, "apt-get", "download", max(found.split("\n")).split()[0])
    (package,) = place.glob("*.deb")
    return package


def _apt(place: Path, *words: str) -> str:
    done = subprocess.run(
        words,
        cwd=place,
        env={**os.environ, "APT_CONFIG": str(place / "settings")},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"this needs Debian 12's packages:\n{done.stderr}")
    return done.stdout
