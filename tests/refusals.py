"""The volume `work` where it can't be idmapped: its filesystem refuses, or its owner changes."""

import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from world import MOUNTD, Result, World, disks, run, running


@contextmanager
def filesystem(world: World, kind: str, *, name: str = "source") -> Iterator[Path]:
    """A folder of 501's on a filesystem that refuses idmappings, mounted at `name`."""
    place = world / name
    place.mkdir()
    layers = [world / f"{name}-{each}" for each in ("lower", "upper", "index")]
    with ExitStack() as held:
        match kind:
            case "overlay":
                for layer in layers:
                    layer.mkdir()
                words = zip(("lowerdir", "upperdir", "workdir"), layers, strict=True)
                options = ",".join(f"{key}={value}" for key, value in words)
                run("mount", "-t", "overlay", "-o", options, "overlay", str(place))
            case "ramfs" | "proc":
                run("mount", "-t", kind, "-o", "nosuid", kind, str(place))
            case "fuse":
                layers[0].mkdir()
                ready = f"until mountpoint -q {place}; do kill -0 $! || exit; done; echo; read _"
                script = f"bindfs -f {layers[0]} {place} & {ready}; kill $!; wait"
                held.enter_context(running("sh", "-c", script))
            case "ext3":
                with disks(world) as disk:
                    run("mount", "-t", "ext3", disk("ext3"), str(place))
        if kind != "proc":
            (place / "hello").write_text("hello\n")
            os.chown(place / "hello", 501, 20)
            os.chown(place, 501, 20)
        yield place


def volume(world: World, **keys: Any) -> Path:
    """A manifest of the volume `work`."""
    base = {"source": world / "source", "target": world / "work", "user": "1000:1000"}
    world.volumes(work={**base, **keys})
    return world / "work"


def reconcile_while_the_owner_changes(world: World, *words: str, fallback: str) -> Result:
    """A pass that has looked at the source, and then finds it another owner's."""
    source = world.folder("source")
    volume(world, fallback=fallback)
    trace = str(world / "trace")
    os.mkfifo(trace)
    stop = ["-e", "trace=clone", "-e", "inject=clone:signal=STOP:when=1"]
    strace = ["strace", "-f", "-qq", "-o", trace, *stop, MOUNTD, "reconcile", *words]
    options = ["--manifest", world.manifest, "--state-dir", world.state]
    pipe = subprocess.PIPE
    with subprocess.Popen([*strace, *options], stdout=pipe, stderr=pipe, text=True) as process:
        with open(trace) as lines:
            stopped = next(each for each in lines if "stopped by SIGSTOP" in each)
            os.chown(source, 700, 700)  # it has been looked at, and is to be idmapped
            os.kill(int(stopped.split()[0]), signal.SIGCONT)
            lines.read()
        out, err = process.communicate()
    return Result(process.returncode, out, err)
