"""mountd's process, imported and not begun: forks of it begin.

    python -P fork_server.py SOCKET

A fork does what the installed command does, `mountd.cli.main`, with the arguments, environment,
descriptors, working directory and mount namespace that it is given. It differs in what Python makes
of the environment as it starts (PYTHON*, the locale), in the seed of its hashes, in its cmdline and
exe in /proc, and in that its modules are not taken apart in the end.
"""

import atexit
import ctypes
import gc
import importlib
import json
import os
import pkgutil
import select
import socket
import sys
import threading
import time
import traceback
from pathlib import Path
from typing import NoReturn

_CLONE_NEWNS = 0x20000


def _serve(number: int) -> list[str]:
    """Answer requests to fork; returns in a fork, when it is to be killed."""
    asking = socket.socket(fileno=number)
    poll = select.poll()
    poll.register(number, select.POLLIN)
    children: dict[int, tuple[int, int]] = {}
    while True:
        for ready, _ in poll.poll():
            if ready != number:
                pid, end = children.pop(ready)
                _, status = os.waitpid(pid, 0)
                os.write(end, b"%d" % os.waitstatus_to_exitcode(status))
                poll.unregister(ready)
                os.close(ready)
                os.close(end)
                continue
            told, given, _, _ = socket.recv_fds(asking, 16, 8)
            if not told:
                os._exit(0)
            pid = os.fork()
            if pid == 0:
                asking.detach()
                return _become(*given)
            process = os.pidfd_open(pid)
            socket.send_fds(asking, [b"%d" % pid], [process])
            asked, namespace, folder, end, *others = given
            for each in (asked, namespace, folder, *others):
                os.close(each)
            children[process] = pid, end
            poll.register(process, select.POLLIN)


def _become(asked: int, namespace: int, folder: int, _: int, *numbers: int) -> list[str]:
    """Be what the command would be when Python has started."""
    request = json.loads(os.pread(asked, 1 << 24, 0))
    Path("/proc/self/comm").write_text("mountd")
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.setns(namespace, _CLONE_NEWNS):
        raise OSError(ctypes.get_errno(), "setns")
    os.fchdir(folder)
    for wanted, number in enumerate(numbers):  # those given have higher numbers
        os.dup2(number, wanted)
    os.closerange(3, 1 << 20)
    os.environ.clear()
    os.environ.update(request["env"])
    time.tzset()
    sys.stdin = os.fdopen(0, closefd=False)
    sys.stdout = os.fdopen(1, "w", 1 if os.isatty(1) else -1, closefd=False)
    sys.stderr = os.fdopen(2, "w", 1, errors="backslashreplace", closefd=False)
    sys.argv = request["words"]
    killed: list[str] = request["killed"]
    return killed


def main(number: str) -> NoReturn:
    """Import all of mountd, and be forked from then on."""
    package = importlib.import_module("mountd")
    for each in pkgutil.walk_packages(package.__path__, "mountd."):
        importlib.import_module(each.name)
    assert len(os.listdir("/proc/self/task")) == 1, "a fork has no other thread"
    gc.freeze()
    killed = _serve(int(number))
    if killed:
        sys.path.append(os.path.dirname(__file__))
        os._exit(importlib.import_module("kill_at").main(*killed, _begin) % 256)
    _begin()


def _begin() -> NoReturn:
    """Do what the command's script does."""
    try:
        status = importlib.import_module("mountd.cli").main()
    except SystemExit as end:
        status = end.code
    except BaseException:  # noqa: BLE001 - as Python does
        traceback.print_exc()
        status = 1
    _end(status or 0)


def _end(status: int) -> NoReturn:
    """Do what Python does in its end, but to take apart a heap that is shared with the parent."""
    threading._shutdown()  # type: ignore[attr-defined] # noqa: SLF001
    atexit._run_exitfuncs()  # noqa: SLF001
    try:
        sys.stdout.flush()
    except OSError:
        status = 120
    sys.stderr.flush()
    os._exit(status)


if __name__ == "__main__":
    main(sys.argv[1])
