"""The pages of the documentation: what their blocks show is written, typed and compared."""

import os
import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from package import PROJECT
from world import MOUNTD, cover

_BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_MANIFEST = "/etc/mountd.toml"
_FILE = re.compile(r"# (/\S+)\n")

_TYPED = re.compile(r"(\w*)\$ (.+)")

Shell = Callable[[str, str], str]
"""Runs a line as this user's shell does, root's for none, and returns all that it prints."""


class Block(NamedTuple):
    """What lies between two fences, and the language that it is said to be in."""

    kind: str
    text: str


def blocks(text: str) -> list[Block]:
    """The blocks of a page or a section, in order."""
    return [Block(*each) for each in _BLOCK.findall(text)]


def manifests(text: str) -> list[str]:
    """Those of them that are manifests."""
    return [each.text for each in blocks(text) if each.kind == "toml"]


def block(page: str, kind: str, word: str = "") -> str:
    """The one block of a kind, on a page below docs/, that has this word in it."""
    text = (PROJECT / "docs" / page).read_text()
    (found,) = (each.text for each in blocks(text) if each.kind == kind and word in each.text)
    return found


def sections(page: str) -> dict[str, str]:
    """The sections of a page below docs/, by their headings, with what they say."""
    parts = re.split(r"^## (.+)\n", (PROJECT / "docs" / page).read_text(), flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def typed(session: str, shell: Shell) -> str:
    """A block of commands and their output as it is when they are run."""
    lines = filter(None, map(_TYPED.fullmatch, session.splitlines()))
    return "".join(f"{line[0]}\n{shell(line[1], line[2])}" for line in lines)


def play(text: str, root: Path, shell: Shell) -> None:
    """Do what a section says: write its files below `root`, and type its commands.

    A block's file is named by a comment in its first line; a manifest may go without.
    """
    for kind, content in blocks(text):
        named = _FILE.match(content)
        path = named[1] if named else _MANIFEST if kind == "toml" else None
        if kind == "console":
            assert typed(content, shell) == content
        elif path:
            file = root / path.lstrip("/")
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(content)


def furnish() -> None:
    """Give this mount namespace an /etc, /run, /home and /srv of its own, and the user node."""
    cover("/etc", "/run", "/home", "/srv")
    passwd = "root:x:0:0::/root:/bin/sh\nnode:x:1000:1000::/home/node:/bin/sh\n"
    Path("/etc/passwd").write_text(passwd)
    Path("/home/node").mkdir()
    os.chown("/home/node", 1000, 1000)


def shell(user: str, line: str) -> str:
    """Type a line on this machine: root in /srv, a user at home."""
    environment = {
        **os.environ,
        "PATH": f"{Path(MOUNTD).parent}:{os.environ['PATH']}",
        "LC_ALL": "C.UTF-8",
        "TZ": "UTC",
    }
    words = ["sh", "-c", line]
    home = "/srv"
    if user:
        home = environment["HOME"] = f"/home/{user}"
        ids = (f"--reuid={user}", f"--regid={user}", "--clear-groups", "--inh-caps=-all")
        words = ["setpriv", *ids, "--", *words]
    done = subprocess.run(
        words, cwd=home, text=True, check=False, env=environment,
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    return done.stdout
