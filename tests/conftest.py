"""Every test that mounts does so in a mount namespace of its own, which takes its mounts along."""

import ctypes
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from typing import Any

import pytest
from golden import GOLDEN, Golden
from hypothesis import HealthCheck, settings
from journald import Journal, journald
from world import World, run

_libc = ctypes.CDLL(None, use_errno=True)
_CLONE_NEWNS = 0x20000
_MS_REC, _MS_PRIVATE, _MS_SHARED = 0x4000, 1 << 18, 1 << 20


_LONGEST = {
    f"test_{each}.py": place
    for place, each in enumerate(("guest", "guest_old", "fleet", "unit", "late", "served"))
}

# A machine may be busy, so no example is judged by its time. They are the same in each run; whoever
# looks for others says `--hypothesis-profile=default`.
settings.register_profile(
    "the suite's", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow]
)
settings.register_profile("fewer", settings.get_profile("the suite's"), max_examples=20)
settings.load_profile("the suite's")


def pytest_configure(config: pytest.Config) -> None:
    """Have a folder for temporary files that no other pytest knows, for it would remove that."""
    if not config.option.basetemp:
        config.option.basetemp = tempfile.mkdtemp(prefix="mountd-tests-")
        config.add_cleanup(lambda: shutil.rmtree(config.option.basetemp, ignore_errors=True))


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--update-golden", action="store_true", help="write the golden files anew")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the files that take longest, or one process is left with them in the end."""
    items.sort(key=lambda item: _LONGEST.get(item.path.name, len(_LONGEST)))


def _succeed(result: int) -> None:
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


@pytest.fixture
def namespace() -> Iterator[None]:
    """A mount namespace of the test's own, in which `/` is private."""
    outside = os.open("/proc/thread-self/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
    folder = os.open(".", os.O_PATH | os.O_CLOEXEC)
    _succeed(_libc.unshare(_CLONE_NEWNS))
    try:
        _succeed(_libc.mount(None, b"/", None, _MS_REC | _MS_PRIVATE, None))
        yield
    finally:
        deadline = time.monotonic() + 120
        while _libc.setns(outside, _CLONE_NEWNS):  # EINVAL: a thread that was joined is still going
            assert time.monotonic() < deadline, os.strerror(ctypes.get_errno())
            time.sleep(0.01)
        os.fchdir(folder)
        os.close(outside)
        os.close(folder)


@pytest.fixture
def world(namespace: None) -> World:  # noqa: ARG001 - for its effect
    """An empty tmpfs at /mnt, with a manifest and a state directory on it."""
    run("mount", "-t", "tmpfs", "-o", "mode=755", "tmpfs", "/mnt")
    return World("/mnt")


@pytest.fixture
def shared_world(namespace: None) -> World:  # noqa: ARG001
    """The same where mounts propagate, as on every machine that systemd boots."""
    run("mount", "-t", "tmpfs", "-o", "mode=755", "tmpfs", "/mnt")
    run("mount", "--make-shared", "/mnt")
    return World("/mnt")


@pytest.fixture
def journal(world: World) -> Iterator[Journal]:
    """What mountd tells a journald, while that runs."""
    with journald(world) as journal:
        yield journal


@pytest.fixture
def golden(pytestconfig: pytest.Config) -> Golden:
    """Compare a text with the golden file of a name, or make it that with --update-golden."""

    def compare(name: str, text: str) -> None:
        file = GOLDEN / "output" / f"{name}.txt"
        if pytestconfig.getoption("update_golden"):
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text)
        assert text == file.read_text()

    return compare


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """What a test has measured and doesn't judge; its worker can't print."""
    for report in terminalreporter.getreports("passed"):
        for name, value in report.user_properties:
            if name == "told at the end":
                terminalreporter.line(str(value))
