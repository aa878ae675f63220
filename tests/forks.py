"""mountd without the start of Python, which is most of a short test: see fork_server.py."""

import json
import os
import select
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

import kill_at
import old_kernel

MOUNTD = str(Path(sys.executable).parent / "mountd")
_OLDER = [sys.executable, old_kernel.__file__]
_KILLED = [sys.executable, kill_at.__file__]
_SERVER = str(Path(__file__).with_name("fork_server.py"))
_OUTSIDE = os.open("/proc/self/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
"""Where the parents are started: in a test's own namespace they would keep it, and its devices."""


class Forked:
    """A command that was started, as subprocess.Popen has it."""

    def __init__(self, pid: int, process: int, end: int) -> None:
        self.pid = pid
        self.returncode: int | None = None
        self._process = process
        self._end = end

    def poll(self) -> int | None:
        """How it ended, None while it runs."""
        return self._look(0)

    def wait(self, timeout: float | None = None) -> int:
        """Wait for its end, and return how it ended."""
        status = self._look(timeout)
        if status is None:
            raise subprocess.TimeoutExpired("mountd", timeout or 0)
        return status

    def _look(self, timeout: float | None) -> int | None:
        if self.returncode is None and select.select([self._end], [], [], timeout)[0]:
            self.returncode = int(os.read(self._end, 16))
            os.close(self._end)
            os.close(self._process)
        return self.returncode

    def send_signal(self, number: int) -> None:
        """Send it a signal, unless it has ended."""
        if self.poll() is None:
            try:
                signal.pidfd_send_signal(self._process, number)
            except ProcessLookupError:  # it is just being waited for
                return

    def terminate(self) -> None:
        """Send it SIGTERM."""
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """Send it SIGKILL."""
        self.send_signal(signal.SIGKILL)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.wait()


class _Parent:
    """The process whose forks the commands are, with what makes a kernel an older one around it."""

    def __init__(self, around: Sequence[str]) -> None:
        self._ours, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._lock = threading.Lock()
        command = [*around, sys.executable, "-Xutf8", "-P", _SERVER, str(its.fileno())]
        with its:
            self.process = subprocess.Popen(
                ["nsenter", f"--mount=/proc/self/fd/{_OUTSIDE}", "--", *command],
                pass_fds=[its.fileno(), _OUTSIDE],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
            )

    def fork(self, request: object, numbers: Sequence[int]) -> Forked:
        """Have it start a command, which gets these as its descriptors from 0 on."""
        namespace = os.open("/proc/thread-self/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
        folder = os.open(".", os.O_PATH | os.O_CLOEXEC)
        asked = os.memfd_create("asked")
        ours, its = os.pipe()
        os.write(asked, json.dumps(request).encode())
        try:
            with self._lock:
                given = [asked, namespace, folder, its, *numbers]
                socket.send_fds(self._ours, [b"fork"], given)
                told, (process,), _, _ = socket.recv_fds(self._ours, 16, 1)
        finally:
            for each in (namespace, folder, asked, its):
                os.close(each)
        return Forked(int(told), process, ours)


_parents: dict[str, _Parent] = {}


def can_be_forked(command: Sequence[str], env: Mapping[str, str]) -> bool:
    """Whether a fork does the same: mountd alone, on an older kernel or killed, by our Python."""
    if MOUNTD not in command:
        return False
    around = list(command[: command.index(MOUNTD)])
    is_known = around[:-1] == _OLDER or around[:-2] == _KILLED
    return (not around or is_known) and not any(
        name.startswith(("PYTHON", "LC_", "LANG")) for name in env
    )


def start(
    command: Sequence[str], stdout: IO[Any], stderr: IO[Any], env: Mapping[str, str]
) -> Forked:
    """Start what can be forked, with nothing on stdin."""
    around = list(command[: command.index(MOUNTD)])
    words = command[len(around) :]
    killed = around[2:] if around[:-2] == _KILLED else []
    around = [] if killed else around
    kernel = around[-1] if around else ""
    if kernel not in _parents:
        _parents[kernel] = _Parent(around)
    with open(os.devnull) as stdin:
        request = {"words": words, "env": dict(env), "killed": killed}
        return _parents[kernel].fork(request, [each.fileno() for each in (stdin, stdout, stderr)])


def run(command: Sequence[str], env: Mapping[str, str], seconds: float) -> tuple[int, str, str]:
    """Run what can be forked: how it ended, and what it wrote to stdout and stderr."""
    with (
        open(os.memfd_create("stdout"), "r+b") as stdout,
        open(os.memfd_create("stderr"), "r+b") as stderr,
    ):
        process = start(command, stdout, stderr, env)
        try:
            status = process.wait(seconds)
        except subprocess.TimeoutExpired:
            process.kill()
            raise
        return status, _text(stdout), _text(stderr)


def _text(file: IO[bytes]) -> str:
    """All that was written to a file, as subprocess has it."""
    file.seek(0)
    return file.read().decode().replace("\r\n", "\n").replace("\r", "\n")
