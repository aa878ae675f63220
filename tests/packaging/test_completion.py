"""What Tab gives in a real bash, zsh and fish."""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from signal import SIGKILL

import pexpect
import pytest
from package import PROJECT
from world import MOUNTD, World, run

from mountd.arguments import COMMANDS

_SHARE = PROJECT / "share"
_BASH = "bind 'set page-completions off'; bind 'set show-all-if-ambiguous on'"
_SHELLS = {  # how each is started, and what makes it look where the files are
    "bash": (
        ["--norc", "--noprofile", "-i"],
        f"{_BASH}; . {_SHARE}/bash-completion/completions/mountd",
    ),
    "zsh": (
        ["-f", "-i"],
        f"fpath=({_SHARE}/zsh/site-functions $fpath); autoload -Uz compinit; compinit -u -D",
    ),
    "fish": (
        ["--no-config", "--interactive"],
        f"set -g fish_complete_path {_SHARE}/fish/vendor_completions.d",
    ),
}
# of pexpect, in a process of pytest-xdist: a shell is started right after the fork
pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")


@pytest.fixture(params=_SHELLS)
def shell(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@contextmanager
def _line_of(shell: str, home: str) -> Iterator["pexpect.spawn[str]"]:
    """A terminal of 200 columns at whose prompt a line can be typed."""
    arguments, setup = _SHELLS[shell]
    path = f"{Path(MOUNTD).parent}:{os.environ['PATH']}"  # fish knows only what is there
    terminal = pexpect.spawn(
        shell, arguments, env={"PATH": path, "HOME": home, "TERM": "xterm", "LC_ALL": "C.UTF-8"},
        cwd=home, encoding="utf-8", dimensions=(50, 200), timeout=120,
    )  # fmt: skip
    try:
        terminal.sendline(f"{setup}; echo rea''dy")
        terminal.expect("ready\r\n")
        yield terminal
    finally:
        terminal.kill(SIGKILL)
        terminal.wait()  # `close` gives it a tenth of a second to be gone
        terminal.close()


def _offered(world: World, shell: str, typed: str, *wanted: str) -> set[str]:
    """The words on the screen when Tab was pressed and the wanted ones are there."""
    with _line_of(shell, world.path) as terminal:
        terminal.send(f"{typed}\t")
        screen = ""
        while not {*wanted} <= {*_words(screen)}:
            screen += terminal.read_nonblocking(4096, timeout=120)
        terminal.send("\x15")  # the line is given up, so that no more comes of it
        terminal.sendline("echo do''ne")
        terminal.expect("done\r\n")
        return {*_words(f"{screen}{terminal.before}")}


def _words(screen: str) -> list[str]:
    """The words on a screen, of paths the last part."""
    text = re.sub(r"\x1b(\[[0-9;?]*[a-zA-Z]|[()>=].?|\][^\x07]*\x07)", " ", screen)
    return [each.rstrip("/").rpartition("/")[2] for each in text.split()]


def _write_manifest(world: World) -> None:
    world.write(
        '[defaults]\nuser = "node"\n[volumes.work]\nsource = "/srv/work"\n\n'
        ' [ volumes . "in-ner" ]\n[volumes.work2.idmap]\nvolumes.dotted.target = 1\n'
        "#[volumes.none]\n"
    )
    Path(f"{world.manifest}.d").mkdir()
    Path(f"{world.manifest}.d/more.toml").write_text("[volumes.more] # broken =\n=\n")


_NAMES = {"work", "work2", "in-ner", "dotted", "more"}


def test_commands_and_what_they_do(world: World, shell: str) -> None:
    found = _offered(world, shell, "mountd ", *COMMANDS)
    if shell != "bash":  # which shows words alone
        assert {word for what in COMMANDS.values() for word in what.split()} <= {
            word.strip("()") for word in found
        }


@pytest.mark.parametrize(
    ("typed", "wanted", "others"),
    [
        ("check --", ["--system", "--manifest", "--json"], ["--dry-run", "--all"]),
        ("reconcile --", ["--dry-run", "--detailed-exitcode", "--wait"], ["--system", "--all"]),
        ("unmount --", ["--all", "--state-dir"], ["--system", "--dry-run"]),
        ("--json --", ["--manifest", "--quiet", "--help"], ["--system", "--all"]),
    ],
)
def test_the_options_that_go_with_a_command(
    world: World, shell: str, typed: str, wanted: list[str], others: list[str]
) -> None:
    found = _offered(world, shell, f"mountd {typed}", *wanted)
    assert not found.intersection(others)


@pytest.mark.parametrize(
    "typed",
    ["unmount -f $ ", "unmount work --manifest $ ", "--manifest=$ unmount "],
)
def test_the_volumes_of_the_manifest_also_of_a_broken_one(
    world: World, shell: str, typed: str
) -> None:
    _write_manifest(world)
    found = _offered(world, shell, f"mountd {typed.replace('$', world.manifest)}", *_NAMES)
    assert "none" not in found


def test_the_volumes_of_the_search_path(world: World, shell: str) -> None:
    for folder in ("/etc", "/run"):
        run("mount", "-t", "tmpfs", "-o", "mode=755", "tmpfs", folder)
    Path("/etc/mountd.toml").write_text("[volumes.main]\n")
    for path in ("/etc/mountd.toml.d", "/run/mountd.toml.d", "/run/credentials/mountd.service"):
        Path(path).mkdir(parents=True)
    Path("/run/mountd.toml.d/10-drop.toml").write_text("[volumes.dropped]\n")
    Path("/run/credentials/mountd.service/mountd.toml").write_text("[volumes.handed]\n")
    _offered(world, shell, "mountd unmount ", "main", "dropped", "handed")


def test_without_a_manifest_it_says_nothing(world: World, shell: str) -> None:
    (world / "a").touch()
    found = _offered(world, shell, f"mountd unmount -f {world.path}/none ")
    assert not {word for word in found if word.startswith(("sed", "cat", "sh:")) or "No" in word}


@pytest.mark.parametrize(
    ("typed", "wanted", "others"),
    [
        ("-f $/place", ["place.toml", "place-a"], []),
        ("--state-dir $/place-", ["place-a", "place-b"], ["place.toml"]),
    ],
)
def test_files_for_a_manifest_and_folders_for_the_state(
    world: World, shell: str, typed: str, wanted: list[str], others: list[str]
) -> None:
    (world / "place.toml").touch()
    for name in ("place-a", "place-b"):
        (world / name).mkdir()
    found = _offered(world, shell, f"mountd check {typed.replace('$', world.path)}", *wanted)
    assert not found.intersection(others)
