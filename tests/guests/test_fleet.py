"""What docs/fleet.md and its examples say, on a guest that cloud-init has set up."""

import json
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from typing import Any

import pytest
from container import Container, Machines
from package import PROJECT
from world import Result, mount_id, owner, run

_NEEDED = ("ansible-core", "ansible-lint", "cloud-init", "iproute2")
_USER_DATA = "examples/cloud-init/user-data.yaml"
_SHELL = re.compile(r"^```sh\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_WORKSPACE = "/home/node/workspace"
_DROP_IN = "/etc/mountd.toml.d/50-fleet.toml"


@pytest.fixture(scope="module")
def guest(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Container]:
    """A guest that has booted with the example's user-data, and has the checkout's examples."""
    place = tmp_path_factory.mktemp("machines")
    machines = Machines(place, *_NEEDED)
    seed = machines.tree / "var/lib/cloud/seed/nocloud"
    seed.mkdir(parents=True)
    (seed / "meta-data").write_text("instance-id: guest\n")
    shutil.copy(PROJECT / _USER_DATA, seed / "user-data")
    run("chroot", str(machines.tree), "userdel", "node")  # for cloud-init to make
    shutil.rmtree(machines.tree / "home/node")
    workspace = place / "workspace"
    workspace.mkdir()
    os.chown(workspace, 501, 20)
    with machines.booted(f"--bind={workspace}:/run/host/workspace") as guest:
        shutil.copytree(PROJECT / "examples", guest / "/root/examples")
        yield guest


@pytest.fixture(scope="module")
def managed(guest: Container) -> Container:
    """The guest after a first play, as guest-1."""
    done = _play(guest)
    assert done.status == 0, done.out + done.err
    return guest


def _play(
    guest: Container, host: str = "guest-1", variables: Mapping[str, Any] | None = None
) -> Result:
    """Run the playbook on the guest itself, as that host of the inventory."""
    return _run(
        guest,
        f'cd examples/ansible; ansible-playbook --limit {host} --extra-vars "$0" mountd.yml',
        json.dumps(variables or {}),
    )


def _run(guest: Container, script: str, *words: str) -> Result:
    """Run a shell script as root in its home, with Ansible's hosts being the guest itself."""
    options = ["--chdir=/root", "HOME=/root", "ANSIBLE_TRANSPORT=local"]
    return guest.call("env", *options, "sh", "-euc", script, *words)


def _in_force(guest: Container) -> tuple[int, str, str]:
    """What a play that is stopped leaves alone."""
    drop_in = (guest / _DROP_IN).read_text()
    return mount_id(guest / _WORKSPACE), drop_in, guest.show("mountd", "ActiveState")


# cloud-init


def test_its_user_data_mounts_the_volume_for_the_user_that_it_makes(guest: Container) -> None:
    guest.run("cloud-init", "status", "--wait")
    uid, gid = guest.run("id", "-u", "node"), guest.run("id", "-g", "node")
    assert owner(guest / _WORKSPACE) == (int(uid), int(gid))
    assert owner(guest / "/home/node") == (int(uid), int(gid))
    guest.run("mountd", "check")
    assert guest.show("mountd", "StatusText") == "1 volume mounted"


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        ("write_files:", "write_file:"),
        ("permissions:", "permission:"),
        ('permissions: "0644"', "permissions: 0644"),
    ],
)
def test_cloud_init_finds_what_is_wrong_in_user_data(
    right: str, wrong: str, guest: Container
) -> None:
    text = (PROJECT / _USER_DATA).read_text()
    assert right in text
    for content, status in ((text, 0), (text.replace(right, wrong), 1)):
        guest.write("/root/user-data", content)
        done = guest.call("cloud-init", "schema", "--config-file", "/root/user-data")
        assert done.status == status, done.err
    assert "schema errors" in done.err


# Ansible


def test_ansible_lint_finds_nothing(guest: Container) -> None:
    done = _run(guest, "cd examples/ansible; ansible-lint --offline --strict")
    assert done.status == 0, done.out + done.err
    assert "'production'" in done.err


def test_a_second_play_changes_nothing(managed: Container) -> None:
    before = _in_force(managed)
    done = _play(managed)
    assert re.search(r"^guest-1 .* changed=0 .* failed=0 ", done.out, re.MULTILINE), done.out
    assert _in_force(managed) == before


def test_a_host_has_its_own_volumes_and_changes_to_its_groups(managed: Container) -> None:
    managed.folder("/srv/legacy", 100033, 100033)
    assert _play(managed, "guest-2").status == 0
    assert owner(managed / "/opt/legacy/data/hello") == (33, 33)
    assert os.statvfs(managed / _WORKSPACE).f_flag & os.ST_RDONLY
    assert _play(managed, "guest-1").status == 0
    assert not os.path.ismount(managed / "/opt/legacy/data")
    assert not os.statvfs(managed / _WORKSPACE).f_flag & os.ST_RDONLY


_TWICE = f"`volumes.more.target` is {_WORKSPACE}, as `volumes.workspace.target` is"


@pytest.mark.parametrize(
    ("variable", "source", "target", "told", "is_stopped"),
    [
        ("mountd_host_volumes", "/srv", _WORKSPACE, _TWICE, False),
        ("mountd_volumes", "/srv", _WORKSPACE, _TWICE, True),
        ("mountd_host_volumes", "/srv/gone", "/data", "there is no /srv/gone", True),
    ],
    ids=["by itself", "among the host's files", "for want of a source"],
)
def test_a_wrong_variable_stops_the_play_and_leaves_what_is_in_force(
    *, variable: str, source: str, target: str, told: str, is_stopped: bool, managed: Container
) -> None:
    before, process = _in_force(managed), managed.show("mountd", "MainPID")
    done = _play(managed, variables={variable: {"more": {"source": source, "target": target}}})
    assert done.status == 2
    assert told in done.out + done.err
    assert _in_force(managed) == before
    assert managed.show("mountd", "StatusText") == "1 volume mounted"
    assert (managed.show("mountd", "MainPID") != process) == is_stopped


# the document


def test_each_command_in_it_succeeds(guest: Container) -> None:
    scripts = _SHELL.findall((PROJECT / "docs/fleet.md").read_text())
    assert len(scripts) == 3
    for script in scripts:
        done = _run(guest, script)
        assert done.status == 0, f"{script}\n{done.out}{done.err}"
