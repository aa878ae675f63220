"""The Debian package and the wheel: what is in them, and what they do to a running machine."""

import gzip
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from container import Container, Machines
from package import PROJECT, VERSION, Package, package
from world import mount_id, owner, run

from mountd.report.journal import MESSAGE_IDS

_LATER = f"{VERSION}+later"
_DATA = {  # of the wheel too, below its prefix
    "lib/systemd/catalog/mountd.catalog": "units/mountd.catalog",
    "lib/systemd/system-preset/80-mountd.preset": "units/mountd.preset",
    "lib/systemd/system/mountd.service": "units/mountd.service",
    "share/doc/mountd/README.md": "README.md",
    "share/doc/mountd/examples/mountd.toml": "examples/mountd.toml",
    "share/doc/mountd/examples/workload.conf": "examples/workload.conf",
    **{
        f"share/{each}": f"share/{each}"
        for each in (
            "bash-completion/completions/mountd",
            "fish/vendor_completions.d/mountd.fish",
            "man/man1/mountd.1",
            "man/man5/mountd.toml.5",
            "man/man8/mountd.service.8",
            "mountd/document.schema.json",
            "mountd/mountd.schema.json",
            "zsh/site-functions/_mountd",
        )
    },
}
_MANIFEST = """
[volumes.work]
source = "/srv/work"
target = "/opt/my work"
user = "node"

[volumes.inner]
source = "/srv/inner"
target = "/opt/my work/inner"
user = "node"

[volumes.disk]
type = "tmpfs"
source = "disk"
target = "/opt/disk"
"""
_TARGETS = ("/opt/my work", "/opt/my work/inner", "/opt/disk")


@pytest.fixture(scope="module")
def built() -> Package:
    return package()


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory, built: Package) -> Iterator[Container]:
    """A machine that has the package and a later one as files, and nothing of it installed."""
    with Machines(tmp_path_factory.mktemp("machines")).booted() as machine:
        machine.run("dpkg", "--purge", "mountd")
        for name in ("work", "inner"):
            machine.folder(f"/srv/{name}")
        (machine / "/srv/work/inner").mkdir()
        shutil.copy(built.deb, machine / "/root/first.deb")
        shutil.copy(package(_LATER).deb, machine / "/root/later.deb")
        yield machine


@pytest.fixture
def installed(machine: Container) -> Iterator[Container]:
    """The same with the package installed and its volumes mounted."""
    machine.write("/etc/mountd.toml", _MANIFEST)
    machine.run("dpkg", "--install", "/root/first.deb")
    assert machine.show("mountd", "StatusText") == "3 volumes mounted"
    yield machine
    machine.run("dpkg", "--install", "/root/first.deb")  # which it may not be any more
    machine.run("systemctl", "stop", "mountd")
    machine.run("mountd", "unmount", "--all")
    machine.run("dpkg", "--purge", "mountd")
    (machine / "/etc/mountd.toml").unlink()


def _in_debian(path: str) -> str:
    """Where the Debian package has one of these."""
    if path.startswith("share/man/"):
        path += ".gz"
    return f"/usr/{path.replace('/site-functions/', '/vendor-completions/')}"


def _mounted(machine: Container) -> list[int]:
    return [mount_id(machine / each) for each in _TARGETS]


def _ours(machine: Container) -> list[str]:
    """Where mountd has mounted something, the lowest first."""
    points = [each.point.replace("\\040", " ") for each in machine.mounts()]
    return [each for each in points if each.startswith(("/opt/", "/run/mountd/"))]


def _named_after_it(machine: Container) -> list[str]:
    """Every file whose name has mountd in it, but the packages that lie ready."""
    return machine.run("find", "/", "/run", "-xdev", "-name", "*mountd*").splitlines()


# what is in them


def test_it_has_these_files_and_no_others(built: Package) -> None:
    lines = run("dpkg-deb", "--contents", str(built.deb)).splitlines()
    files = {line.split()[5][1:]: line.split()[0] for line in lines if line[0] != "d"}
    modules = "/usr/lib/python3/dist-packages/mountd"
    ours = [path for path in files if not path.startswith((f"{modules}/", f"{modules}-"))]
    assert sorted(ours) == sorted(
        [
            "/usr/bin/mountd",
            *map(_in_debian, _DATA),
            *(f"/usr/share/doc/mountd/{each}" for each in ("changelog.gz", "copyright")),
            "/usr/share/doc/mountd/changelog.Debian.gz",
            "/usr/share/lintian/overrides/mountd",
        ]
    )
    source = PROJECT / "src/mountd"
    assert {path for path in files if path.startswith(f"{modules}/")} == {
        f"{modules}/{each.relative_to(source)}"
        for each in source.rglob("*")
        if each.suffix != ".pyc" and each.is_file()
    }
    assert {path for path, mode in files.items() if "x" in mode} == {"/usr/bin/mountd"}


def test_its_dependencies_have_their_versions(built: Package) -> None:
    depends = run("dpkg-deb", "--field", str(built.deb), "Depends").strip().split(", ")
    assert sorted(depends) == [
        "python3-pydantic (>= 2.10)",
        "python3-systemd (>= 235)",
        "python3-tomli (>= 2.2)",
        "python3-watchfiles (>= 0.24)",
        "python3:any (>= 3.11~)",
    ]


def test_lintian_finds_nothing_but_what_is_explained(built: Package) -> None:
    overrides = (PROJECT / "debian/mountd.lintian-overrides").read_text()
    tags = re.findall(r"^# .+\nmountd: (\S+)", overrides, re.MULTILINE)
    assert len(tags) == len([line for line in overrides.splitlines() if line[0] != "#"])
    found = re.findall(r"^(\w): \S+: (\S+)", built.lintian, re.MULTILINE)
    assert found == [("O", tag) for tag in tags]


def test_one_version_holds_everywhere(built: Package) -> None:
    first = (PROJECT / "debian/changelog").read_text().splitlines()[0]
    assert first.startswith(f"mountd ({VERSION}-")
    assert run("dpkg-deb", "--field", str(built.deb), "Version").startswith(f"{VERSION}-")
    assert built.wheel.name == f"mountd-{VERSION}-py3-none-any.whl"


def test_the_wheel_has_the_same_files_below_its_prefix(built: Package, tmp_path: Path) -> None:
    deb, prefix = tmp_path / "deb", tmp_path / "prefix"
    run("dpkg-deb", "--extract", str(built.deb), str(deb))
    run(sys.executable, "-m", "venv", "--without-pip", str(prefix))
    before = {*prefix.rglob("*")}
    # in an environment of its own, from which no other can be reached
    inside = ["--python", str(prefix / "bin/python"), "install", "--quiet", "--no-deps"]
    run(sys.executable, "-m", "pip", *inside, "--no-index", "--no-compile", str(built.wheel))
    new = [each for each in {*prefix.rglob("*")} - before if each.is_file()]
    paths = {str(each.relative_to(prefix)) for each in new}
    assert {each for each in paths if "/site-packages/" not in each} == {"bin/mountd", *_DATA}
    for path, origin in _DATA.items():
        text = (PROJECT / origin).read_bytes()
        packed = (deb / _in_debian(path)[1:]).read_bytes()
        assert (gzip.decompress(packed) if path.startswith("share/man/") else packed) == text
        assert (prefix / path).read_bytes() == text


def test_one_command_builds_it(built: Package, tmp_path: Path) -> None:
    made = ["make", "--silent", "deb", f"DIST={tmp_path}", f"PYTHON={sys.executable}"]
    subprocess.run(made, cwd=PROJECT, check=True, stdout=subprocess.DEVNULL)
    names = {built.deb.name: built.deb, built.wheel.name: built.wheel}
    assert {each.name: each.read_bytes() for each in tmp_path.iterdir()} == {
        name: path.read_bytes() for name, path in names.items()
    }


# on a machine


def test_it_is_installed_running_enabled_and_compiled(machine: Container) -> None:
    machine.run("dpkg", "--install", "/root/first.deb")
    assert machine.run("mountd", "--version") == f"mountd {VERSION}\n"
    assert machine.show("mountd", "ActiveState") == "active"
    assert machine.show("mountd", "UnitFileState") == "enabled"
    assert machine.show("mountd", "StatusText").startswith("waiting for a manifest")
    assert MESSAGE_IDS["mounted"] in machine.run("journalctl", "--list-catalog")
    modules = machine / "/usr/lib/python3/dist-packages/mountd"
    compiled = {each.parent.parent / each.name.split(".")[0] for each in modules.rglob("*.pyc")}
    assert compiled == {each.with_suffix("") for each in modules.rglob("*.py")}
    paths = machine.run("dpkg", "--listfiles", "mountd").splitlines()
    assert not [each for each in paths if each.startswith(("/etc", "/usr/sbin", "/sbin"))]


def test_its_schema_is_that_of_debians_libraries_too(machine: Container) -> None:
    machine.run("dpkg", "--install", "/root/first.deb")
    shipped = (machine / "/usr/share/mountd/mountd.schema.json").read_text()
    assert machine.run("mountd", "schema") == shipped


def test_the_commands_in_the_units_manual_do_what_they_say(installed: Container) -> None:
    source = (PROJECT / "docs/man/mountd.service.8.rst").read_text()
    commands = re.findall(r"^   ((?:systemctl|journalctl) .*)$", source, re.MULTILINE)
    assert len(commands) == 4
    for each in commands:
        installed.run(*shlex.split(each))


def test_where_presets_disable_the_rest_its_own_enables_it(installed: Container) -> None:
    preset = "/etc/systemd/system-preset/99-none.preset"
    installed.write(preset, "disable *\n")
    for words, state in ((["disable"], "disabled"), (["preset"], "enabled")):
        installed.run("systemctl", *words, "mountd")
        assert installed.show("mountd", "UnitFileState") == state
    (installed / preset).unlink()


def test_an_upgrade_restarts_the_service_and_moves_no_mount(installed: Container) -> None:
    before, first = _mounted(installed), installed.show("mountd", "MainPID")
    installed.run("dpkg", "--install", "/root/later.deb")
    assert installed.run("mountd", "--version") == f"mountd {_LATER}\n"
    assert installed.show("mountd", "MainPID") != first
    assert installed.show("mountd", "ActiveState") == "active"
    assert installed.show("mountd", "StatusText") == "3 volumes mounted"
    assert _mounted(installed) == before


def test_an_upgrade_leaves_a_service_that_was_disabled_so(installed: Container) -> None:
    installed.run("systemctl", "disable", "mountd")
    installed.run("dpkg", "--install", "/root/later.deb")
    assert installed.show("mountd", "UnitFileState") == "disabled"
    installed.run("systemctl", "enable", "mountd")


def test_removing_it_leaves_the_mounts_and_says_how_to_take_them_off(installed: Container) -> None:
    before = _mounted(installed)
    said = installed.run("dpkg", "--remove", "mountd")
    assert _mounted(installed) == before
    assert owner(installed / "/opt/my work/inner/hello") == (1000, 1000)
    assert installed.call("systemctl", "status", "mountd").status == 4, "it runs still"
    assert "`mountd unmount --all`" in said
    commands = re.findall(r"^  (umount .*)$", said, re.MULTILINE)
    assert [shlex.split(each)[1] for each in commands[:3]] == [*sorted(_TARGETS)[::-1]]
    for each in commands:
        installed.run(*shlex.split(each))
    assert not _ours(installed)


def test_installed_again_it_knows_the_mounts_that_it_left(installed: Container) -> None:
    before = _mounted(installed)
    for words in (["--remove", "mountd"], ["--install", "/root/first.deb"]):
        installed.run("dpkg", *words)
    assert installed.show("mountd", "StatusText") == "3 volumes mounted"
    assert _mounted(installed) == before


def test_removing_it_says_nothing_where_nothing_is_mounted(installed: Container) -> None:
    installed.run("systemctl", "stop", "mountd")
    for each in _ours(installed)[::-1]:
        installed.run("umount", each)  # by hand: the record still has it
    assert "umount" not in installed.run("dpkg", "--remove", "mountd")


def test_purged_it_leaves_nothing_but_what_is_the_admins(installed: Container) -> None:
    installed.run("systemctl", "stop", "mountd")
    installed.run("mountd", "unmount", "--all")
    assert len(_named_after_it(installed)) > 10
    installed.run("dpkg", "--purge", "mountd")
    assert _named_after_it(installed) == ["/etc/mountd.toml"]
    assert MESSAGE_IDS["mounted"] not in installed.run("journalctl", "--list-catalog")


def test_purged_it_leaves_the_mounts_too(installed: Container) -> None:
    before = _mounted(installed)
    installed.run("dpkg", "--purge", "mountd")
    assert _mounted(installed) == before
