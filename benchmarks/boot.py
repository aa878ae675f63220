"""What a boot pays: Debian 13 with the package, its own Python, and systemd-nspawn."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from container import Container, Machines

from benchmarks.sides import Size, Table

_VOLUMES = 10
_BARE = """
import resource, subprocess
subprocess.run(["python3", "-I", "-c", "pass"])
used = resource.getrusage(resource.RUSAGE_CHILDREN)
print(used.ru_utime + used.ru_stime)
"""


def tables(size: Size) -> Iterator[Table]:
    """What mountd.service has cost when the container has booted; none where there can't be one."""
    if not (shutil.which("systemd-nspawn") and shutil.which("mmdebstrap")):
        return
    with tempfile.TemporaryDirectory(dir="/var/tmp") as folder:
        machines = Machines(Path(folder))
        for number in range(_VOLUMES):
            (machines.tree / f"srv/{number}").mkdir()
            os.chown(machines.tree / f"srv/{number}", 501, 20)
        measured = [_boot(machines) for _ in range(size.rounds)]
    bare, cpu, ready, mib = (list(each) for each in zip(*measured, strict=True))
    unit = f"mountd.service, {_VOLUMES} volumes"
    title = "A boot of Debian 13 in a container"
    sides = {"`python3 -I -c pass`": bare, unit: cpu}
    yield Table("boot-cpu", f"{title}: processor time", "ms", sides)
    sides = {f"{unit}, from exec to ready": ready}
    yield Table("boot-ready", f"{title}: beside what else starts", "ms", sides, has_ratios=False)
    yield Table("boot-memory", f"{title}: resident", "MiB", {unit: mib}, has_ratios=False)


def _boot(machines: Machines) -> tuple[float, float, float, float]:
    """Milliseconds of CPU of a bare Python, and of mountd; until that was ready; and its MiB."""
    volumes = (
        f'[volumes.v{each}]\nsource = "/srv/{each}"\ntarget = "/opt/{each}"\nuser = "node"\n'
        for each in range(_VOLUMES)
    )
    with machines.booted(f"--set-credential=mountd.toml:{''.join(volumes)}") as machine:
        owners = {(machine / f"/opt/{each}").stat().st_uid for each in range(_VOLUMES)}
        assert owners == {1000}, f"not all volumes are mounted: {owners}"
        process = machine / f"/proc/{machine.show('mountd', 'MainPID')}"
        tasks = [(each / "schedstat").read_text() for each in (process / "task").iterdir()]
        cpu = sum(int(each.split()[0]) for each in tasks) / 1e6
        status = (process / "status").read_text()
        mib = int(status.split("VmRSS:")[1].split()[0]) / 1024
        took = _when(machine, "ActiveEnter") - _when(machine, "ExecMainStart")
        return float(machine.run("python3", "-c", _BARE)) * 1e3, cpu, took / 1e3, mib


def _when(machine: Container, what: str) -> int:
    return int(machine.show("mountd", f"{what}TimestampMonotonic"))
