"""Which known word is meant by one that isn't known, if it is near enough to be a slip."""

from collections.abc import Iterable

_LONGEST = 100


def nearest(word: str, known: Iterable[str]) -> str | None:
    """The known word that is a slip away, one for each four letters; or that goes on from it.

    What is farther away is another word (`mode` isn't `nodev`), and no hint is better than a wrong.
    """
    asked = _plain(word[:_LONGEST])
    best, slips = None, _LONGEST
    for each in known:
        plain = _plain(each)
        most = max(1, max(len(asked), len(plain)) // 4)
        if abs(len(asked) - len(plain)) <= most:
            found = _slips(asked, plain)
            if found <= most and found < slips:
                best, slips = each, found
    goes_on = (each for each in known if asked and _plain(each).startswith(f"{asked}_"))
    return best or next(goes_on, None)


def _plain(word: str) -> str:
    return word.lower().replace("-", "_")


def _slips(one: str, other: str) -> int:
    """How many letters are missing, too many, wrong, or exchanged with the next."""
    before: list[int] = []
    above: list[int] = [*range(len(other) + 1)]
    for i, letter in enumerate(one, 1):
        row = [i]
        for j, its in enumerate(other, 1):
            least = min(above[j] + 1, row[-1] + 1, above[j - 1] + (letter != its))
            if before and (letter, its) == (other[j - 2 : j - 1], one[i - 2]):
                least = min(least, before[j - 2] + 1)
            row.append(least)
        before, above = above, row
    return above[-1]
