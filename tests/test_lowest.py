"""The lowest versions that pyproject.toml allows, with which lowest.py runs the tests."""

import re

from lowest import floors
from package import PROJECT

_DEBIAN = {"systemd-python": "systemd"}


def test_the_package_has_the_floors_of_the_project() -> None:
    control = (PROJECT / "debian/control").read_text()
    packaged = dict(re.findall(r"python3-(\S+) \(>= (\S+)\)", control))
    assert packaged == {_DEBIAN.get(each, each): floor for each, floor in floors().items()}
