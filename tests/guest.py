"""A guest in QEMU: the image of examples/guest-image, as that builds and boots it.

What it is told to do is inside.py, which it gets as a credential; what it tells comes by a port.
"""

import base64
import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from container import until
from debian_12 import debian_12
from documents import see_document
from package import PROJECT, package

from debian import CACHE
from mountd.report.journal import MESSAGE_IDS

EVENTS = {each: event for event, each in MESSAGE_IDS.items()}
EXAMPLE = PROJECT / "examples/guest-image"
_LIMIT = 1800.0  # a hundred times what a quiet machine needs
# QEMU's, before there is a systemd, where this machine left it no time.
_PANIC, _BEGUN = "Kernel panic - not syncing", "systemd["
_MOST_BOOTS = 3
# Debian 12's kernel has the port in a module, which nobody would load.
_LEAN = "modules-load=virtio_console " + " ".join(f"systemd.mask={each}" for each in (
    "systemd-udevd.service", "systemd-udevd-control.socket", "systemd-udevd-kernel.socket",
    "systemd-udev-trigger.service", "serial-getty@ttyS0.service",
))  # fmt: skip
_UNIT = """[Unit]
After=multi-user.target
[Service]
Type=oneshot
ImportCredential=guest.*
ExecStart=/usr/bin/python3 ${{CREDENTIALS_DIRECTORY}}/guest.inside {scene}
ExecStopPost=/usr/bin/systemctl --no-block poweroff
StandardOutput=journal+console
StandardError=journal+console
"""
# The example's `boot` as whoever shares runs it: root's files are out of reach, ours are in /mnt.
_BOOT = """
ids=$1; shift
mount -t tmpfs -o mode=755 tmpfs /mnt
while [ "$1" != -- ]; do
    mkdir "/mnt/$1"
    mount --bind "$2" "/mnt/$1"
    shift 2
done
shift
exec setpriv --reuid="${ids%:*}" --regid="${ids#*:}" --clear-groups /mnt/example/boot "$@"
"""


class Guest:
    """The image, and boots of it, in a folder that is ours."""

    def __init__(self, place: Path) -> None:
        place.chmod(0o711)
        self._place = place
        self._old = place / "debian-12"
        self._kernel = debian_12("linux-image-6.1.0-[0-9]+-cloud-amd64")
        for each in (self._kernel, debian_12("qemu-system-common")):
            subprocess.run(["dpkg-deb", "--extract", each, self._old], check=True)
        self.image = CACHE / "guest-image"
        self.image.mkdir(parents=True, exist_ok=True)
        self.build()

    def build(self) -> None:
        """Make the image, with Debian 12's kernel as a second one, unless it is there."""
        done = subprocess.run(
            [EXAMPLE / "build", self.image, self._kernel],
            env={**os.environ, "MOUNTD": str(package().deb)},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr

    def disk(self) -> Path:
        """A disk that keeps what is written to it."""
        disk = self._place / "disk.img"
        words = ["cp", "--sparse=always", str(self.image / "disk.img"), str(disk)]
        subprocess.run(words, check=True)
        return disk

    @property
    def old_kernel(self) -> Path:
        """Debian 12's, 6.1."""
        (found,) = self._old.glob("boot/vmlinuz-*")
        return found

    @contextmanager
    def old_daemon(self, tag: str, folder: Path) -> Iterator[list[str]]:
        """Debian 12's virtiofsd, of QEMU 7.2; yields QEMU's arguments for the share."""
        socket = self._place / f"{tag}.sock"
        program = self._old / "usr/lib/qemu/virtiofsd"
        options = ["-o", f"source={folder}", "-o", "sandbox=chroot"]
        with subprocess.Popen(
            [program, f"--socket-path={socket}", *options],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        ) as process:
            try:
                until(socket.exists, "the old daemon listens")
                chardev = f"socket,id={tag},path={self._seen(socket)}"
                yield ["-chardev", chardev, "-device", f"vhost-user-fs-pci,chardev={tag},tag={tag}"]
            finally:
                process.kill()  # it has ended with QEMU, or QEMU never came

    def boot(
        self,
        scene: str,
        manifest: str,
        shares: Mapping[str, Path],
        *,
        credentials: Mapping[str, str] | None = None,
        files: Mapping[str, str] | None = None,
        more: Sequence[str] = (),
        append: str = "",
        user: str = "0:0",
        is_lean: bool = False,
        **environment: Path,
    ) -> dict[str, Any]:
        """Boot, play a scene of inside.py, power off; what the guest told.

        `files`: what else lies in the folder that `{place}` is in `more`, QEMU's arguments;
        `append`: for the kernel's command line; `user`: who runs all of it, as uid:gid;
        `is_lean`: without udev, whose looking at all devices takes a third of an emulated boot;
        `environment`: for `boot`, as its first lines say.
        """
        place = Path(tempfile.mkdtemp(dir=self._place))
        place.chmod(0o777)
        inside = base64.b64encode((PROJECT / "tests/inside.py").read_bytes()).decode()
        given = {
            "io.systemd.credential.binary:guest.inside": inside,
            "io.systemd.credential:systemd.extra-unit.guest.service": _UNIT.format(scene=scene),
            **{f"io.systemd.credential:{name}": text for name, text in (credentials or {}).items()},
        }
        seen = self._seen(place)
        options = [each.format(place=seen) for each in more]
        for number, (name, text) in enumerate(given.items()):
            (place / f"credential-{number}").write_text(f"{name}={text}")
            options += ["-smbios", f"type=11,path={seen}/credential-{number}"]
        for name, text in {"manifest": manifest, **(files or {})}.items():
            (place / name).write_text(text)
        port = "virtserialport,chardev=result,name=result"
        options += ["-chardev", f"file,id=result,path={seen}/result"]
        options += ["-device", "virtio-serial-pci", "-device", port]
        # one processor: as the emulation of two patches the kernel's text, that may panic
        options += ["-smp", "1"]
        bound = {"guest": self._place, "example": EXAMPLE, "image": self.image, **shares}
        console = _run(
            [user, *(str(word) for bind in bound.items() for word in bind), "--"],
            [*(f"{tag}=/mnt/{tag}" for tag in shares), "--", *options],
            {
                "IMAGE": "/mnt/image",
                "MANIFEST": f"{seen}/manifest",
                "APPEND": f"systemd.wants=guest.service {_LEAN if is_lean else ''} {append}",
                **{name: self._seen(path) for name, path in environment.items()},
            },
        )
        told = place / "result"
        lines = told.read_text().splitlines() if told.exists() else []
        facts: dict[str, Any] = dict(json.loads(line) for line in lines)
        if "end" not in facts:
            kept = Path(tempfile.mkstemp(prefix="mountd-guest-", suffix=".log")[1])
            kept.write_text(console)
            raise AssertionError(f"{scene} didn't come to its end; the console: {kept}\n{facts}")
        shutil.rmtree(place)
        for fact in facts.values():
            if isinstance(fact, dict) and "pass_id" in fact:
                see_document(fact)
        return {**facts, "console": console}

    def _seen(self, path: Path) -> str:
        """Where `boot` has what lies in our folder."""
        return f"/mnt/guest/{path.relative_to(self._place)}"


def _run(binds: Sequence[str], words: Sequence[str], environment: Mapping[str, str]) -> str:
    """Boot, and return what was on the console; once more where QEMU broke the kernel."""
    console = ""
    for _ in range(_MOST_BOOTS):
        # First among all that run, for nothing takes as long; in a pid namespace, for the daemons.
        space = ["nice", "-n", "-10", "unshare", "--mount", "--pid", "--fork", "--kill-child"]
        with subprocess.Popen(
            ["setpriv", "--pdeathsig", "KILL", *space, "sh", "-euc", _BOOT, "sh", *binds, *words],
            env={"PATH": os.environ["PATH"], **environment},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
        ) as process:
            try:
                console = process.communicate(timeout=_LIMIT)[0]
            except subprocess.TimeoutExpired:
                process.kill()
                return f"{process.communicate()[0]}\nit was given {_LIMIT:.0f} s\n"
        if _PANIC not in console or _BEGUN in console:
            break
    return console


# what is shared, and what a guest told


def volume(name: str, **keys: Any) -> str:
    """A volume of the share `workspace`, at a target named after it, for node."""
    given = {"type": "virtiofs", "source": "workspace", "target": f"/srv/{name}", "user": "node"}
    lines = [f"{key} = {json.dumps(value)}" for key, value in (given | keys).items() if value]
    return "\n".join([f"[volumes.{name}]", *lines, ""])


def make(path: Path, uid: int = 501, gid: int = 20, mode: int = 0o755) -> Path:
    """A folder of this owner, or, where the mode says so, a file."""
    if mode & 0o111:
        path.mkdir()
    else:
        path.write_text(f"{path.name}\n")
    os.chown(path, uid, gid)
    path.chmod(mode)
    return path


def records(told: dict[str, Any], event: str, name: str) -> list[dict[str, str]]:
    """What the journal has of a kind about a volume."""
    return [
        each
        for each in told["journal"]
        if EVENTS.get(each.get("MESSAGE_ID", "")) == event and each.get("MOUNTD_VOLUME") == name
    ]


def at(told: dict[str, Any], point: str, when: str = "mounts") -> list[dict[str, str]]:
    """What the mount table has at a target."""
    return [each for each in told[when] if each["point"] == point]
