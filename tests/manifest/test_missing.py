"""What is missing unmounts nothing; what is there and can't be read is not missing."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from search_path import ETC, RUN, SERVICE, USR, Machine, volume
from watcher import eventually, watch
from world import Result, World


@pytest.fixture
def place(world: World) -> World:
    """A world with a source and a manifest of one volume, which is mounted."""
    world.folder("source")
    world.write(volume("a"))
    world.reconcile()
    return world


@pytest.fixture
def machine(world: World) -> Machine:
    machine = Machine(world)
    machine.folder("source")
    return machine


def _is_there(world: World, name: str = "a") -> bool:
    return (world / name / "hello").exists()


def _refused(result: Result, message: str, hint: str) -> None:
    assert result.status == 78
    assert f": error: {message}" in result.err
    assert f"hint: {hint}" in result.err


def test_a_file_of_zero_bytes_counts_as_missing_and_unmounts_nothing(place: World) -> None:
    Path(place.manifest).write_text("")
    for command in ("reconcile", "check", "status"):
        result = place.mountd(command)
        _refused(result, "it is empty, as a full disk or a crash leaves a file", "write it anew")
        assert "`version = 1` alone is a manifest without volumes" in result.err
    assert _is_there(place)


@pytest.mark.parametrize("text", ["version = 1\n", "# none\n", "\n", "-> /dev/null"])
def test_a_file_that_says_nothing_of_volumes_is_a_manifest_without(world: World, text: str) -> None:
    machine = Machine(world)
    machine.folder("source")
    machine.put({ETC: volume("a")})
    machine.command("reconcile")
    assert _is_there(machine)
    machine.put({ETC: text})
    assert machine.command("reconcile").status == 0
    assert not _is_there(machine)


def test_neither_another_place_nor_a_drop_in_stands_in_for_an_empty_main_file(
    machine: Machine,
) -> None:
    machine.put({ETC: volume("a"), USR: volume("b"), f"{RUN}.d/c.toml": volume("c")})
    machine.command("reconcile")
    machine.put({ETC: ""})
    result = machine.command("reconcile")
    _refused(result, "it is empty", "write it anew")
    assert result.err.startswith(f"{ETC}: ")
    assert _is_there(machine, "a")
    assert _is_there(machine, "c")


def test_an_empty_drop_in_hides_and_is_no_error(machine: Machine) -> None:
    machine.put({ETC: volume("a"), f"{USR}.d/x.toml": volume("b"), f"{RUN}.d/x.toml": ""})
    assert machine.command("reconcile").status == 0
    assert _is_there(machine, "a")
    assert not _is_there(machine, "b")


def _link_to_nothing(path: Path) -> None:
    path.symlink_to("gone")


def _link_through_a_file(path: Path) -> None:
    (path.parent / "file").write_text("")
    path.symlink_to("file/x")


def _link_to_itself(path: Path) -> None:
    path.symlink_to(path.name)


_UNREACHABLE: dict[str, tuple[Callable[[Path], object], str, str]] = {
    "a link to nothing": (
        _link_to_nothing,
        "it is a link, and there is no {folder}/gone",
        "make {folder}/gone anew, have the link lead to a file, or remove the link",
    ),
    "a link through a file": (
        _link_through_a_file,
        "it can't be read: Not a directory",
        "its link leads through what is no folder: fix that, or remove the link",
    ),
    "a link to itself": (
        _link_to_itself,
        "it can't be read: Too many levels of symbolic links",
        "its links lead in a circle: put the file itself there, or remove the link",
    ),
    "a folder": (os.mkdir, "it is a folder, not a file", "put a TOML file there, or take it away"),
    "a FIFO": (os.mkfifo, "it is a FIFO, not a file", "put a TOML file there, or take it away"),
}


@pytest.mark.parametrize("kind", _UNREACHABLE)
def test_a_drop_in_that_can_not_be_reached_makes_the_manifest_wrong(
    place: World, kind: str
) -> None:
    make, message, hint = _UNREACHABLE[kind]
    folder = Path(f"{place.manifest}.d")
    folder.mkdir()
    make(folder / "x.toml")
    for command in ("reconcile", "check"):
        result = place.mountd(command)
        _refused(result, message.format(folder=folder), hint.format(folder=folder))
        assert result.err.startswith(f"{folder}/x.toml: error: ")
    assert _is_there(place)
    with watch(place, is_ready=False) as watcher:
        assert watcher.process.wait() == 78
        assert "waiting" not in watcher.log
        assert "READY=1" not in watcher.hear()


def test_the_hint_for_a_drop_in_that_leads_nowhere_holds_while_watch_runs(place: World) -> None:
    folder = Path(f"{place.manifest}.d")
    folder.mkdir()
    with watch(place) as watcher:
        (folder / "x.toml").symlink_to(place / "gone")
        eventually(lambda: f"{folder}/x.toml: error: it is a link" in watcher.log)
        eventually(lambda: f"hint: make {place / 'gone'} anew" in watcher.log)
        assert _is_there(place)
        Path(place / "gone").write_text(volume("b").replace("$", place.path))
        eventually(lambda: _is_there(place, "b"))
        assert _is_there(place)


def test_a_main_file_that_is_a_link_to_nothing_is_waited_for(place: World) -> None:
    os.rename(place.manifest, place / "kept")
    Path(place.manifest).symlink_to(place / "gone")
    _refused(place.mountd("reconcile"), "it is a link, and there is no", f"make {place / 'gone'}")
    with watch(place) as watcher:
        assert watcher.status.startswith(f"waiting for a manifest: {place.manifest}: it is a link")
        os.rename(place / "kept", place / "gone")
        eventually(lambda: watcher.status == "1 volume mounted")
        Path(place / "gone").write_text("")
        eventually(lambda: "(the last good manifest is in force)" in watcher.status)
        watcher.reload()
        assert _is_there(place)
        hint = "to take its volumes off, put a file with `version = 1` alone in its place"
        watcher.tells(f"hint: {hint}", 1)
        Path(place.manifest).unlink()
        Path(place.manifest).write_text("version = 1\n")
        eventually(lambda: not _is_there(place))


def test_a_credential_that_leads_nowhere_unmounts_nothing_and_is_told(machine: Machine) -> None:
    machine.put({ETC: volume("a"), f"{SERVICE}/mountd.b.toml": volume("b")})
    machine.command("reconcile")
    machine.put({ETC: volume("c"), f"{SERVICE}/mountd.b.toml": "-> gone"})
    result = machine.command("reconcile")
    assert "warning: the credential " in result.err
    assert "so nothing is unmounted in this pass" in result.err
    assert all(_is_there(machine, name) for name in "abc")
