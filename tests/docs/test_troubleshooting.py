"""docs/troubleshooting.md: each symptom is brought about, and what the page says to do ends it."""

import ast
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from container import Container, Machines
from package import PROJECT
from pages import furnish, play, sections, shell
from world import owner, run, running

PAGE = sections("troubleshooting.md")
SOURCE, TARGET = Path("/run/host/workspace"), Path("/home/node/workspace")
THERE = Path("/srv/workspace")
"""The source on a machine."""
EXTENTS = """
[volumes.workspace.idmap]
uids = [{ stored = 501, seen = 1000, count = 1 }]
gids = [{ stored = 20, seen = 1000, count = 1 }]
"""


def manifest(*lines: str, source: Path = SOURCE, target: Path = TARGET) -> str:
    """One volume, with these lines besides."""
    paths = f'source = "{source}"\ntarget = "{target}"'
    return "\n".join(["[volumes.workspace]", paths, *lines, ""])


def reconcile(*lines: str, source: Path = SOURCE, target: Path = TARGET) -> None:
    """Mount it, in the guest."""
    Path("/etc/mountd.toml").write_text(manifest(*lines, source=source, target=target))
    shell("", "mountd reconcile --quiet")


def follow(heading: str) -> None:
    """Do what a section says, and see what it shows."""
    play(PAGE[heading], Path("/"), shell)


def fill(folder: Path, uid: int = 501, gid: int = 20) -> None:
    """A folder with a file in it, both of this owner."""
    folder.mkdir(parents=True)
    (folder / "app.js").write_text("// hello you\n")
    for path in (folder, folder / "app.js"):
        os.utime(path, (1732406400, 1732406400))
        os.chown(path, uid, gid)


@pytest.fixture
def guest(namespace: None) -> None:  # noqa: ARG001 - for its effect
    """A machine with a source that belongs to 501, and the users node and postgres."""
    furnish()
    fill(SOURCE)
    with Path("/etc/passwd").open("a") as passwd:
        passwd.write("postgres:x:999:999::/home/node:/bin/sh\n")
    Path("/home/postgres").symlink_to("/home/node")
    Path("/etc/group").write_text("node:x:1000:\npostgres:x:999:\n")


in_the_guest = pytest.mark.usefixtures("guest")


@in_the_guest
def test_permission_denied() -> None:
    reconcile()
    follow('"Permission denied"')
    assert owner(SOURCE / "new") == (501, 20)


@in_the_guest
def test_ids_that_extents_leave_out() -> None:
    fill(SOURCE / "of-root", 0, 0)
    reconcile(EXTENTS)
    follow('"Value too large for defined data type", and files of 65534\'s')
    assert owner(SOURCE / "new") == (0, 0)


@in_the_guest
def test_chown() -> None:
    reconcile('user = "node"')
    follow('"Operation not permitted" on chown')
    assert owner(SOURCE) == (501, 20)


@in_the_guest
def test_git() -> None:
    shell("", f"git init --quiet {SOURCE}; chown -R 501:20 {SOURCE}")
    reconcile('user = "node"', "read_only = true")
    follow('Git\'s "dubious ownership"')


@in_the_guest
def test_ssh() -> None:
    (SOURCE / "config").write_text("Host example.org\n  User somebody\n")
    run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(SOURCE / "key"))
    run("chown", "-R", "501:20", str(SOURCE))
    (SOURCE / "key").chmod(0o644)
    reconcile('user = "node"', "read_only = true", target=Path("/home/node/.ssh"))
    follow('ssh\'s "Bad owner or permissions", and "bad permissions"')
    assert "bad permissions" in shell("node", "ssh-keygen -y -f .ssh/key")
    (SOURCE / "key").chmod(0o600)
    assert shell("node", "ssh-keygen -y -f .ssh/key").startswith("ssh-ed25519")


@in_the_guest
def test_raw_ids() -> None:
    fill(Path("/srv/lower"))
    fill(Path("/srv/upper"))
    for name in ("work", "share"):
        Path("/srv", name).mkdir()
    layers = "lowerdir=/srv/lower,upperdir=/srv/upper,workdir=/srv/work"
    run("mount", "-t", "overlay", "-o", layers, "overlay", "/srv/share")
    reconcile('user = "node"', source=Path("/srv/share"))
    follow("Ids stay raw, though the volume has a user")


@in_the_guest
def test_a_container() -> None:
    folder = Path("/srv/volumes")
    target = folder / "project"
    Path("/srv/old").mkdir()
    Path("/srv/all").mkdir()
    run("mount", "--make-rshared", "/")
    reconcile('user = "node"', target=target)
    script = f"""
    mount --rbind {target} /srv/old; mount --make-rprivate /srv/old
    mount --rbind {folder} /srv/all; mount --make-rslave /srv/all
    echo; cat; stat --format %u /srv/old /srv/all/project {target}
    """
    with running("unshare", "--mount", "--propagation=slave", "sh", "-euc", script) as process:
        reconcile('user = "postgres"', target=target)
        assert process.communicate()[0].split() == ["1000", "999", "999"]
    follow("The container still sees the old ids")


@in_the_guest
def test_a_single_file() -> None:
    reconcile('user = "node"', source=SOURCE / "app.js", target=Path("/home/node/app.js"))
    shell("", f"sed -i s/you/all/ {SOURCE}/app.js")
    follow("An edit of a single file isn't seen")
    assert "Device or resource busy" in shell("node", "sed -i s/all/you/ app.js")


@in_the_guest
def test_setuid() -> None:
    shutil.copy("/usr/bin/id", SOURCE)
    (SOURCE / "id").chmod(0o4755)
    reconcile('user = "node"')
    follow("A setuid program has no effect")


@in_the_guest
def test_a_namespace() -> None:
    follow("mountd says mounted, and a program doesn't see it")


@in_the_guest
def test_busy() -> None:
    reconcile('user = "node"')
    with running("sh", "-c", f"cd {TARGET}; echo; exec cat") as process:
        told = shell("", "mountd unmount workspace")
    assert f"is in use by cat (pid {process.pid})" in told
    follow('"Device or resource busy"')
    assert not TARGET.exists()


# what takes a machine


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Container]:
    """A machine with a manifest, on which nobody has enabled the unit."""
    machines = Machines(tmp_path_factory.mktemp("machines"))
    run("chroot", str(machines.tree), "systemctl", "disable", "mountd")
    (machines.tree / "etc/mountd.toml").write_text(manifest('user = "node"', source=THERE))
    with machines.booted() as machine:
        machine.folder(str(THERE))
        yield machine


def follow_on(machine: Container, heading: str) -> None:
    """The same as `follow`, on a machine."""

    def type_there(_: str, line: str) -> str:
        return machine.call("sh", "-c", f"exec 2>&1; {line}").out

    play(PAGE[heading], machine.root, type_there)


def test_after_a_reboot(machine: Container) -> None:
    follow_on(machine, "After a reboot nothing is mounted")
    assert owner(machine / str(TARGET)) == (1000, 1000)


def test_usermod(machine: Container) -> None:
    machine.run("systemctl", "enable", "--now", "mountd")
    follow_on(machine, "usermod has changed the owner of the host's files")
    machine.run("systemctl", "stop", "mountd")
    machine.run("mountd", "unmount", "--all")
    machine.run("usermod", "--uid", "1000", "node")
    machine.run("systemctl", "start", "mountd")


def test_a_service_before_the_mount(machine: Container) -> None:
    machine.run("systemctl", "start", "mountd")
    machine.run("systemctl", "stop", "mountd")
    machine.run("mountd", "unmount", "--all")
    service = f"[Service]\nType=oneshot\nExecStart=ls {TARGET}\n"
    machine.write("/run/systemd/system/app.service", service)
    machine.run("systemctl", "start", "app")
    assert not printed(machine, "app"), "the volume was there"
    machine.write("/etc/mountd.toml", manifest('user = "missing"', source=THERE))
    drop_in = (PROJECT / "examples/workload.conf").read_text()
    assert drop_in.splitlines()[-1] == f"AssertPathIsMountPoint={TARGET}"
    machine.write("/etc/systemd/system/app.service.d/mountd.conf", drop_in)
    machine.run("systemctl", "daemon-reload")
    follow_on(machine, "A service started before the mount")
    machine.write("/etc/mountd.toml", manifest('user = "node"', source=THERE))
    machine.run("systemctl", "reload", "mountd")
    machine.run("systemctl", "start", "app")
    assert printed(machine, "app") == ["hello"]


def printed(machine: Container, unit: str) -> list[str]:
    """What a service printed."""
    return [each["MESSAGE"] for each in machine.journal(f"_SYSTEMD_UNIT={unit}.service")]


@pytest.mark.parametrize(
    ("line", "is_seen"), [("PrivateTmp=yes", True), ("MountFlags=private", False)]
)
def test_a_program_in_another_namespace(machine: Container, line: str, is_seen: bool) -> None:
    machine.write("/etc/mountd.toml", manifest('user = "node"', source=THERE))
    machine.run("systemctl", "stop", "mountd")
    machine.run("mountd", "unmount", "--all")
    service = f"[Service]\n{line}\nExecStart=sleep 1000\n"
    machine.write("/run/systemd/system/lasting.service", service)
    machine.run("systemctl", "daemon-reload")
    machine.run("systemctl", "start", "lasting")
    machine.run("mountd", "reconcile")
    assert seen_by(machine, "lasting") == ("hello\n" if is_seen else "")
    machine.run("systemctl", "restart", "lasting")
    assert seen_by(machine, "lasting") == "hello\n"
    machine.run("systemctl", "stop", "lasting")


def seen_by(machine: Container, unit: str) -> str:
    """What a service's main process sees at the target."""
    pid = machine.show(unit, "MainPID")
    return machine.run("nsenter", "--target", pid, "--mount", "ls", str(TARGET))


def test_each_section_is_followed_by_a_test() -> None:
    followed = re.findall(
        r"^ +follow(?:_on\(machine, |\()(.+)\)$", Path(__file__).read_text(), re.MULTILINE
    )
    assert sorted(map(ast.literal_eval, followed)) == sorted(PAGE)
