"""Speed, as ratios measured in one run: `make bench`. Nothing here is a test.

It prints a table for each question, and writes all that was measured as JSON, of which
benchmarks/results.py makes RESULTS.md and the picture.
"""

import argparse
import compileall
import json
import os
import platform
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import mountd
from benchmarks import boot, commands, files, passes, peers, watch
from benchmarks.peers import Peer
from benchmarks.results import MEASURED, lines
from benchmarks.sides import SMALL, Size, Table

_QUESTIONS: dict[str, Callable[[str, dict[str, Peer], Size], Iterator[Table]]] = {
    "commands": commands.tables,
    "passes": lambda floor, _, size: passes.tables(floor, size),
    "watch": lambda _, __, size: watch.tables(size),
    "files": lambda _, others, size: files.tables(others, size),
    "boot": lambda _, __, size: boot.tables(size),
}
_FLOOR = Path(__file__).with_name("floor.c")


def main() -> None:
    """Measure all of it."""
    parser = argparse.ArgumentParser(prog="benchmarks", description=__doc__)
    parser.add_argument("questions", nargs="*", help=", ".join(_QUESTIONS))
    parser.add_argument("--small", action="store_true", help="a round of each, to see that it runs")
    parser.add_argument("--output", type=Path, default=MEASURED, help="the JSON file")
    options = parser.parse_args()
    compileall.compile_dir(Path(mountd.__file__).parent, quiet=1)  # as every install has it
    with tempfile.TemporaryDirectory(dir="/var/tmp") as folder:
        place = Path(folder)
        place.chmod(0o755)
        floor = str(place / "floor")
        subprocess.run(["cc", "-O2", "-o", floor, _FLOOR], check=True)
        others = peers.find(place)
        machine = _machine() | {name: each.version for name, each in others.items()}
        measured = []
        for name in options.questions or _QUESTIONS:
            for table in _QUESTIONS[name](floor, others, SMALL if options.small else Size()):
                print("\n".join(["", *lines(table)]), flush=True)
                measured.append(table._asdict())
    options.output.parent.mkdir(exist_ok=True)
    options.output.write_text(json.dumps({"machine": machine, "tables": measured}, indent=1))


def _machine() -> dict[str, str]:
    cpu = Path("/proc/cpuinfo").read_text()
    names = [line.partition(":")[2].strip() for line in cpu.splitlines() if "model name" in line]
    libraries = ("pydantic", "tomli", "watchfiles")
    return {
        "date": f"{datetime.now(tz=UTC):%Y-%m-%d}",
        "kernel": f"Linux {platform.release()}",
        "cpu": f"{os.cpu_count()} × {names[0] if names else platform.machine()}",
        "load": f"{os.getloadavg()[0]:.1f} in the minute before",
        "Python": platform.python_version(),
        "libraries": ", ".join(f"{each} {version(each)}" for each in libraries),
    }


if __name__ == "__main__":
    main()
