"""What the pages below docs/ show, to be run."""

import re

from package import PROJECT

_BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def block(page: str, kind: str, word: str = "") -> str:
    """The one block of a kind on a page that has this word in it."""
    text = (PROJECT / "docs" / page).read_text()
    (found,) = (each for of, each in _BLOCK.findall(text) if of == kind and word in each)
    assert isinstance(found, str)
    return found


def commands(shown: str) -> list[str]:
    """What is typed in a block of a terminal."""
    return [line[2:] for line in shown.splitlines() if line.startswith("$ ")]
