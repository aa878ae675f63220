"""docs/moving-in.md: what it starts from and what it puts in its place are the same mount.

On a machine that systemd has booted, with Debian 13's mount and crun; what is mounted, run and
compared is the page's own.
"""

import json
import os
import re
import sys
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from container import Container, Machines
from pages import Block, Shell, blocks, manifests, play, sections
from ruamel.yaml import YAML
from world import run, running, watching

PAGE = sections("moving-in.md")
OCI, COMPOSE, DEVCONTAINER = "An OCI config.json", "A compose file", "A devcontainer"
MOUNTED = {
    "An fstab line": ("daemon-reload", "start local-fs.target"),
    "A .mount unit": ("daemon-reload", "enable --now home-node-project.mount"),
}
"""The sections that begin with what systemd mounts, and what systemctl is told to have it do so."""
TARGET = "/home/node/project"
EXACT = manifests(PAGE["An fstab line"])[0]
NODE, OWNER = "1000:1000", "501:20"


@pytest.fixture(scope="module")
def booted(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Container]:
    with Machines(tmp_path_factory.mktemp("machines")).booted() as machine:
        machine.run("systemctl", "stop", "mountd")
        yield machine


@pytest.fixture
def machine(booted: Container) -> Iterator[Container]:
    """A machine with the source in it, of which some files are others'."""
    project = booted.folder("/srv/project")
    for name, uid in (("of-root", 0), ("of-node", 1000), ("of-a-stranger", 70000)):
        (project / name).touch(0o640)
        os.chown(project / name, uid, uid)
    (project / "link").symlink_to("hello")
    (booted / TARGET).mkdir()
    (booted / "/srv/containers/app/rootfs").mkdir(parents=True)
    yield booted
    booted.call("mountd", "unmount", "--all")
    booted.run("sh", "-c", f"! mountpoint -q {TARGET} || umount {TARGET}")
    booted.run("sh", "-c", f"rmdir {TARGET}; rm -rf /srv/* /run/mountd /etc/mountd.toml /etc/fstab")
    booted.run("systemctl", "daemon-reload")


def seen(machine: Container, folder: str) -> str:
    """What `stat` says of a folder and everything in it, but for the name."""
    return machine.run("sh", "-c", f"cd {folder}; stat -c '%n %u:%g %a %s %i' . *")


def owners(machine: Container, folder: str) -> dict[str, str]:
    listed = machine.run("sh", "-c", f"cd {folder}; stat -c '%n %u:%g' *")
    return dict(line.split() for line in listed.splitlines())


def create(machine: Container, name: str, folder: str = TARGET, user: str = NODE) -> bool:
    """Whether this user can make a file there."""
    uid, gid = user.split(":")
    ids = (f"--reuid={uid}", f"--regid={gid}", "--clear-groups")
    return machine.call("setpriv", *ids, "touch", f"{folder}/{name}").status == 0


def reconcile(machine: Container, manifest: str) -> None:
    machine.write("/etc/mountd.toml", manifest)
    machine.run("mountd", "reconcile")


def shell_of(machine: Container) -> Shell:
    return lambda _, line: machine.call("sh", "-c", f"cd /srv; exec 2>&1; {line}").out


def start(machine: Container, section: str) -> str:
    """Have systemd mount what a section begins with; return the rest of it."""
    first = blocks(PAGE[section])[0]
    assert first.kind in ("fstab", "ini")
    play(f"```{first.kind}\n{first.text}```", machine.root, shell_of(machine))
    for each in MOUNTED[section]:
        machine.run("systemctl", *each.split())
    return PAGE[section].partition(first.text)[2].partition("```\n")[2]


@pytest.mark.parametrize("section", MOUNTED)
def test_the_manifest_gives_the_same_stat_as_what_it_replaces(
    machine: Container, section: str
) -> None:
    start(machine, section)
    theirs = seen(machine, TARGET)
    assert create(machine, "by-node") and not create(machine, "by-root", user="0:0")
    machine.run("umount", TARGET)
    reconcile(machine, EXACT)
    assert create(machine, "by-node-too") and not create(machine, "by-root", user="0:0")
    stored = owners(machine, "/srv/project")
    assert stored.pop("by-node") == stored.pop("by-node-too") == OWNER
    (machine / "/srv/project/by-node").unlink()
    (machine / "/srv/project/by-node-too").unlink()
    assert seen(machine, TARGET) == theirs
    assert "hello 1000:1000" in theirs and "of-root 65534:65534" in theirs


@pytest.mark.parametrize("section", MOUNTED)
def test_the_switch_is_as_the_page_shows_it_and_has_no_gap(
    machine: Container, section: str
) -> None:
    rest = start(machine, section)
    machine.write("/etc/mountd.toml", EXACT)
    with watching(machine / TARGET) as told:
        play(rest, machine.root, shell_of(machine))
        machine.run("systemctl", "start", "local-fs.target")
    assert told[machine / TARGET] == {"1000", "1000 hello"}
    assert len([each for each in machine.mounts() if each.point == TARGET]) == 1
    assert "drifted" not in machine.run("mountd", "status")


def test_the_user_alone_differs_as_the_table_says(machine: Container) -> None:
    rest = start(machine, "An fstab line")
    play(rest, machine.root, shell_of(machine))
    kept = {"of-root": "0:0", "of-node": OWNER, "of-a-stranger": "70000:70000"}
    assert owners(machine, TARGET).items() >= kept.items()
    assert create(machine, "by-node") and create(machine, "by-root", user="0:0")
    stored = owners(machine, "/srv/project")
    assert (stored["by-node"], stored["by-root"]) == (OWNER, "0:0")
    (mount,) = [each for each in machine.mounts() if each.point == TARGET]
    assert mount.options >= {"nosuid", "nodev"}


# containers

CRUN = """
mount -t cgroup2 cgroup2 /sys/fs/cgroup # crun takes no hybrid of both versions
mount -t proc proc /mnt # a user namespace gets none where all that there are have parts covered
cd /srv/containers/app
exec crun --cgroup-manager=disabled run app </dev/null
"""
_IN_IT = "cd /project; stat -c '%n %u:%g %a %s %i' . *; touch by-node"


def seen_in_a_container(machine: Container, mount: Mapping[str, Any], root_is: int = 0) -> str:
    """What node sees in a container with this mount, in which it can make a file as the owner.

    `root_is`: whom root in it is, by a user namespace.
    """
    linux: dict[str, Any] = {"namespaces": [{"type": "mount"}, {"type": "pid"}]}
    if root_is:
        linux["namespaces"].append({"type": "user"})
        ids = [{"containerID": 0, "hostID": root_is, "size": 65536}]
        linux |= {"uidMappings": ids, "gidMappings": ids}
    system = [
        {"destination": "/proc", "type": "proc", "source": "proc"},
        {"destination": "/dev", "type": "tmpfs", "source": "tmpfs"},
        {"destination": "/usr", "type": "bind", "source": "/usr", "options": ["rbind"]},
    ]
    process = {
        "user": {"uid": 1000, "gid": 1000},
        "cwd": "/",
        "args": ["/bin/sh", "-euc", _IN_IT, "sh"],
        "env": ["PATH=/usr/bin"],
    }
    config = {
        "ociVersion": "1.1.0",
        "process": process,
        "root": {"path": "rootfs"},
        "mounts": [*system, mount],
        "linux": linux,
    }
    machine.write("/srv/containers/app/config.json", json.dumps(config))
    rootfs = machine / "/srv/containers/app/rootfs"
    for each in ("dev", "etc", "proc", "project", "sys", "usr"):
        (rootfs / each).mkdir(exist_ok=True)
    for each in ("bin", "lib", "lib64"):
        if not (rootfs / each).is_symlink():
            (rootfs / each).symlink_to(f"usr/{each}")
    found = machine.run("unshare", "--mount", "sh", "-euc", CRUN)
    assert owners(machine, "/srv/project")["by-node"] == OWNER
    (machine / "/srv/project/by-node").unlink()
    return found


def objects(section: str) -> list[dict[str, Any]]:
    """The JSON blocks of a section."""
    return [json.loads(each.text) for each in blocks(PAGE[section]) if each.kind == "json"]


def accounts(machine: Container) -> None:
    """Give the container's root filesystem an account."""
    machine.write("/srv/containers/app/rootfs/etc/passwd", "node:x:1000:1000::/home/node:/bin/sh\n")


def test_a_container_sees_the_same_by_its_mappings_and_by_the_extents(machine: Container) -> None:
    mapped, plain = objects(OCI)
    theirs = seen_in_a_container(machine, mapped)
    assert "hello 1000:1000" in theirs and "of-root 65534:65534" in theirs
    reconcile(machine, manifests(PAGE[OCI])[0])
    assert seen_in_a_container(machine, plain) == theirs


def test_a_container_sees_the_owners_files_as_the_users_by_a_name_of_its_image(
    machine: Container,
) -> None:
    _, plain = objects(OCI)
    accounts(machine)
    reconcile(machine, manifests(PAGE[OCI])[1])
    ours = seen_in_a_container(machine, plain)
    assert "hello 1000:1000" in ours and "of-root 0:0" in ours


def test_in_a_user_namespace_the_user_is_the_one_that_the_machine_sees(
    machine: Container,
) -> None:
    _, plain = objects(OCI)
    (user,) = re.findall(r"`(user = \"101000.*?)`", PAGE[OCI])
    manifest = manifests(PAGE[OCI])[1].replace('user = "node"', user)
    reconcile(machine, manifest)
    assert "hello 1000:1000" in seen_in_a_container(machine, plain, root_is=100000)


def test_podmans_option_has_the_order_of_the_extents(machine: Container) -> None:
    (mapped,) = objects("Podman's and crun's idmap")
    theirs = seen_in_a_container(machine, mapped)
    reconcile(machine, manifests(PAGE[OCI])[0])
    assert seen_in_a_container(machine, objects(OCI)[1]) == theirs


def test_a_running_container_keeps_the_mount_that_it_was_started_with(machine: Container) -> None:
    accounts(machine)
    exact, named = manifests(PAGE[OCI])
    reconcile(machine, exact)
    script = "mount --bind /srv/containers/app/project /mnt; echo; cat; stat -c %u /mnt/of-root"
    with running(*machine.command("unshare", "--mount", "sh", "-euc", script)) as process:
        reconcile(machine, named)
        assert process.communicate()[0].strip() == "65534"


@pytest.mark.parametrize("section", [COMPOSE, DEVCONTAINER])
def test_what_is_bound_afterwards_is_a_volume_that_shows_node(
    machine: Container, section: str
) -> None:
    before, after = (each for each in blocks(PAGE[section]) if each.kind in ("yaml", "json"))
    (manifest,) = manifests(PAGE[section])
    volume = tomllib.loads(manifest)["volumes"]["project"]
    assert bound(before) == volume["source"]
    assert bound(after) == volume["target"]
    accounts(machine)
    reconcile(machine, manifest)
    assert owners(machine, volume["target"])["hello"] == NODE


def bound(block: Block) -> str:
    """What the first mount of a compose file or a devcontainer.json has as its source."""
    if block.kind == "json":
        keys = dict(each.split("=") for each in json.loads(block.text)["mounts"][0].split(","))
        return str(keys["source"])
    service = YAML(typ="safe").load(block.text)["services"]["app"]
    volume = service["volumes"][0]
    return str(volume["source"] if isinstance(volume, dict) else volume.split(":")[0])


def test_the_compose_files_are_what_compose_takes(tmp_path: Path) -> None:
    files = [each.text for each in blocks(PAGE[COMPOSE]) if each.kind == "yaml"]
    for number, text in enumerate(files):
        (tmp_path / f"{number}.yaml").write_text(text)
    check = Path(sys.executable).parent / "check-jsonschema"
    run(str(check), "--builtin-schema", "vendor.compose-spec", *map(str, tmp_path.iterdir()))
