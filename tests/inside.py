"""What runs in a guest: acts as its users do, and tells what they see, a JSON line at a time.

`inside.py SCENE`, as root; it needs Python alone.
"""

import errno
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

NODE = 1000
# The one port that there is; /dev/virtio-ports, where it has its name, is made by udev.
(_PORT_AT,) = Path("/dev").glob("vport*p*")
_PORT = _PORT_AT.open("w", buffering=1)  # as root, and once
_CREDENTIALS = os.environ.pop("CREDENTIALS_DIRECTORY")  # or mountd looks there for its own
_MANIFEST = Path("/etc/mountd.toml")
_LONG = 600.0


def tell(name: str, value: Any) -> None:
    """Have the machine outside know this."""
    _PORT.write(json.dumps([name, value]) + "\n")


def call(*words: str) -> dict[str, Any]:
    """Run a program; its exit status and what it says."""
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    return {"status": done.returncode, "out": done.stdout, "err": done.stderr}


def until(holds: Callable[[], Any]) -> Any:
    """Wait for it, and return what it says."""
    deadline = time.monotonic() + _LONG
    while not (found := holds()):
        if time.monotonic() > deadline:
            raise TimeoutError(holds)
        time.sleep(0.1)
    return found


@contextmanager
def acting_as(uid: int) -> Iterator[None]:
    """Do what follows with this user's ids, and none of root's capabilities."""
    os.setgroups([])
    os.setegid(uid)
    os.seteuid(uid)
    try:
        yield
    finally:
        os.seteuid(0)
        os.setegid(0)


def attempt(action: Callable[..., Any], *arguments: Any) -> str:
    """`done`, or why not, as the errno's name."""
    try:
        action(*arguments)
    except OSError as error:
        return errno.errorcode[error.errno or 0]
    return "done"


def write(path: str) -> None:
    """Make a file, or write over it."""
    Path(path).write_text(f"{path}\n")


def read(path: str) -> None:
    """Read a file, or a folder's names."""
    if os.path.isdir(path):
        os.listdir(path)
    else:
        Path(path).read_bytes()


def owners(folder: str) -> dict[str, list[int]]:
    """Whose a folder is, and everything in it, by paths below it."""
    found = [folder]
    for above, folders, files in os.walk(folder):
        found += [f"{above}/{each}" for each in (*folders, *files)]
    stats = {os.path.relpath(each, folder): os.lstat(each) for each in found}
    return {path: [each.st_uid, each.st_gid] for path, each in stats.items()}


def mounts() -> list[dict[str, str]]:
    """The mount table."""
    found = []
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        words = line.split()
        end = words.index("-")
        found.append(
            {
                "id": words[0],
                "point": words[4],
                "root": words[3],
                "options": words[5],
                "type": words[end + 1],
                "source": words[end + 2],
            }
        )
    return found


def mounted(point: str) -> str:
    """The id of the mount that lies there; nothing where none does."""
    return next((each["id"] for each in reversed(mounts()) if each["point"] == point), "")


def tell_the_journal() -> None:
    """What mountd told it in this boot."""
    call("journalctl", "--sync")
    told = call("journalctl", "-b", "-u", "mountd", "-o", "json")["out"]
    kept = ("MESSAGE", "MESSAGE_ID", "PRIORITY", "ERRNO")
    records = [
        {name: text for name, text in record.items() if name in kept or name[:7] == "MOUNTD_"}
        for record in map(json.loads, told.splitlines())
    ]
    tell("journal", records)


def tell_what_is_mounted() -> None:
    """Mountd's own word, and the mount table."""

    def status() -> str:
        out: str = call("mountd", "status", "--json")["out"]
        return "" if "not-answering" in out else out

    # an emulated machine on a busy one may take longer for an answer than mountd waits
    tell("status", json.loads(until(status)))
    tell("mounts", mounts())


# the scenes


def daemons() -> None:
    """Shares of a daemon that grants idmapped mounts, and of one that doesn't."""
    tell_what_is_mounted()
    tell("owners", {each: owners(f"/srv/{each}") for each in ("good", "old")})
    tell("strict", mounted("/srv/strict"))
    cases = [each for each in os.listdir("/srv") if each.startswith("case-")]
    tell("cases", {each: owners(f"/srv/{each}") for each in cases})
    with acting_as(NODE):
        tell("node reads case 8", attempt(read, "/srv/case-8"))
    with acting_as(70000):
        tell("70000 writes in case 13", attempt(write, "/srv/case-13/70000:70000/new"))
    twelve = Path("/root/twelve.toml")
    keys = {"source": "/srv", "target": "/opt", "user": "1000:1000", "owner": "4294967295:20"}
    lines = [f'{key} = "{value}"' for key, value in keys.items()]
    twelve.write_text("\n".join(["[volumes.case-12]", *lines]))
    tell("case 12", call("mountd", "check", "--manifest", str(twelve)))
    tell_the_journal()


def first_boot() -> None:
    """All that a volume promises, by the users who use it."""
    tell("blame", call("systemd-analyze", "blame")["out"])
    tell_what_is_mounted()
    work = "/home/node/workspace"
    tell("owners", owners(work))
    with acting_as(NODE):
        tell(
            "node",
            {
                "reads": attempt(read, f"{work}/hello"),
                "reads a folder of 0700": attempt(read, f"{work}/private"),
                "writes a file of its own": attempt(write, f"{work}/hello"),
                "makes a file": attempt(write, f"{work}/by-node"),
                "makes a file in a folder of 0700": attempt(write, f"{work}/private/by-node"),
                "makes a folder": attempt(os.mkdir, f"{work}/folder-by-node"),
                "makes a symlink": attempt(os.symlink, "hello", f"{work}/symlink-by-node"),
                "makes a link": attempt(os.link, f"{work}/hello", f"{work}/link-by-node"),
                "renames": attempt(os.rename, f"{work}/rename", f"{work}/renamed-by-node"),
                "changes a mode": attempt(os.chmod, f"{work}/by-node", 0o640),
                "writes a file of root's": attempt(write, f"{work}/root"),
                "opens a device": attempt(read, f"{work}/device"),
                "reads read-only": attempt(read, "/srv/docs/page"),
                "writes read-only": attempt(write, "/srv/docs/page"),
                "makes a file read-only": attempt(write, "/srv/docs/by-node"),
                "writes the single file": attempt(write, "/srv/single"),
            },
        )
    as_node = ["setpriv", "--reuid=1000", "--regid=1000", "--clear-groups"]
    tell("who setuid root is", call(*as_node, f"{work}/setuid", "-u"))
    tell("root makes a file", attempt(write, f"{work}/by-root"))
    write(f"{work}/given-away")
    tell("root gives it away", attempt(os.chown, f"{work}/given-away", 2000, 2000))
    os.chmod("/home/node", 0o711)  # nobody else gets in, by Debian's useradd
    with acting_as(4000):
        third = attempt(write, f"{work}/open/by-third")
    tell("a third user makes a file", third)
    tell("owners after", owners(work))
    tell("single file", owners("/srv/single"))
    tell("build", owners("/var/cache/build"))

    _MANIFEST.write_text('[volumes.edited]\ntype = "virtiofs"\nsource = "workspace"\n'
                         'subdir = "edited"\ntarget = "/srv/edited"\nuser = "node"\n')  # fmt: skip
    until(lambda: mounted("/srv/edited"))
    tell("edited", owners("/srv/edited"))

    subprocess.run(["umount", "/var/cache/build"], check=True)
    until(lambda: mounted("/var/cache/build"))
    tell("back", owners("/var/cache/build"))

    tell("late before", mounted("/srv/late"))
    subprocess.run(["useradd", "--uid", "3000", "late"], check=True)
    until(lambda: mounted("/srv/late"))
    tell("late", owners("/srv/late"))
    tell("mounts at the end", mounts())
    tell("workload", call("systemctl", "show", "--property=Result,ActiveState", "workload"))
    tell_the_journal()


def second_boot() -> None:
    """The same disk after a power cycle."""
    tell_what_is_mounted()
    tell("owners", owners("/home/node/workspace"))
    tell(
        "others", {each: owners(each) for each in ("/srv/edited", "/srv/late", "/var/cache/build")}
    )
    with acting_as(NODE):
        tell("node makes a file", attempt(write, "/home/node/workspace/by-node-again"))
    tell("workload", call("systemctl", "show", "--property=Result,ActiveState", "workload"))
    tell_the_journal()


def sharing_user() -> None:
    """A share of a daemon that is 501:20 itself, and may do no more than that."""
    commands = json.loads(Path(_CREDENTIALS, "guest.commands").read_text())
    tell("commands", {each: call("sh", "-c", each)["out"] for each in commands})
    work = "/home/node/workspace"
    tell("owners", owners(work))
    with acting_as(NODE):
        tell(
            "node",
            {
                "writes": attempt(write, f"{work}/hello"),
                "makes a file": attempt(write, f"{work}/by-node"),
                "makes a folder": attempt(os.mkdir, f"{work}/folder-by-node"),
            },
        )
    tell("root makes a file", attempt(write, f"{work}/by-root"))
    tell("root gives it away", attempt(os.chown, f"{work}/by-root", 0, 0))
    for each in ("/home/node", work):
        os.chmod(each, 0o777)
    with acting_as(2000):
        tell("a third user makes a file", attempt(write, f"{work}/by-third"))
    tell("owners after", owners(work))
    tell_the_journal()


def old_kernel() -> None:
    """Linux 6.1: no idmapped virtiofs, no statmount, no mounting beneath."""
    tell("kernel", os.uname().release)
    tell_what_is_mounted()
    tell("owners", owners("/home/node/workspace"))
    os.mkdir("/srv/local")
    os.chown("/srv/local", 501, 20)
    volume = '[volumes.local]\nsource = "/srv/local"\ntarget = "/opt/local"\nuser = "{}"\n'
    _MANIFEST.write_text(volume.format("node"))
    until(lambda: mounted("/opt/local"))
    tell("local", owners("/opt/local"))
    tell_the_journal()
    call("systemctl", "stop", "mountd")
    _MANIFEST.write_text(volume.format("2000:2000"))
    tell("replaced", json.loads(call("mountd", "reconcile", "--json")["out"]))
    tell("local after", owners("/opt/local"))
    tell("mounts at the end", mounts())


def main() -> None:
    """Play a scene; that it came to its end is told last."""
    scenes = (daemons, first_boot, second_boot, sharing_user, old_kernel)
    {each.__name__: each for each in scenes}[sys.argv[1]]()
    tell("end", None)


main()
