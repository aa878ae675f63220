"""In a container: a user namespace that knows few ids, and filesystems that are the host's."""

import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from errno import EPERM
from itertools import combinations
from pathlib import Path

import pytest
from world import Result, World, run, running

import mountd
from mountd.core.idmapping import Extent, Extents, Idmapping, parsed_text, seen_as, swap, unknown
from mountd.kernel.files import statx
from mountd.kernel.mount_api import MOUNT_ATTR_IDMAP, mount_setattr, move_mount, open_tree, umount2
from mountd.kernel.statmount import statmount
from mountd.kernel.syscalls import Fd
from mountd.kernel.userns import UserNamespaceError, known_ids, make_user_namespace

MAPS = {
    "one-extent": "0 100000 65536",
    "rootless": "0 1000 1\n1 100000 65536",
    "holes": "0 100000 502\n502 300000 500\n2000 200000 60000\n70000 1 999",
    "unordered": "1000 100000 64536\n0 200000 1000",
    "user": "0 100000 1\n501 501 1\n1000 1000 1",
}
ROOTFS = "/mnt/rootfs"
TESTS = str(Path(__file__).parents[1])


class Container(World):
    """A world at /w of a root filesystem which the host gave; `own` is a tmpfs of the container."""

    def __init__(self, pid: int) -> None:
        super().__init__("/w")
        self._enter = ["nsenter", f"-t{pid}", "-U", "-m", "-S0", "-G0", "--wd=/", "--"]

    def run(self, command: Sequence[str], env: Mapping[str, str] | None = None) -> Result:
        """Run anything as the container's root."""
        return super().run([*self._enter, *command], env)

    def does(self, *command: str) -> str:
        """Run a program that has to succeed."""
        done = self.run(command)
        assert done.status == 0, f"{command}: {done.err}"
        return done.out

    def write(self, text: str) -> None:
        """Make this the manifest."""
        self.does("sh", "-c", 'printf %s "$1" >"$0"', self.manifest, text)

    def source(self, path: str, *, owner: str = "501:501") -> str:
        """A folder of this owner's, with a file of root's and one of the owner's in it."""
        self.does("mkdir", path)
        self.does("touch", f"{path}/of-root", f"{path}/of-owner")
        self.does("chown", owner, path, f"{path}/of-owner")
        return path

    def owners(self, *paths: str) -> list[str]:
        """Who is seen inside to own these."""
        return self.does("stat", "-c", "%u:%g", *paths).split()


@pytest.fixture
def containers(namespace: None) -> Iterator["Maker"]:  # noqa: ARG001 - for its effect
    """What makes containers, of which the last one lives until the test ends."""
    run("mount", "-t", "tmpfs", "-o", "mode=755", "tmpfs", "/mnt")
    maker = Maker()
    try:
        yield maker
    finally:
        maker.end()


class Maker:
    """Makes a container with a map, on a root filesystem of programs that belong to the host."""

    def __init__(self) -> None:
        self._holder = running(
            *("unshare", "--user", "--mount", "--propagation=private"),
            *("sh", "-c", "echo; exec cat >/dev/null"),
        )
        self._pid = 0

    def make(self, ids: str) -> Container:
        """A container whose root is whom the map says."""
        self._make_rootfs()
        self._pid = self._holder.__enter__().pid
        for name in ("uid_map", "gid_map"):
            Path(f"/proc/{self._pid}/{name}").write_text(ids)
        root = dict(line.split()[:2] for line in ids.splitlines())["0"]
        for folder in (ROOTFS, *(f"{ROOTFS}/{name}" for name in ("etc", "w", "etc/passwd"))):
            os.chown(folder, int(root), int(root))
        container = Container(self._pid)
        # what the host mounted is locked in place, and can't become a root: its clone can
        enter = f"mount --rbind {ROOTFS} {ROOTFS} && cd {ROOTFS} && pivot_root . old"
        container.does("sh", "-c", enter)
        container.does("mkdir", "/w/own")
        container.does("mount", "-t", "tmpfs", "-o", "mode=755", "tmpfs", "/w/own")
        return container

    def end(self) -> None:
        """End the process that keeps the container."""
        if self._pid:
            self._holder.__exit__(None, None, None)

    def _make_rootfs(self) -> None:
        venv, source = Path(sys.executable).parents[1], Path(mountd.__file__).parents[1]
        run("mkdir", ROOTFS)
        run("mount", "-t", "tmpfs", "-o", "mode=755", "tmpfs", ROOTFS)
        needed = {sys.base_prefix, str(venv), str(source), TESTS}
        for path in ("/usr", "/dev", "/proc", *sorted(needed)):
            if not Path(f"{ROOTFS}{path}").exists():
                Path(f"{ROOTFS}{path}").mkdir(parents=True)
                run("mount", "--rbind", path, f"{ROOTFS}{path}")
        for name in ("bin", "lib", "lib64", "sbin"):
            if Path("/", name).is_symlink():
                Path(ROOTFS, name).symlink_to(os.readlink(f"/{name}"))
        for name in ("etc", "w", "old"):
            Path(ROOTFS, name).mkdir()
        Path(ROOTFS, "etc/passwd").write_text("node:x:1000:1000::/:\n")


def idmap_a_tmpfs(folder: str) -> None:
    """In a container: its tmpfs, idmapped, shows what each map says, and the kernel tells it."""
    known = known_ids()
    near = {0, 1, 501, 502, 1000}
    near |= {first + each for first, _, count in known.uids for each in (1, count - 2, count - 1)}
    stored = sorted(each for each in near if seen_as(known.uids, each) is not None)
    for each in stored:
        Path(folder, str(each)).touch()
        os.chown(Path(folder, str(each)), each, each)
    maps = {swap(*pair, known.uids) for pair in combinations(stored, 2)}
    for extents in filter(None, (known.uids, _shifted(known.uids), *maps)):
        idmap = Idmapping(extents, known.gids)
        with make_user_namespace(idmap) as userns, _open(folder) as source:
            with open_tree(source) as tree:
                mount_setattr(tree, set_=MOUNT_ATTR_IDMAP, userns=userns)
                os.makedirs(f"{folder}/seen", exist_ok=True)
                move_mount(tree, source, "seen")
                told = statmount(statx(tree).mount)
            found = {each: statx(source, f"seen/{each}").uid for each in stored}
            umount2(source, "seen", 0)
        assert found == {each: _or_nobody(seen_as(extents, each)) for each in stored}
        assert told.uid_map and parsed_text(told.uid_map) == extents
        assert told.gid_map and parsed_text(told.gid_map) == known.gids
    for extents in ((Extent(0, 4_000_000_000, 1),), (Extent(0, known.uids[-1].stored, 2**31),)):
        assert unknown(extents, known.uids)
        with pytest.raises(UserNamespaceError) as refused:
            make_user_namespace(Idmapping(known.uids, extents)).close()
        assert refused.value.errno == EPERM


def _shifted(known: Extents) -> Extents:
    """Two ids of each run left out, the others seen one higher than stored."""
    return tuple(Extent(first, first + 1, count - 2) for first, _, count in known if count > 2)


def _open(folder: str) -> Fd:
    return Fd(os.open(folder, os.O_PATH | os.O_CLOEXEC))


def _or_nobody(id_: int | None) -> int:
    return 65534 if id_ is None else id_


@pytest.mark.parametrize("ids", MAPS.values(), ids=MAPS)
def test_maps_are_split_at_the_namespaces_own_and_told_as_they_were_meant(
    ids: str, containers: Maker
) -> None:
    container = containers.make(ids)
    code = f"import sys; sys.path.insert(0, {TESTS!r}); from guests import test_container as t"
    container.does(sys.executable, "-c", f"{code}; t.idmap_a_tmpfs('/w/own')")


@pytest.mark.fault(45, "one of its own")
@pytest.mark.parametrize("ids", MAPS.values(), ids=MAPS)
def test_the_owner_is_seen_as_the_user_and_every_other_id_that_is_known_as_itself(
    ids: str, containers: Maker
) -> None:
    container = containers.make(ids)
    source, target = container.source("/w/own/src"), "/w/own/dst"
    container.volumes(v={"source": source, "target": target, "user": "node"})
    assert container.reconcile().volume("v")["fallback"] is None
    seen = [target, f"{target}/of-owner", f"{target}/of-root"]
    assert container.owners(*seen) == ["1000:1000", "1000:1000", "0:0"]
    assert not container.reconcile().document["changed"]
    status = container.mountd("status", "--json")
    assert (status.status, status.volume("v")["drift"]) == (0, [])
    assert container.mountd("unmount", "--all").status == 0
    assert container.owners(target) == ["0:0"]


def test_a_user_without_a_group_leaves_the_gids_as_they_are(containers: Maker) -> None:
    container = containers.make(MAPS["rootless"])
    source, target = container.source("/w/own/src"), "/w/own/dst"
    container.volumes(v={"source": source, "target": target, "user": 2000})
    container.reconcile()
    assert container.owners(target, f"{target}/of-root") == ["2000:501", "0:0"]
    assert not container.reconcile().document["changed"]


def test_extents_that_name_no_gids_leave_those_that_are_known_as_they_are(
    containers: Maker,
) -> None:
    container = containers.make(MAPS["holes"])
    source, target = container.source("/w/own/src"), "/w/own/dst"
    idmap = {"uids": [{"stored": 501, "seen": 1000, "count": 1}]}
    container.volumes(v={"source": source, "target": target, "idmap": idmap})
    container.reconcile()
    assert container.owners(target, f"{target}/of-root") == ["1000:501", "65534:0"]
    assert not container.reconcile().document["changed"]


@pytest.mark.fault(45, "the host's filesystem")
def test_a_filesystem_of_the_hosts_is_mounted_with_raw_ids_and_said_to_be_the_hosts(
    containers: Maker,
) -> None:
    container = containers.make(MAPS["one-extent"])
    source, target = container.source("/w/src"), "/w/dst"
    container.volumes(v={"source": source, "target": target, "user": "node"})
    result = container.reconcile()
    volume = result.volume("v")
    assert [volume[key] for key in ("state", "fallback", "reason", "idmap")] == [
        *("mounted", "plain", "not-privileged", None)
    ]
    assert "host" in result.err
    assert container.owners(target) == ["501:501"]
    again = container.reconcile()
    assert not again.document["changed"]
    assert again.volume("v")["fallback"] == "plain"
    assert "host" in again.err


def test_a_filesystem_of_the_hosts_can_fail_instead(containers: Maker) -> None:
    container = containers.make(MAPS["one-extent"])
    source, target = container.source("/w/src"), "/w/dst"
    container.volumes(v={"source": source, "target": target, "user": "node", "fallback": "fail"})
    error = container.reconcile(status=1).volume("v")["error"]
    assert error["code"] == "not-privileged"
    assert "host" in error["message"]


@pytest.mark.parametrize(
    ("keys", "code", "words"),
    [
        ({"user": "70000:0"}, "no-user", ["70000", "user namespace"]),
        ({"user": "1000:70000"}, "no-group", ["70000", "user namespace"]),
        (
            {"idmap": {"uids": [{"stored": 0, "seen": 65530, "count": 10}]}},
            "not-privileged",
            ["65536-65539", "user namespace"],
        ),
    ],
    ids=["user", "group", "extents"],
)
def test_ids_that_the_namespace_does_not_know_are_named(
    keys: dict[str, object], code: str, words: list[str], containers: Maker
) -> None:
    container = containers.make(MAPS["one-extent"])
    container.volumes(v={"source": container.source("/w/own/src"), "target": "/w/own/dst", **keys})
    for arguments in (("--dry-run",), ()):
        error = container.reconcile(*arguments, status=1).volume("v")["error"]
        assert error["code"] == code
        assert all(word in error["message"] for word in words)
