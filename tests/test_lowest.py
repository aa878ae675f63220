"""The lowest versions that pyproject.toml allows, Debian 13's, pass the tests too.

All other tests have the newest ones, in `.venv`; here those that depend on the libraries are run on
a machine with the package, by its own pytest.
"""

import re
import shutil
import tomllib
from collections.abc import Iterator

import pytest
from container import Container, Machines
from package import PROJECT

_NEEDED = ("e2fsprogs", "python3-hypothesis", "python3-pytest", "strace")
_TESTS = {
    "test_bad_input.py": "wrong_manifest",  # tomli, pydantic
    "test_journal.py": "",  # systemd-python
    "test_positions.py": "",  # tomli
    "test_watch_edits.py": "applied or swapped or followed",  # watchfiles
}
_DEBIAN = {"systemd-python": "systemd"}


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Container]:
    """A machine with the package and the tests."""
    machines = Machines(tmp_path_factory.mktemp("machines"), *_NEEDED)
    with machines.booted() as machine:
        machine.run("mount", "-o", "remount,rw", "/proc/sys")  # for test_watch_edits.py
        (machine / "/srv/mountd").mkdir()
        shutil.copytree(PROJECT / "tests", machine / "/srv/mountd/tests")
        shutil.copy(PROJECT / "pyproject.toml", machine / "/srv/mountd")
        yield machine


def _floors() -> dict[str, str]:
    """The lowest version of each library, by its name on PyPI."""
    project = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]
    return dict(each.split(" >= ") for each in project["dependencies"])


def test_the_package_has_the_floors_of_the_project() -> None:
    control = (PROJECT / "debian/control").read_text()
    packaged = dict(re.findall(r"python3-(\S+) \(>= (\S+)\)", control))
    assert packaged == {_DEBIAN.get(each, each): floor for each, floor in _floors().items()}


def test_the_machine_has_the_lowest_versions(machine: Container) -> None:
    for name, floor in _floors().items():
        found = machine.run(
            "python3", "-c", f"from importlib.metadata import version; print(version('{name}'))"
        )
        assert f"{found.strip()}.".startswith(f"{floor}.")


@pytest.mark.parametrize("file", _TESTS)
def test_they_pass(file: str, machine: Container) -> None:
    words = ["python3", "-m", "pytest", "-q", f"tests/{file}", "-k", _TESTS[file]]
    done = machine.call("env", "--chdir=/srv/mountd", *words, seconds=600)
    assert done.status == 0, done.out + done.err
