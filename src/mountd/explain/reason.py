"""Why a volume is as it is: the rule in words, and the lines of the manifest that say so."""

from mountd.core.actions import Action
from mountd.core.choice import ROOT, Rule
from mountd.core.desired import DesiredMount
from mountd.core.idmapping import Idmapping
from mountd.core.model import Refused, Volume
from mountd.core.named_tuple import NamedTuple
from mountd.core.words.commands import mountd
from mountd.explain.obstacle import Share
from mountd.explain.travel import arrival
from mountd.manifest.merge import MergedDocuments


class Line(NamedTuple):
    """A line of the manifest: its number, from 1, and its text."""

    file: str
    line: int
    text: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.text}"


class Reason(NamedTuple):
    """The rule, in words too, and the lines of the manifest by which it holds."""

    rule: Rule
    message: str
    lines: tuple[Line, ...]


class Lines:
    """Where the manifest says what about one volume: in its own table, or in the defaults."""

    def __init__(self, documents: MergedDocuments, volume: str) -> None:
        self._documents = documents
        self._volume = volume

    def of(self, *keys: str) -> tuple[Line, ...]:
        """The lines of those of these keys that are given."""
        own = self._documents.volumes.get(self._volume, {})
        paths = [
            ("volumes", self._volume, key) if key in own else ("defaults", key) for key in keys
        ]
        return tuple(Line(*each) for each in self._documents.lines(*paths))

    def of_table(self) -> tuple[Line, ...]:
        """The header of the volume's table."""
        return tuple(Line(*each) for each in self._documents.lines(("volumes", self._volume)))


def reason_for(mount: DesiredMount, lines: Lines) -> Reason:
    """Why the mount shall have the idmapping that it shall."""
    rule = mount.choice.rule
    keys, message = _RULES[rule]
    owner, user = mount.volume.owner or mount.seen, mount.user
    seen = "" if user is None else f"{user.uid}" + ("" if user.gid is None else f":{user.gid}")
    if rule == "swap" and mount.source_idmap and not mount.volume.owner:
        message += ", on top of the idmapping that the source's own mount has"
    message = message.format(owner=owner, user=seen, name=mount.volume.user)
    found = lines.of(*keys) or lines.of_table()
    if mount.refused:
        return Reason(rule, _raw(message, mount.refused), (*found, *lines.of("fallback")))
    return Reason(rule, message, found)


_RULES: dict[Rule, tuple[tuple[str, ...], str]] = {
    "extents": (("idmap",), "the manifest gives the extents"),
    "never": (("idmap",), "the volume asks for none, so ids stay as the source's mount has them"),
    "no-user": ((), "the volume has no `user`, so ids stay as the source's mount has them"),
    "is-user": (
        ("user", "owner"),
        "the owner, {owner}, is the user already, so ids stay as the source's mount has them",
    ),
    "may-read": (
        ("user", "read_only"),
        "it is read-only, and the mode of its root lets {user} read it, so ids stay as they are",
    ),
    "swap": (
        ("user", "owner", "idmap"),
        "the owner, {owner}, is to be seen as {user}: the two are exchanged, every other id stays",
    ),
}


def _raw(message: str, refused: Refused) -> str:
    return f"{message}; but ids are raw: {refused.fault.message}"


def share_of(action: Action, volume: Volume | None, idmap: Idmapping | None, lines: Lines) -> Share:
    """What of a volume may be the reason that something below its target is refused."""
    known = action.mount or action.old
    assert known, "its mount is there, or would be"
    said: dict[str, str] = {}
    inherited = set()
    for key in ("read_only", "noexec") if volume else ():
        wish = getattr(volume, key)
        if wish:
            said[key] = "; ".join(map(str, lines.of(key)))
        elif wish is None and action.mount and getattr(action.mount.flags, key):
            inherited.add(key)
    shown = arrival(known.owner, idmap).shown
    return Share(shown, _remedy(action), said, frozenset(inherited))


def _remedy(action: Action) -> str | None:
    """What would have the owner's files be the user's, where they are not."""
    mount = action.mount
    if any(each.field == "idmap" for each in action.drift):
        return f"{mountd('reconcile')} gives the mount the idmapping that the manifest means"
    if mount and mount.refused:
        return mount.refused.fault.hint
    if mount and mount.choice.rule in ("no-user", "never"):
        also = ", without `idmap`" if mount.choice.rule == "never" else ""
        if mount.owner.uid == ROOT:  # whose swap with another is refused, unless `owner` is said
            trusted = f'`owner = "{mount.owner}"`'
            also = f" and, where you trust that one with root's files, {trusted}{also}"
        return (
            f"say whom the owner is to be seen as, `user` in [volumes.{mount.volume.name}]{also},"
            f" then {mountd('reconcile')}"
        )
    return None
