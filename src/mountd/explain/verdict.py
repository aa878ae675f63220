"""What a user may at the end of a way, and what stops him first: the kernel's answers, told."""

import os
import stat
from collections.abc import Callable
from errno import EACCES, ELOOP, EPERM
from typing import Literal, Self

from mountd.core.model import Ids, Person
from mountd.core.mounts import ObservedMount
from mountd.core.named_tuple import NamedTuple
from mountd.explain import obstacle as words
from mountd.explain.obstacle import Obstacle, Place, Share, Wish
from mountd.explain.travel import departure
from mountd.kernel.cause import let_in
from mountd.kernel.route import Route, Step

Deed = Literal["reach", "read", "write", "execute", "create"]


class Verdict(NamedTuple):
    """The answer to each deed that makes sense there: True, False, or None where it isn't known.

    `execute` of a folder is to go through it. `obstacles` are the reasons of each False.
    """

    path: str
    steps: tuple[Step, ...]
    kind: Literal["folder", "file", "other"] | None
    deeds: dict[Deed, bool | None]
    obstacles: dict[Deed, Obstacle]

    def on_the_way(self) -> Self:
        """The same, of the way alone: what lies at its end is not what was asked about."""
        reach: dict[Deed, bool | None] = {"reach": self.deeds["reach"]}
        stop: dict[Deed, Obstacle] = {
            deed: each for deed, each in self.obstacles.items() if deed == "reach"
        }
        return self._replace(deeds=reach, obstacles=stop)


class Judge:
    """Tells why the kernel answered as it did. `of_mount`: a mount by its id, and its volume."""

    def __init__(
        self,
        person: Person | None,
        of_mount: Callable[[int], tuple[ObservedMount | None, Share | None]],
        *,
        is_root: bool,
    ) -> None:
        """`is_root`: we walked the way as root, and where that was refused as the person."""
        self._is_root = is_root
        self._person = person
        self._of_mount = of_mount

    def judge(self, route: Route) -> Verdict:
        """The verdict on a way that has been walked."""
        path = route.path
        is_there = not (route.missing or route.error)
        kind = _kind(route.end) if is_there else None
        stop = self._on_the_way(route)
        if stop and (stop.code != "missing" or not _is_folder(route.end)):
            is_known = stop.code != "not-visible"
            return Verdict(
                path, route.steps, kind, {"reach": False if is_known else None}, {"reach": stop}
            )
        deeds: dict[Deed, bool | None] = {"reach": None if route.end.may is None else True}
        obstacles: dict[Deed, Obstacle] = {}
        if stop:
            deeds["reach"], obstacles["reach"] = False, stop
        else:
            for wish in _wishes(route.end):
                deeds[wish], found = self._ask(wish, route.end)
                if found:
                    obstacles[wish] = found
        if _is_folder(route.end):
            deeds["create"], found = self._create(route.end)
            if found:
                obstacles["create"] = found
        return Verdict(path, route.steps, kind, deeds, obstacles)

    def _on_the_way(self, route: Route) -> Obstacle | None:
        for step in route.crossed:
            if _is_folder(step):
                _, found = self._ask("execute", step)
                if found:
                    return found
        if route.error:
            return self._failure(*route.error, is_asked=route.end.may is not None)
        if route.missing:
            end = route.end.path
            if not _is_folder(route.end):
                return words.not_a_folder(end)
            return words.missing(os.path.join(end, route.missing[0]))
        if route.said and self._person:
            links = [each.path for each in route.steps if each.leads_to is not None]
            if links:
                return words.link_refused(links, route.said, self._person)
            return words.obstacle("read", route.said, self._place(route.end), self._person, None)
        return None

    def _failure(self, path: str, errno: int, *, is_asked: bool) -> Obstacle:
        """What stopped the walk itself, by us and by the person."""
        if errno == ELOOP:
            return words.endless_link(path)
        if errno not in (EACCES, EPERM):
            return words.failing(path, errno)
        hint = let_in(path)
        is_shut = is_asked and self._is_root
        return words.shut(path, hint) if is_shut else words.not_visible(path, hint)

    def _ask(self, wish: Wish, step: Step) -> tuple[bool | None, Obstacle | None]:
        if step.may is None or self._person is None:
            return None, None
        errno = getattr(step.may, wish)
        if not errno:
            return True, None
        _, share = self._of_mount(step.found.mount)
        return False, words.obstacle(wish, errno, self._place(step), self._person, share)

    def _create(self, folder: Step) -> tuple[bool | None, Obstacle | None]:
        """Creating takes ids to be stored as, writing the folder, and going through it.

        In this order the kernel looks (may_create in fs/namei.c), a read-only mount before all.
        """
        if folder.may is None or self._person is None:
            return None, None
        place = self._place(folder)
        ids = departure(Ids(self._person.uid, self._person.gid), place.mount and place.mount.idmap)
        if not ids.is_whole and not words.is_read_only(place.mount):
            return False, words.cannot_create(place, self._person, ids)
        for wish in _CREATING:
            may, found = self._ask(wish, folder)
            if not may:
                return may, found
        return True, None

    def _place(self, step: Step) -> Place:
        found = step.found
        mount, _ = self._of_mount(found.mount)
        return Place(
            step.path, Ids(found.uid, found.gid), found.mode, step.has_acl, step.attribute, mount
        )


_CREATING: tuple[Wish, Wish] = ("write", "execute")


def _wishes(step: Step) -> tuple[Wish, ...]:
    is_program = stat.S_ISREG(step.found.mode) and step.found.mode & 0o111
    return ("read", "write", "execute") if _is_folder(step) or is_program else ("read", "write")


def _is_folder(step: Step) -> bool:
    return stat.S_ISDIR(step.found.mode)


def _kind(step: Step) -> Literal["folder", "file", "other"]:
    if _is_folder(step):
        return "folder"
    return "file" if stat.S_ISREG(step.found.mode) else "other"
