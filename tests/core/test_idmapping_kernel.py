"""What an idmapping says on paper is what the kernel does, id by id, on each filesystem."""

import os
import random
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from errno import EOVERFLOW
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from world import World, acting_as, owner, run

from mountd.core.idmapping import IDENTITY, Extent, Extents, Idmapping, compose, seen_as, swap
from mountd.kernel.mount_api import MOUNT_ATTR_IDMAP, mount_setattr, open_tree, open_tree_attr
from mountd.kernel.syscalls import Fd
from mountd.kernel.userns import make_user_namespace

HIGHEST = 4294967294
NOBODY = 65534
"""As what the kernel shows an id that a map leaves out."""

Rule = Callable[[int], int | None]
Run = tuple[int, int, int]


class Case(NamedTuple):
    """A volume: who owns its source, its keys, and as what an id is seen by their rules."""

    owner: tuple[int, int]
    keys: Mapping[str, Any]
    uids: Rule
    gids: Rule
    stored_uids: Rule
    stored_gids: Rule


def swapped(owner: tuple[int, int], user: tuple[int, int | None], /, **keys: Any) -> Case:
    """The owner and the user exchanged, which is undone by the same."""
    (uid, gid), (seen_uid, seen_gid) = owner, user

    def uids(id_: int) -> int:
        return {uid: seen_uid, seen_uid: uid}.get(id_, id_)

    def gids(id_: int) -> int:
        return id_ if seen_gid is None else {gid: seen_gid, seen_gid: gid}.get(id_, id_)

    name = f"{seen_uid}" if seen_gid is None else f"{seen_uid}:{seen_gid}"
    return Case(owner, {"user": name, **keys}, uids, gids, uids, gids)


def by_extents(owner: tuple[int, int], /, **sides: list[Run]) -> Case:
    """Explicit extents; a list that isn't given leaves ids as they are."""
    tables = {
        side: [dict(zip(("stored", "seen", "count"), each, strict=True)) for each in runs]
        for side, runs in sides.items()
    }
    uids, gids = (sides.get(side, [(0, 0, HIGHEST + 1)]) for side in ("uids", "gids"))
    back = [[(seen, stored, count) for stored, seen, count in runs] for runs in (uids, gids)]
    return Case(owner, {"idmap": tables}, *map(_moved, (uids, gids, *back)))


def _moved(runs: list[Run]) -> Rule:
    def rule(id_: int) -> int | None:
        for first, other, count in runs:
            if first <= id_ < first + count:
                return id_ - first + other
        return None

    return rule


CASES = {
    "both": swapped((501, 20), (1000, 1000)),
    "uid": swapped((501, 20), (1000, 20)),
    "gid": swapped((501, 20), (501, 1000)),
    "no-group": swapped((501, 20), (1000, None)),
    "neighbours": swapped((1000, 1000), (1001, 1001)),
    "root": swapped((0, 0), (1000, 1000), owner="0:0"),
    "highest": swapped((501, 20), (HIGHEST, HIGHEST)),
    "lowest-and-highest": swapped((0, HIGHEST), (HIGHEST, 0), owner=f"0:{HIGHEST}"),
    "overflow-id": swapped((501, NOBODY), (NOBODY, 20)),
    "identity": swapped((501, 20), (501, 20), idmap="always"),
    "container": by_extents((100000, 100000), uids=[(100000, 0, 65536)]),
    "other-gids": by_extents((501, 20), uids=[(501, 1000, 1)], gids=[(0, 65536, 1000)]),
    "unordered": by_extents(
        (501, 20),
        uids=[(2**31, 0, 500), (HIGHEST, 500, 1), (500, 2**31, 510)],
        gids=[(20, 20, 1), (0, HIGHEST, 1), (1000, 2000, HIGHEST - 2000)],
    ),
    # beyond five extents the kernel looks ids up in another way
    "340-extents": by_extents(
        (500, 501),
        uids=[(2 * each, 1000 + 2 * each, 1) for each in range(340)],
        gids=[(3 * each, 2000 + 3 * (339 - each), 2) for each in range(340)],
    ),
}
IDS = {0, 1, 19, 20, 21, 500, 501, 502, 999, 1000, 1001, 65534, 65535, 65536, 99999, 100000}
IDS |= {1500, 2000, 2516, 2517, 165535, 165536, 2**31 - 1, 2**31, 2**31 + 1, HIGHEST - 1, HIGHEST}
IDS |= set(random.sample(range(HIGHEST), 12))


@pytest.fixture(
    params=[
        "tmpfs",
        pytest.param("ext4", marks=pytest.mark.needs_loop),
        pytest.param("xfs", marks=pytest.mark.needs_loop),
        pytest.param("btrfs", marks=pytest.mark.needs_loop),
    ]
)
def sources(request: pytest.FixtureRequest, world: World) -> Path:
    """A filesystem with a source for each case, which holds a file of each id."""
    path = world / "filesystem"
    path.mkdir()
    if request.param == "tmpfs":
        run("mount", "-t", "tmpfs", "tmpfs", str(path))
    else:
        image = world / "image"
        image.touch()
        os.truncate(image, 512 << 20)
        run(f"/sbin/mkfs.{request.param}", "-q", str(image))
        run("mount", "-t", request.param, "-o", "loop", str(image), str(path))
    for name, case in CASES.items():
        source = path / name
        source.mkdir()
        for each in IDS:
            (source / str(each)).touch()
            os.chown(source / str(each), each, each)
        source.chmod(0o777)
        os.chown(source, *case.owner)
    world.volumes(
        **{
            name: {
                "source": path / name,
                "target": world / f"seen/{name}",
                "accounts": world.rootfs(""),
                **case.keys,
            }
            for name, case in CASES.items()
        }
    )
    return path


Owners = dict[str, dict[int, tuple[int, int] | str]]


@pytest.mark.usefixtures("sources")
def test_a_stored_id_is_seen_as_the_manifest_says_and_else_as_nobody(world: World) -> None:
    world.reconcile()
    seen: Owners = {
        name: {each: owner(world / f"seen/{name}/{each}") for each in IDS} for name in CASES
    }
    assert seen == {
        name: {each: (_or_nobody(case.uids(each)), _or_nobody(case.gids(each))) for each in IDS}
        for name, case in CASES.items()
    }


def test_what_a_seen_id_creates_is_stored_as_the_manifest_says(world: World, sources: Path) -> None:
    world.reconcile()
    assert {
        name: {each: _created(each, world / f"seen/{name}", sources / name) for each in IDS}
        for name in CASES
    } == {
        name: {each: _or_refused(case.stored_uids(each), case.stored_gids(each)) for each in IDS}
        for name, case in CASES.items()
    }


@pytest.mark.usefixtures("sources")
def test_the_kernel_has_the_idmappings_that_the_document_says(world: World) -> None:
    planned = {each["name"]: each["idmap"] for each in world.reconcile().document["volumes"]}
    status = world.mountd("status", "--json")
    assert status.status == 0, status.err
    assert {each["name"]: each["idmap"] for each in status.document["volumes"]} == planned


def _created(id_: int, target: Path, source: Path) -> tuple[int, int] | str:
    """Who is stored as the owner of a file that this user and group create at the target."""
    try:
        with acting_as(id_, id_):
            (target / f"by-{id_}").touch()
    except OSError as error:
        if error.errno != EOVERFLOW:
            raise
        return "refused"
    return owner(source / f"by-{id_}")


def _or_nobody(id_: int | None) -> int:
    return NOBODY if id_ is None else id_


def _or_refused(uid: int | None, gid: int | None) -> tuple[int, int] | str:
    return "refused" if uid is None or gid is None else (uid, gid)


LOWER: dict[str, Extents] = {
    "swap": swap(501, 1000),
    "container": (Extent(100000, 0, 65536),),
    "holes": (Extent(0, 1000, 502), Extent(65534, 501, 2), Extent(999, 5000, 3)),
    "340-extents": tuple(Extent(2 * each, 1000 + 3 * (339 - each), 1) for each in range(340)),
}
UPPER: dict[str, Extents] = {
    "swap": swap(1000, 1001),
    "back": swap(1000, 501),
    "few": (Extent(0, 500, 2000), Extent(65534, 0, 2)),
}


@pytest.mark.parametrize("upper", UPPER.values(), ids=UPPER)
@pytest.mark.parametrize("lower", LOWER.values(), ids=LOWER)
def test_a_composed_map_shows_on_a_mount_what_both_show_one_after_the_other(
    lower: Extents, upper: Extents, world: World
) -> None:
    source = world.folder("source", owner=(0, 0))
    for each in IDS:
        (source / str(each)).touch()
        os.chown(source / str(each), each, each)
    with Fd(os.open(source, os.O_PATH)) as folder, open_tree(folder) as below:
        _idmap(below, Idmapping(lower, IDENTITY))
        between = {each: owner(f"/proc/self/fd/{below.number}/{each}")[0] for each in IDS}
        assert between == {each: _or_nobody(seen_as(lower, each)) for each in IDS}
        composed = Idmapping(compose(lower, upper), IDENTITY)
        with (
            make_user_namespace(composed) as userns,
            open_tree_attr(
                below, set_=MOUNT_ATTR_IDMAP, clear=MOUNT_ATTR_IDMAP, userns=userns
            ) as tree,
        ):
            seen = {each: owner(f"/proc/self/fd/{tree.number}/{each}")[0] for each in IDS}
    shown = {each: seen_as(lower, each) for each in IDS}
    assert seen == {
        each: NOBODY if id_ is None else _or_nobody(seen_as(upper, id_))
        for each, id_ in shown.items()
    }


def _idmap(tree: Fd, idmap: Idmapping) -> None:
    with make_user_namespace(idmap) as userns:
        mount_setattr(tree, set_=MOUNT_ATTR_IDMAP, userns=userns)


def test_namespaces_made_by_many_threads_at_once_leave_no_process() -> None:
    def make(each: int) -> int:
        with make_user_namespace(Idmapping(swap(each, 1000), IDENTITY)) as userns:
            return os.fstat(userns.number).st_ino

    with ThreadPoolExecutor(8) as pool:
        assert len(list(pool.map(make, range(400)))) == 400
    wclone = 0x80000000 - 2**32
    with pytest.raises(ChildProcessError):
        os.waitpid(-1, os.WNOHANG | wclone)


@pytest.mark.fault(11, "the child that makes a user namespace")
@pytest.mark.parametrize("call", ["open", "write", "kill", "waitpid"])
def test_killed_while_it_makes_a_namespace_mountd_leaves_no_process(call: str) -> None:
    program = (
        "import os, signal\n"
        "import mountd.kernel.userns as userns\n"
        "from mountd.core.idmapping import *\n"
        "print('started', flush=True)\n"
        "userns._own_maps()\n"
        f"os.{call} = lambda *_: signal.raise_signal(signal.SIGKILL)\n"
        "userns.make_user_namespace(Idmapping(IDENTITY, IDENTITY))\n"
    )
    # the pipe ends when the last process that has our files does
    done = subprocess.run(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, check=False, timeout=300
    )
    assert (done.returncode, done.stdout) == (-signal.SIGKILL, b"started\n")
