"""What `mountd explain` tells, as a value and as a document for programs."""

import stat
from typing import Any

from mountd.core.actions import Drift
from mountd.core.idmapping import Idmapping
from mountd.core.model import Fault, Person, Refused, State
from mountd.core.named_tuple import NamedTuple
from mountd.explain.reason import Reason
from mountd.explain.travel import Arrival, Origin, Rest, Row
from mountd.explain.verdict import Deed, Verdict
from mountd.kernel.route import Step
from mountd.report.document import fault_document, idmap_document


class Explanation(NamedTuple):
    """How ids travel through a volume, why, and what a user may on a path below its target.

    `names` are those of the rows' ids as seen; `creates`: as whose it is stored what `person`
    creates. What isn't known is None.
    """

    volume: str
    target: str
    source: str
    state: State
    fault: Fault | None
    refused: Refused | None
    drift: tuple[Drift, ...]
    idmap: Idmapping | None
    origin: Origin | None
    rows: tuple[Row, ...]
    names: tuple[str, ...]
    rest: Rest | None
    user: str
    """The volume's user, as a person would call him."""
    person: Person | None
    creates: Arrival | None
    why: Reason | None
    verdict: Verdict
    notes: tuple[str, ...]
    is_asked: bool = False
    """Whether a path was asked about, rather than the target."""
    warnings: tuple[str, ...] = ()


def explanation_document(told: Explanation) -> dict[str, Any]:
    """It as JSON's values."""
    fault, verdict, person, why = told.fault, told.verdict, told.person, told.why
    return {
        "version": 1,
        "volume": told.volume,
        "target": told.target,
        "source": told.source,
        "state": told.state,
        "drift": [each._asdict() for each in told.drift],
        "idmap": idmap_document(told.idmap),
        "idmap_from": told.origin,
        "ids": [
            {
                "kind": row.kind,
                "stored": row.stored._asdict(),
                "seen": row.seen._asdict(),
                "name": name or None,
            }
            for row, name in zip(told.rows, told.names, strict=True)
        ],
        "others": told.rest,
        "user": person
        and {
            "name": person.name,
            "uid": person.uid,
            "gid": person.gid,
            "groups": [*person.groups],
        },
        "creates": told.creates._asdict() if told.creates and told.creates.is_whole else None,
        "path": _path_document(verdict),
        "why": why
        and {
            "rule": why.rule,
            "message": why.message,
            "lines": [each._asdict() for each in why.lines],
        },
        "fallback": "plain" if told.refused else None,
        "refused": fault_document(told.refused.fault) if told.refused else None,
        "notes": [*told.notes],
        "error": fault_document(fault),
        "errors": [],
    }


def _path_document(verdict: Verdict) -> dict[str, Any]:
    deeds: tuple[Deed, ...] = ("reach", "read", "write", "execute", "create")
    return {
        "path": verdict.path,
        "kind": verdict.kind,
        **{deed: verdict.deeds.get(deed) for deed in deeds},
        "stopped_by": [
            {"deed": deed, **each._asdict()} for deed, each in verdict.obstacles.items()
        ],
        "steps": [_step_document(each) for each in verdict.steps],
    }


def _step_document(step: Step) -> dict[str, Any]:
    answers = step.may._asdict() if step.may else dict.fromkeys(("read", "write", "execute"))
    return {
        "path": step.path,
        "owner": {"uid": step.found.uid, "gid": step.found.gid},
        "mode": f"{stat.S_IMODE(step.found.mode):04o}",
        "link": step.leads_to,
        **{wish: None if errno is None else not errno for wish, errno in answers.items()},
    }
