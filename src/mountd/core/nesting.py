"""Which volumes come after which others, by where their targets lie, and what they depend on."""

from collections.abc import Iterable, Iterator, Mapping
from functools import cache

from mountd.core.targets import Places, normalised_path

Paths = tuple[str, ...]


def paths_in(options: Iterable[str]) -> Iterator[str]:
    """The absolute paths that are values in a filesystem's options, as overlay's folders are."""
    for option in options:
        for value in option.partition("=")[2].split(":"):
            if value.startswith("/"):
                yield normalised_path(value)


def account_files(accounts: str, user: str | None) -> Paths:
    """The files in which a volume's user is looked up; a uid with a gid is looked up nowhere."""
    if user is None or (":" in user and user.replace(":", "", 1).isdigit()):
        return ()
    root = accounts.rstrip("/")
    return f"{root}/etc/passwd", f"{root}/etc/group"


def needs(
    places: Mapping[str, tuple[Paths, str]], shown: Mapping[str, Paths] = {}
) -> dict[str, Paths]:
    """The volumes that each one comes after; `places` are sources and a target by volume.

    It needs those at or above whose target a source of it lies, and those above whose its own
    target lies; or another path at which that target is `shown`. Of two that show at one path the
    later needs the earlier. Paths are normalised, and compared as text.
    """
    volumes: dict[str, str] = {}
    for name, (_, target) in places.items():
        volumes.setdefault(target, name)
    same: dict[str, str] = {}
    for name, (_, target) in places.items():
        for path in shown.get(target, ()):
            other = volumes.setdefault(path, name)
            if other != name and same.get(name) != other:
                same.setdefault(other, name)

    targets = Places(volumes)

    @cache  # many volumes lie in few folders
    def over(folder: str) -> Paths:
        return tuple(volumes[each] for each in targets.from_(folder))

    found: dict[str, Paths] = {}
    for name, (sources, target) in places.items():
        others = over(target[: target.rfind("/")])
        for source in sources:
            others = over(source[: source.rfind("/")]) + others
            if source in volumes:
                others = (volumes[source], *others)
        if name in same:
            others = (same[name], *others)
        found[name] = (
            tuple(dict.fromkeys(each for each in others if each != name)) if others else ()
        )
    return found


def circles(needed: Mapping[str, tuple[str, ...]]) -> Iterator[tuple[str, ...]]:
    """Volumes of which each needs the next, and the last one the first.

    No volume is in two of these circles; where there is any circle, one at least is found.
    `needed` is as `needs` tells; a name that has no entry needs nothing.
    """
    done: set[str] = set()
    for start, others in needed.items():
        if not others:
            continue
        way = {start: iter(others)}  # no recursion: a chain may be as long as the manifest
        while way:
            last = next(reversed(way))
            after = next((each for each in way[last] if each not in done), None)
            if after is None:
                del way[last]
                done.add(last)
            elif after not in way:
                way[after] = iter(needed.get(after, ()))
            else:
                names = [*way]
                found = names[names.index(after) :]
                yield tuple(found)
                done.update(found)
                for each in found:
                    del way[each]
