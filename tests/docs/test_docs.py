"""What the documentation shows is what happens: its commands are run, its output compared."""

import os
import re
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest
from package import PROJECT
from pages import block, blocks, furnish, manifests, shell, typed
from world import World, mount_table, run

README = (PROJECT / "README.md").read_text()


@pytest.fixture
def guest(namespace: None) -> None:  # noqa: ARG001 - for its effect
    """A machine as the README has it: /etc, /run, /home and /srv are its own."""
    furnish()
    workspace = Path("/run/host/workspace")
    workspace.mkdir(parents=True)
    (workspace / "app.js").write_text("// hello you\n")
    os.utime(workspace / "app.js", (1732406400, 1732406400))
    for path in (workspace, workspace / "app.js"):
        os.chown(path, 501, 20)
    Path("/etc/mountd.toml").write_text(manifests(README)[0])


@pytest.mark.usefixtures("guest")
def test_each_command_in_the_readme_prints_what_it_shows() -> None:
    sessions = [each.text for each in blocks(README) if each.kind == "console"]
    assert len(sessions) >= 3
    for session in sessions:
        assert typed(session, shell) == session


def test_the_make_targets_in_the_readme_are_there() -> None:
    named = set(re.findall(r"make (demo|test|venv|bench|deb)\b", README))
    assert named == {"demo", "test", "venv", "bench", "deb"}
    for target in named:
        done = subprocess.run(["make", "-n", target], cwd=PROJECT, capture_output=True, check=False)
        assert done.returncode == 0, done.stderr


def test_the_example_is_a_manifest(world: World) -> None:
    example = PROJECT / "examples/mountd.toml"
    world.write(example.read_text())
    assert world.mountd("check").status == 0
    keys = set(re.findall(r"^\| (`.*?`) \|", README, re.MULTILINE))
    named = {key for cell in keys for key in re.findall(r"`(\w+)`", cell)}
    volumes = tomllib.loads(example.read_text())["volumes"].values()
    assert {key for volume in volumes for key in volume} <= named


def test_each_manifest_in_the_readme_is_one(world: World) -> None:
    assert len(manifests(README)) > 1
    for manifest in manifests(README):
        world.write(manifest)
        assert world.mountd("check").status == 0


def test_the_drop_in_in_the_readme_is_that_of_the_example() -> None:
    (shown,) = (each.text for each in blocks(README) if each.kind == "ini")
    example = (PROJECT / "examples/workload.conf").read_text().splitlines()
    assert shown.splitlines() == [line for line in example if line and not line.startswith("#")]


def test_each_link_leads_somewhere() -> None:
    for page in (*PROJECT.glob("*.md"), *PROJECT.glob("docs/*.md")):
        for path in re.findall(r"\]\((?!http)([^)#]+)\)", page.read_text()):
            assert (page.parent / path).exists(), f"{page.name}: {path}"


def test_the_guide_to_guests_names_what_is_there() -> None:
    for line in block("guests.md", "sh", "make deb").splitlines():
        program, argument, *_ = line.split()
        assert program == "make" or os.access(PROJECT / program, os.X_OK)
        if program == "make":
            subprocess.run(
                ["make", "-n", argument], cwd=PROJECT, stdout=subprocess.DEVNULL, check=True
            )


@pytest.mark.usefixtures("namespace")
def test_the_guide_to_guests_keeps_setuid_files_from_working_on_the_host() -> None:
    run("mount", "-t", "tmpfs", "tmpfs", "/srv")
    shared = Path("/srv/shared")
    shared.mkdir()
    shutil.copy("/usr/bin/id", shared / "setuid")
    (shared / "setuid").chmod(0o4755)
    as_user = ["setpriv", "--reuid=1000", "--regid=1000", "--clear-groups", "--"]
    assert run(*as_user, str(shared / "setuid"), "-u") == "0\n"
    run("sh", "-euc", block("guests.md", "sh", "nosuid"))
    assert run(*as_user, str(shared / "setuid"), "-u") == "1000\n"


@pytest.mark.usefixtures("namespace")
def test_the_demo_runs_and_leaves_nothing(tmp_path: Path) -> None:
    before = mount_table()
    done = subprocess.run(
        [PROJECT / "examples/demo"], cwd=tmp_path, capture_output=True, text=True, check=False,
        stdin=subprocess.DEVNULL,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout
    assert "gaps seen by the reader: 0" in done.stdout
    assert done.stdout.count("Permission denied") == 1
    assert "-rw-r--r-- 1 501 20  0" in done.stdout
    assert mount_table() <= before
