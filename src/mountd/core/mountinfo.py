"""Text of /proc/PID/mountinfo (proc(5)) → observed mounts, as statmount(2) would tell them.

A space alone parts the words: names may hold any other white space, and a source may be empty.
"""

from collections.abc import Iterator

from mountd.core.model import Atime, Flags
from mountd.core.mounts import ObservedMount, bounded
from mountd.core.named_tuple import NamedTuple


class Line(NamedTuple):
    """A mount, and its propagation as tags like `shared:7` and `master:3`."""

    mount: ObservedMount
    tags: frozenset[str]


def parse_mountinfo(text: str) -> Iterator[Line]:
    """The mounts in the kernel's order, in which children may come before their parents.

    Their ids are used again. Which idmapping a mount has is not told, only whether it has one.
    """
    for line in text.split("\n"):
        if line:
            yield _parse(line)


def parse_mount(text: str, mount_id: int) -> ObservedMount | None:
    """The mount with this id, without parsing the others."""
    start = f"\n{text}".find(f"\n{mount_id} ")
    return _parse(text[start : text.index("\n", start)]).mount if start >= 0 else None


def parse_children(text: str, mount_id: int) -> Iterator[ObservedMount]:
    """The mounts that lie right on this one, without parsing the others."""
    word = f" {mount_id} "
    at = text.find(word)
    while at >= 0:
        start = text.rfind("\n", 0, at) + 1
        if text[start:at].isdigit():  # so it is the second word
            yield _parse(text[start : text.index("\n", at)]).mount
        at = text.find(word, at + 1)


def parse_user(text: str, mount_id: int, *, alone: bool = False) -> int | None:
    """Whose the server of this mount is, None where the machine itself mounted it.

    `alone`: None too where it lets anyone else in, be it root.
    FUSE alone tells a `user_id`, which fusermount(1) sets; virtiofs doesn't. Raises LookupError
    where the mount isn't there.
    """
    start = f"\n{text}".find(f"\n{mount_id} ")
    if start < 0:
        raise LookupError(mount_id)
    words = text[start : text.index("\n", start)].split(" ")
    fs_type, _, options = words[words.index("-", 6) + 1 :][:3]
    if fs_type.partition(".")[0] not in ("fuse", "fuseblk"):
        return None
    words = options.split(",")
    if alone and "allow_other" in words:
        return None
    users = [int(each[8:]) for each in words if each.startswith("user_id=")]
    return next((user for user in users if user), None)


def layers_of_overlays(text: str) -> Iterator[tuple[int, list[str]]]:
    """The device of each overlay, and the absolute paths of its layers, as it was given them."""
    for line in text.split("\n"):
        head, _, tail = line.partition(" - overlay ")
        if tail:
            major, _, minor = head.split(" ")[2].partition(":")
            layers = []
            for option in tail.rpartition(" ")[2].split(","):
                key, _, value = option.partition("=")
                if key.removesuffix("+") in _LAYERS:
                    layers += [each for each in unescape(value).split(":") if each[:1] == "/"]
            yield _device_number(int(major), int(minor)), layers


def options_of(text: str, device: int) -> frozenset[str]:
    """The options that are in force on the superblock with this device number."""
    for line in text.split("\n"):
        words = line.split(" ")
        major, _, minor = words[2].partition(":") if len(words) > 2 else ("", "", "")
        if major and _device_number(int(major), int(minor)) == device:
            return frozenset(map(unescape, words[-1].split(",")))
    return frozenset()


_LAYERS = ("lowerdir", "upperdir", "workdir", "datadir")


def unescape(word: str) -> str:
    r"""A word as it was: the kernel writes space, tab, newline, `#` and `\` as `\` and octal."""
    first, *others = word.split("\\")
    return first + "".join(chr(int(each[:3], 8)) + each[3:] for each in others)


def _parse(line: str) -> Line:
    id_, parent, device, root, point, options, *rest = line.split(" ")
    end = rest.index("-")  # the optional fields before it have a colon, or are words of their own
    fs_type, _, fs_options = rest[end + 1 : end + 4]
    major, _, minor = device.partition(":")
    words = frozenset(options.split(","))
    groups = {
        name: int(group) for name, _, group in (tag.partition(":") for tag in rest[:end]) if group
    }
    mount = ObservedMount(
        int(id_),
        int(parent),
        bounded(unescape(point)),
        bounded(unescape(root)),
        unescape(fs_type).partition(".")[0],  # of `fuse.sshfs` the part that the kernel knows
        _device_number(int(major), int(minor)),
        Flags("ro" in words, "nosuid" in words, "nodev" in words, "noexec" in words, _atime(words)),
        fs_options.split(",", 1)[0] == "ro",
        None,
        "idmapped" in words,
        groups.get("shared", 0),
        groups.get("master", 0),
    )
    return Line(mount, frozenset(rest[:end]))


def _atime(words: frozenset[str]) -> Atime:
    if "noatime" in words:
        return "noatime"
    return "relatime" if "relatime" in words else "strictatime"


def _device_number(major: int, minor: int) -> int:
    """As makedev(3), which the core may not ask for."""
    return (
        (major & 0xFFFFF000) << 32 | (major & 0xFFF) << 8
        | (minor & 0xFFFFFF00) << 12 | minor & 0xFF
    )  # fmt: skip
