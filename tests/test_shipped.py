"""What is shipped ready-made is what would be made of the source now."""

import pytest
from shipped import PROJECT, shipped

SHARE = PROJECT / "share"
PAGES = sorted(each for each in (SHARE / "man").rglob("*.?"))


def test_each_file_is_as_it_would_be_made_now(pytestconfig: pytest.Config) -> None:
    made = shipped()
    if pytestconfig.getoption("update_golden"):
        for path, text in made.items():
            (SHARE / path).parent.mkdir(parents=True, exist_ok=True)
            (SHARE / path).write_text(text)
    there = {str(each.relative_to(SHARE)): each for each in SHARE.rglob("*") if each.is_file()}
    assert there.keys() == made.keys()
    for path, text in made.items():
        assert there[path].read_text() == text, f"{path}: make it anew, by pytest --update-golden"
