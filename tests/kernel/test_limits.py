"""A limit that is reached is told with the number that is in force and the knob that raises it."""

import os
import resource
from errno import EMFILE, ENFILE, ENOENT, ENOSPC
from pathlib import Path

import pytest
from world import MOUNTD, World

from mountd.core.words.faults import Limit, raising
from mountd.kernel.cause import fault_of
from mountd.kernel.limits import Kind, NoThreadError, hint_of, hint_on, limits_on

_OPEN_FILES = "the limit on open files (`ulimit -n`, LimitNOFILE=)"


def _sysctl(name: str) -> str:
    return Path("/proc/sys", *name.split(".")).read_text().strip()


@pytest.mark.parametrize(
    ("kind", "sysctl"),
    [
        ("all files", "fs.file-max"),
        ("mounts", "fs.mount-max"),
        ("user namespaces", "user.max_user_namespaces"),
    ],
)
def test_a_limit_of_the_machine_is_told_with_its_number(kind: Kind, sysctl: str) -> None:
    assert hint_on(kind) == f"raise the sysctl {sysctl}, which is {_sysctl(sysctl)}"


def test_open_files_are_told_with_the_number_of_this_process() -> None:
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    fault = fault_of(OSError(EMFILE, os.strerror(EMFILE)), "look at /a")
    assert fault.code == "limit"
    assert (
        fault.hint == f"raise the limit on open files (`ulimit -n`, LimitNOFILE=), which is {soft}"
    )


def test_only_what_is_a_limit_has_such_a_hint() -> None:
    assert hint_of(OSError(ENOENT, "")) is None
    assert hint_of(OSError(ENOSPC, "")) is None
    assert "fs.file-max" in (hint_of(OSError(ENFILE, "")) or "")


def test_threads_are_told_with_all_that_may_limit_them_or_with_what_does() -> None:
    found = limits_on("threads")
    assert found
    assert hint_of(NoThreadError()) == raising(*found)
    assert fault_of(NoThreadError(), "look at /a").code == "limit"


def test_a_number_that_can_not_be_read_is_left_out() -> None:
    assert raising(Limit("the sysctl a.b", None)) == "raise the sysctl a.b"
    two = raising(Limit("the sysctl a.b", 3), Limit("pids.max", 4))
    assert two == "raise the sysctl a.b, which is 3, or pids.max, which is 4"


@pytest.mark.fault(1, "from the first descriptor on")
@pytest.mark.parametrize("files", [5, 6, 7, 8, 9])
def test_descriptors_that_run_out_are_told_with_the_limit_in_force(
    world: World, files: int
) -> None:
    world.folder("source")
    world.volumes(work={"source": world / "source", "target": world / "work", "user": "1000:1000"})
    words = [MOUNTD, "reconcile", "-f", world.manifest, "--state-dir", world.state]
    done = world.run(["sh", "-c", f'ulimit -n {files}; exec "$@"', "sh", *words])
    assert done.status or files > 6, "so few can't be enough"
    is_told = f"{_OPEN_FILES}, which is {files}\n" in done.err
    assert is_told == bool(done.status), done.err
    assert bool(world.mounts()) == (done.status == 0)
