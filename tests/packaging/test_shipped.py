"""What is shipped ready-made is what the source says now, and what the manual says is so."""

import re
import shlex
import subprocess
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from package import PROJECT
from shipped import MANUAL, keys, shipped
from world import MOUNTD, World, cover, run

from mountd import exits
from mountd.arguments import COMMANDS
from mountd.usage import make_parser

_SHARE = PROJECT / "share"
_README = (PROJECT / "README.md").read_text()
_SOURCES = {each.stem: each.read_text() for each in MANUAL.glob("*.rst")}


def _section(page: str, title: str) -> str:
    """A section of a page's source."""
    found = re.search(
        rf"^{title}\n=+\n(.*?)(?=^[^\n]+\n=+\n|\Z)", _SOURCES[page], re.MULTILINE | re.DOTALL
    )
    assert found, title
    return found[1]


def _entries(page: str, title: str) -> list[str]:
    """The terms that a section explains, in its order."""
    lines = re.findall(r"^``\S.*$", _section(page, title), re.MULTILINE)
    return [term for line in lines for term in re.findall(r"``(\S+?)``", line)]


def _blocks(page: str) -> Iterator[str]:
    """The literal blocks of a page."""
    for block in re.findall(r"::\n\n((?:   .*\n|\n)+)", _SOURCES[page]):
        yield re.sub("^   ", "", block, flags=re.MULTILINE).strip() + "\n"


def test_each_file_is_as_it_would_be_made_now(pytestconfig: pytest.Config) -> None:
    made = shipped()
    if pytestconfig.getoption("update_golden"):
        for path, text in made.items():
            (_SHARE / path).parent.mkdir(parents=True, exist_ok=True)
            (_SHARE / path).write_text(text)
    there = {str(each.relative_to(_SHARE)): each for each in _SHARE.rglob("*") if each.is_file()}
    assert there.keys() == made.keys()
    for path, text in made.items():
        assert there[path].read_text() == text, f"{path}: make it anew, by pytest --update-golden"


@pytest.mark.parametrize("page", [*_SOURCES])
def test_the_manuals_tools_have_nothing_to_say(page: str) -> None:
    (file,) = (_SHARE / "man").rglob(page)
    assert file.parent.name == f"man{page[-1]}"
    for tool in (["mandoc", "-T", "lint", "-W", "warning"], ["man", "--warnings", "--local-file"]):
        done = subprocess.run([*tool, file], capture_output=True, text=True, check=False)
        assert (done.returncode, done.stderr) == (0, "")
    assert f'"{page[:-2]} - ' in run("lexgrog", str(file)), "apropos(1) doesn't find it"
    shown = run("man", "--local-file", str(file))
    assert max(map(len, shown.splitlines())) <= 80


def test_each_command_option_and_exit_status_is_in_the_manual() -> None:
    assert _entries("mountd.1", "Commands") == [*COMMANDS]
    synopsis = re.findall(r"^\| \*\*mountd (\w+)", _section("mountd.1", "Synopsis"), re.MULTILINE)
    assert synopsis == [*COMMANDS]
    options = [each for each in make_parser()._actions if each.option_strings]  # noqa: SLF001
    terms = [
        ", ".join(f"{each} {option.metavar or ''}".strip() for each in option.option_strings)
        for option in options
    ]
    assert re.findall(r"^-.*$", _section("mountd.1", "Options"), re.MULTILINE) == terms
    statuses = {value for name, value in vars(exits).items() if name.isupper()}
    statuses.remove(exits.INTERRUPTED)  # a shell's own for SIGINT
    told = _entries("mountd.1", "Exit status")
    assert told == [str(each) for each in sorted(statuses)]
    assert told == re.findall(r"^\| (\d+) \|", _README, re.MULTILINE)


def test_the_environment_and_files_in_the_manual_are_those_that_are_looked_at() -> None:
    source = "".join(each.read_text() for each in (PROJECT / "src").rglob("*.py"))
    read = set(re.findall(r'environ\.get\(\s*"(\w+)"', source)) - {"WATCHDOG_PID"}
    assert {*_entries("mountd.1", "Environment")} == read
    for path in _entries("mountd.1", "Files")[1:]:
        shipped_as = path.removeprefix("/usr/share/")
        is_there = (_SHARE / shipped_as).is_file() if shipped_as != path else None
        assert is_there or path.rpartition("/")[2] in source, path


def test_the_keys_in_the_readme_are_those_of_the_schema() -> None:
    rows = re.findall(r"^\| `(\w+)` \| (.*) \| (.*) \|$", _README, re.MULTILINE)
    told = {name: (line, default) for name, line, default in rows}
    assert [*told.items()] == [
        (name, (key.line[0].lower() + key.line[1:], key.default)) for name, key in keys().items()
    ]


def test_the_journals_fields_in_the_manual_are_those_that_are_sent() -> None:
    sent = set(
        re.findall(r'"(MOUNTD_\w+)"', (PROJECT / "src/mountd/report/journal.py").read_text())
    )
    assert {each.rstrip("=") for each in _entries("mountd.service.8", "Journal")} == sent


def test_the_manifests_in_the_manual_are_some(world: World) -> None:
    blocks = [*_blocks("mountd.toml.5")]
    assert len(blocks) == 4
    for block in blocks:
        tomllib.loads(block)
    drop_in = Path(f"{world.manifest}.d/drop-in.toml")
    drop_in.parent.mkdir()
    drop_in.write_text(blocks[1])
    world.write(blocks[3])
    result = world.mountd("check", "--json")
    assert result.status == 0
    assert [each["name"] for each in result.document["volumes"]] == [
        "workspace",
        "dataset",
        "legacy",
    ]
    assert blocks[2] == (PROJECT / "examples/mountd.toml").read_text().splitlines(True)[0]


def test_the_drop_in_in_the_manual_is_that_of_the_example() -> None:
    (shown,) = (each for each in _blocks("mountd.service.8") if each.startswith("[Unit]"))
    example = (PROJECT / "examples/workload.conf").read_text().splitlines()
    assert shown.splitlines() == [each for each in example if each and not each.startswith("#")]


def test_the_examples_in_the_manual_do_what_they_say(world: World) -> None:
    cover("/etc", "/run", "/home")
    Path("/etc/passwd").write_text("root:x:0:0::/root:/bin/sh\nnode:x:1000:1000::/:/bin/sh\n")
    Path("/home/node").mkdir()
    Path("/run/host").mkdir()
    world.folder("source").rename("/mnt/workspace")
    run("mount", "--bind", "/mnt", "/run/host")
    manifest = next(_blocks("mountd.toml.5"))
    Path("/etc/mountd.toml").write_text(manifest)
    world.write(manifest.replace("/home/node/workspace", "/home/node/trial"))
    lines = [line for block in _blocks("mountd.1") for line in block.splitlines()]
    assert len(lines) > 6
    for line in lines:
        program, *words = shlex.split(line)
        assert program == "mountd"
        done = subprocess.run(
            [MOUNTD, *words], cwd=world.path, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, f"{line}: {done.stderr}"
