"""Plans as files, to which anybody can add: each folder of tests/golden/plans is a case.

`volumes.toml` is the manifest. `mountinfo` is what is mounted, as /proc/self/mountinfo has it.
`record.json` is what mountd knows of that, as it writes it: `mounts` alone counts; without the file
the record is lost. `plan.txt` is the plan that this comes to; `pytest --update-golden` writes it.

All there is to know of files: every path exists on every filesystem, and 501:20 owns it.
"""

import json
from pathlib import Path

import pytest
from machine import OURS, Machine

from mountd.core.mountinfo import parse_mountinfo
from mountd.core.order import Progress
from mountd.core.plan import plan
from mountd.manifest.layers import Layers
from mountd.manifest.load import Reading, load_manifest
from mountd.reconcile.entries import managed_from
from mountd.reconcile.record import Record
from mountd.report.lines import render_plan
from mountd.report.page import Page

CASES = Path(__file__).resolve().parents[1] / "golden/plans"


def planned(case: Path) -> str:
    """The first plan of a pass on a machine that is as a case has it."""
    layers = Layers(OURS, (OURS,), (), (OURS,), (), (), OURS)
    text = (case / "volumes.toml").read_bytes()
    manifest = load_manifest(layers, lambda _: Reading(text, ()), {}, is_acting=False)
    machine = Machine()
    machine.mounts = {
        line.mount.id: line.mount
        for line in parse_mountinfo((case / "mountinfo").read_text().removesuffix("\n"))
    }
    machine.root = machine.mounts[min(machine.mounts)]
    record = case / "record.json"
    adoptable = None
    if record.exists():
        machine.record = managed_from(json.loads(record.read_text())["mounts"])
        adoptable = frozenset[str]()
    else:
        machine.known = Record(None, "")
    for managed in machine.record.values():
        if mount := machine.mounts.get(managed.id):
            machine.mounts[mount.id] = mount._replace(idmap=managed.idmap)
    desired = [machine.means(each) for each in manifest.volumes]
    observed = machine.observed([each.target for each in manifest.volumes])
    progress = Progress(adoptable=adoptable)
    actions = plan(desired, observed, [*machine.record.values()], OURS, progress)
    return render_plan((), actions, Page(100), explains=True, is_long=True)


@pytest.mark.parametrize("name", sorted(path.name for path in CASES.iterdir()))
def test_a_plan(name: str, pytestconfig: pytest.Config) -> None:
    told = planned(CASES / name)
    golden = CASES / name / "plan.txt"
    if pytestconfig.getoption("update_golden"):
        golden.write_text(told)
    assert told == golden.read_text()


def test_there_are_cases_of_each_kind() -> None:
    plans = [(path / "plan.txt").read_text() for path in CASES.iterdir()]
    verbs = {line.split()[1] for plan in plans for line in plan.splitlines() if line[2:4] in _SIGNS}
    assert len(plans) >= 25
    assert verbs >= {"mount", "replace", "adjust", "unmount", "conflict"}


_SIGNS = ("+ ", "~ ", "- ", "! ")
