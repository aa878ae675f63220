"""`mountd watch` in a test's world: started, fed with events, asked what it told."""

import ctypes
import fcntl
import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import forks
from old_kernel import Kernel
from world import MOUNTD, World, run

from mountd.kernel.syscalls import Fd

_ENVIRONMENT = {key: text for key, text in os.environ.items() if key != "INVOCATION_ID"}
"""Not as a unit of systemd's: those are refused in a mount namespace of their own."""
PATIENCE = 120.0
"""Seconds after which what was to happen is held not to: the machine may be busy."""
# what mountd has just mounted it may still be looking at
_PATIENTLY = """umount() {
    for try in $(seq 5000); do
        said=$(command umount "$@" 2>&1) && return
        case $said in *busy*) sleep 0.02 ;; *) break ;; esac
    done
    echo "$said" >&2
    return 1
}
"""


def eventually(holds: Callable[[], object], what: str = "") -> None:
    """Wait until this holds, looking often, for what is too short is seen too."""
    deadline = time.monotonic() + PATIENCE
    while not _is_so(holds):
        assert time.monotonic() < deadline, f"never: {what or holds}"
        time.sleep(0.005)


def _is_so(holds: Callable[[], object]) -> bool:
    try:
        return bool(holds())
    except OSError:
        return False


def steadily(holds: Callable[[], object], seconds: float = 0.4) -> None:
    """See that this holds for several times as long as an edit takes to be acted on."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        assert holds()


class Watcher:
    """A running `mountd watch`, and the systemd that the test is to it."""

    def __init__(
        self, process: forks.Forked | subprocess.Popen[str], log: Path, notify: socket.socket
    ) -> None:
        self.process = process
        self._log = log
        self._notify = notify
        self.told: list[str] = []
        """The lines that systemd was sent, as far as they were read."""

    @property
    def log(self) -> str:
        """What it has told so far."""
        text = self._log.read_text()
        assert "Traceback" not in text, text
        return text

    def tells(self, text: str, times: int) -> None:
        """See that it has told this so often, and no oftener: of a mount, after that is there."""
        eventually(lambda: self.log.count(text) >= times, f"{times} × {text!r}")
        assert self.log.count(text) == times, self.log

    @property
    def status(self) -> str:
        """The latest STATUS= that it sent."""
        self.hear()
        return next(line[7:] for line in reversed(self.told) if line.startswith("STATUS="))

    def hear(self) -> list[str]:
        """Read what it has sent to systemd, and return all of it."""
        while True:
            try:
                self.told += self._notify.recv(65536).decode().splitlines()
            except BlockingIOError:
                return self.told

    def reload(self) -> None:
        """As `systemctl reload` does: it returns when the new state is in force."""
        count = self.hear().count("READY=1")
        self.process.send_signal(signal.SIGHUP)
        eventually(lambda: self.hear().count("READY=1") > count, "READY=1 after SIGHUP")

    def stop(self) -> int:
        """End it by SIGTERM, and return the exit status."""
        self.process.terminate()
        return self.process.wait(PATIENCE)


def _start(
    command: Sequence[str], stdout: IO[Any], stderr: IO[Any], env: Mapping[str, str]
) -> subprocess.Popen[str]:
    """Start what can't be forked."""
    return subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=stdout, stderr=stderr, text=True, env=env
    )


@contextmanager
def watch(
    world: World,
    *words: str,
    env: Mapping[str, str] | None = None,
    kernel: Kernel | None = None,
    is_ready: bool = True,
) -> Iterator[Watcher]:
    """`mountd watch` on a world's manifest; `is_ready`: once it has told systemd READY=1."""
    path, log = world / "notify", world / "watch.log"
    path.unlink(missing_ok=True)
    command = [MOUNTD, "watch", "-f", world.manifest, "--state-dir", world.state, *words]
    command = kernel.command(*command) if kernel else command
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify, log.open("w") as file:
        notify.bind(str(path))
        notify.setblocking(False)
        given = {**_ENVIRONMENT, "NOTIFY_SOCKET": str(path), **(env or {})}
        start = forks.start if forks.can_be_forked(command, env or {}) else _start
        with start(command, file, file, given) as process:
            watcher = Watcher(process, log, notify)
            try:
                if is_ready:
                    eventually(
                        lambda: "READY=1" in watcher.hear() or process.poll() is not None, "READY=1"
                    )
                    assert process.poll() is None, watcher.log
                yield watcher
            except BaseException:
                print(log.read_text())  # pytest shows it
                raise
            finally:
                process.kill()


def comes_to_say(watcher: Watcher, status: str) -> None:
    eventually(lambda: watcher.status.startswith(status), f"{status!r}")


def do(world: World, script: str) -> None:
    """Run this in the world, as somebody else."""
    run("sh", "-ec", f"{_PATIENTLY}cd {world.path}; {script}")


@contextmanager
def counted_passes(world: World) -> Iterator[Callable[[], int]]:
    """How often the lock that each pass takes has been opened: passes, and tries to make one."""
    libc = ctypes.CDLL(None, use_errno=True)
    with Fd(libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)) as inotify:
        lock = f"{world.state}/lock".encode()
        assert libc.inotify_add_watch(inotify.number, lock, 0x20 | 0x08) > 0  # IN_OPEN, IN_CLOSE
        count = 0

        def passes() -> int:
            nonlocal count
            try:
                while data := os.read(inotify.number, 65536):
                    count += sum(data[at + 4] & 0x20 != 0 for at in range(0, len(data), 16))
            except BlockingIOError:
                pass
            return count

        yield passes


@contextmanager
def lock_held(world: World) -> Iterator[None]:
    """Another pass runs, as far as the lock tells."""
    Path(world.state).mkdir(exist_ok=True)
    with open(f"{world.state}/lock", "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def is_locked(world: World) -> bool:
    """Whether a pass runs."""
    with open(f"{world.state}/lock") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False
