"""A journald of the test's own, and what it keeps of mountd."""

import json
import os
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from world import MOUNTD, Result, World, run

SOCKETS = "/run/systemd/journal"
_CONF = """[Journal]
Storage=volatile
ReadKMsg=no
Audit=no
RateLimitIntervalSec=0
SplitMode=none
"""


class Journal:
    """A journald of the test's own, and mountd run as a unit of systemd's would be."""

    def __init__(self, world: World) -> None:
        self._world = world

    def mountd(self, *words: str, tells_stream: bool = True, **env: str) -> Result:
        """Run it with its stderr connected to the journal, as $JOURNAL_STREAM says."""
        with socket.socket(socket.AF_UNIX) as stream:
            stream.connect(f"{SOCKETS}/stdout")
            # identifier, unit, priority, whether lines begin with `<N>`, three forwards
            stream.sendall(b"mountd\n\n6\n1\n0\n0\n0\n")
            seen = os.fstat(stream.fileno())
            if tells_stream:
                env = {"JOURNAL_STREAM": f"{seen.st_dev}:{seen.st_ino}", **env}
            place = ["-f", self._world.manifest, "--state-dir", self._world.state]
            done = subprocess.run(
                [MOUNTD, *words, *place],
                stdout=subprocess.PIPE,
                stderr=stream.fileno(),
                stdin=subprocess.DEVNULL,
                text=True,
                check=False,
                env={**os.environ, **env},
            )
        return Result(done.returncode, done.stdout, "")

    def records(self) -> list[dict[str, Any]]:
        """All that mountd has told so far, by record or by line."""
        run("journalctl", "--sync")
        text = run("journalctl", "--directory", "/run/log/journal", "-o", "json", "--all")
        records = [json.loads(line) for line in text.splitlines()]
        return [each for each in records if each.get("SYSLOG_IDENTIFIER") == "mountd"]


@contextmanager
def journald(world: World) -> Iterator[Journal]:
    """A journald that is ready, in a /run of its own."""
    run("mount", "-t", "tmpfs", "-o", "mode=755", "tmpfs", "/run")
    for folder in ("journald.conf.d", "journal"):
        Path("/run/systemd", folder).mkdir(parents=True)
    Path("/run/log/journal").mkdir(parents=True)
    Path("/run/systemd/journald.conf.d/test.conf").write_text(_CONF)
    if not Path("/etc/machine-id").exists() or not Path("/etc/machine-id").read_text().strip():
        Path("/run/machine-id").write_text(f"{'0123456789abcdef' * 2}\n")
        run("mount", "--bind", "/run/machine-id", "/etc/machine-id")
    ready, notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM), "/run/notify"
    with ready:
        ready.bind(notify)
        ready.settimeout(300)
        with subprocess.Popen(
            ["/usr/lib/systemd/systemd-journald"],
            env={**os.environ, "NOTIFY_SOCKET": notify},
            stderr=subprocess.DEVNULL,
        ) as process:
            try:
                while b"READY=1" not in ready.recv(4096):
                    pass
                yield Journal(world)
            finally:
                process.terminate()
