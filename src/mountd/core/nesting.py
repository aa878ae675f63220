"""Which volumes come after which others, by where their sources and targets lie."""

from collections.abc import Iterator, Mapping
from functools import cache

from mountd.core.targets import Places


def needs(places: Mapping[str, tuple[str | None, str]]) -> dict[str, tuple[str, ...]]:
    """The volumes that each one comes after; `places` is a source and a target by volume.

    It needs those at or above whose target its source lies, and those above whose its own lies.
    Paths are normalised, and compared as text; the source of a `type` volume is None.
    """
    volumes: dict[str, str] = {}
    for name, (_, target) in places.items():
        volumes.setdefault(target, name)

    targets = Places(volumes)

    @cache  # many volumes lie in few folders
    def over(folder: str) -> tuple[str, ...]:
        return tuple(volumes[each] for each in targets.from_(folder))

    found: dict[str, tuple[str, ...]] = {}
    for name, (source, target) in places.items():
        others = over(target[: target.rfind("/")])
        if source is not None:
            others = over(source[: source.rfind("/")]) + others
            if source in volumes:
                others = (volumes[source], *others)
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
