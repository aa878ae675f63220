"""A Debian 13 machine with mountd on it, booted by systemd-nspawn in less than a second."""

import json
import os
import secrets
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from package import package
from world import Mount, Result, run

from debian import debian_13

_BOOT = """
tree=$1 root=$2 name=$3; shift 3
for each in "" systemd unified; do
    group=/sys/fs/cgroup/$each/$name
    [ -e /sys/fs/cgroup/$each/cgroup.procs ] || continue
    mkdir "$group"
    echo 0 >"$group/cgroup.procs"
done
mount -t tmpfs -o mode=755 tmpfs "$root"
cp -a "$tree/." "$root"
exec systemd-nspawn --quiet --directory="$root" --machine="$name" --hostname=guest "$@"
"""
_LONG = 300.0


def until(holds: Callable[[], Any], what: str = "", seconds: float = _LONG) -> Any:
    """Wait until this holds, and return what it says then."""
    deadline = time.monotonic() + seconds
    while not (found := holds()):
        assert time.monotonic() < deadline, f"after {seconds:.0f} s: {what or holds}"
        time.sleep(0.02)
    return found


class Container:
    """A booted machine. Its files are below `root`, for as long as it runs."""

    def __init__(self, pid: int, journal: Path) -> None:
        self.pid = pid
        """Of its systemd, as this machine has it."""
        self.root = Path(f"/proc/{pid}/root")
        self._journal = journal

    def __truediv__(self, path: str) -> Path:
        return self.root / path.lstrip("/")

    def command(self, *words: str) -> list[str]:
        """What runs a program in it, as root, with all privileges."""
        return ["nsenter", "--target", str(self.pid), "--all", "--", *words]

    def call(self, *words: str, seconds: float = 2 * _LONG) -> Result:
        """Run a program in it, as root, with a shell's environment and all privileges."""
        done = subprocess.run(
            self.command(*words),
            capture_output=True,
            text=True,
            check=False,
            stdin=subprocess.DEVNULL,
            timeout=seconds,
            env={"PATH": "/usr/sbin:/usr/bin", "LANG": "C.UTF-8"},
        )
        return Result(done.returncode, done.stdout, done.stderr)

    def run(self, *words: str) -> str:
        """The same, which must succeed; return what it prints."""
        result = self.call(*words)
        assert result.status == 0, f"{words}: {result.status}: {result.out}{result.err}"
        return result.out

    def run_as_unit(self, options: Sequence[str], *words: str) -> Result:
        """Run a program as systemd would start it, with these of systemd-run's options."""
        start = ["systemd-run", "--quiet", "--wait", "--pipe", "--collect", *options]
        return self.call(*start, "--", *words)

    def show(self, unit: str, name: str) -> str:
        """A property of a unit."""
        return self.run("systemctl", "show", "--value", "--property", name, unit).strip()

    def write(self, path: str, text: str) -> None:
        """Write a file as most programs do: anew, over what is there."""
        (self / path).parent.mkdir(parents=True, exist_ok=True)
        (self / path).write_text(text)

    def folder(self, path: str, uid: int = 501, gid: int = 20) -> Path:
        """A folder with a file `hello` in it, both of this owner."""
        made = self / path
        made.mkdir(parents=True)
        (made / "hello").write_text("hello\n")
        for each in (made, made / "hello"):
            os.chown(each, uid, gid)
        return made

    def mounts(self) -> list[Mount]:
        """The mounts that its systemd sees, as mountinfo has them."""
        found = []
        for line in Path(f"/proc/{self.pid}/mountinfo").read_text().splitlines():
            number, _, _, root, point, options, *tags = line.split()
            is_shared = any(each.startswith("shared:") for each in tags[: tags.index("-")])
            found.append(Mount(number, point, root, set(options.split(",")), is_shared))
        return found

    def journal(self, *matches: str) -> list[dict[str, Any]]:
        """What its journal has, oldest first.

        When it runs no more this machine reads it; Debian 12's journalctl takes no matches after a
        cursor, but leaves one record out.
        """
        words = ["journalctl", "-o", "json", "--all", *matches]
        if self.root.exists():
            self.run("journalctl", "--sync")
            told = self.run(*words)
        else:
            told = run(*words, "--directory", str(self._journal))
        return [json.loads(line) for line in told.splitlines()]


class Machines:
    """Boots containers, each from a copy of a root filesystem, in a folder that is ours.

    `more`: Debian packages that they have besides what mountd needs.
    """

    def __init__(self, place: Path, *more: str) -> None:
        self._place = place
        self._tree = place / "tree"
        self._tree.mkdir()
        run("tar", "-xf", str(debian_13(*more)), "-C", str(self._tree))
        _install(self._tree)

    @property
    def tree(self) -> Path:
        """The root filesystem that all begin from."""
        return self._tree

    @contextmanager
    def booted(self, *options: str, is_filtered: bool = False) -> Iterator[Container]:
        """A machine that has booted, with these of systemd-nspawn's options.

        `is_filtered`: what its systemd starts gets ENOSYS from the newer system calls.
        """
        name = f"mountd-{secrets.token_hex(4)}"
        place = self._place / name
        for each in ("journal", "root"):
            (place / each).mkdir(parents=True)
        with (place / "console").open("wb") as console:
            # a pid namespace, for a container outlives a systemd-nspawn that is killed
            process = subprocess.Popen(
                [
                    *("setpriv", "--pdeathsig", "KILL"),
                    *("unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"),
                    *("sh", "-euc", _BOOT, "sh", self._tree, place / "root", name),
                    *("--boot", "--register=no", "--keep-unit", "--console=pipe"),
                    *("--private-network", "--link-journal=no", "--bind=/dev/fuse"),
                    f"--bind={place}/journal:/var/log/journal",
                    *options,
                ],
                stdin=subprocess.DEVNULL,
                stdout=console,
                stderr=console,
                env=dict(os.environ) if is_filtered else {**os.environ, "SYSTEMD_SECCOMP": "0"},
            )
        try:
            container = Container(self._systemd_of(process, place), place / "journal")
            until(lambda: _has_booted(container), "it has booted")
            yield container
        finally:
            for pid in _children(process.pid):
                os.kill(pid, 9)  # the first of its pid namespace: all others go with it
            process.wait(_LONG)
            _remove_groups(name)
            shutil.rmtree(place)

    def _systemd_of(self, process: subprocess.Popen[bytes], place: Path) -> int:
        def find() -> list[int]:
            said = (place / "console").read_text(errors="replace")
            assert process.poll() is None, f"it doesn't boot: {said}"
            started = (inner for each in _children(process.pid) for inner in _children(each))
            return [pid for pid in started if _is_first(pid)]

        return int(until(find, "a systemd was started")[0])


def _install(tree: Path) -> None:
    """Have the package there, as an image's builder has."""
    shutil.copy(package().deb, tree / "mountd.deb")
    run("chroot", str(tree), "dpkg", "--install", "/mountd.deb")
    (tree / "mountd.deb").unlink()


def _children(pid: int) -> list[int]:
    try:
        return [int(each) for each in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except (FileNotFoundError, ProcessLookupError):
        return []


def _is_first(pid: int) -> bool:
    """Whether it has run systemd, which is the first of the container's pid namespace."""
    try:
        return Path(f"/proc/{pid}/comm").read_text() == "systemd\n"
    except (FileNotFoundError, ProcessLookupError):
        return False


def _has_booted(container: Container) -> bool:
    state = container.call("systemctl", "is-system-running").out.strip()
    return state in ("running", "degraded")


def _remove_groups(name: str) -> None:
    groups = [f"/sys/fs/cgroup/{hierarchy}/{name}" for hierarchy in ("", "systemd", "unified")]
    until(lambda: all(map(_is_removed, groups)), f"{name}'s groups are empty")


def _is_removed(group: str) -> bool:
    try:
        for folder, _, _ in os.walk(group, topdown=False):
            os.rmdir(folder)
    except OSError:  # its last process is not gone yet
        return False
    return True
