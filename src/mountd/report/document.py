"""A pass as a document for programs."""

from collections.abc import Sequence
from typing import Any

from mountd.core.actions import FilesystemAction, Outcome, Report
from mountd.core.idmapping import Idmapping
from mountd.core.model import Fault
from mountd.core.words.printable import printable
from mountd.manifest.problem import Problem


def to_document(
    pass_id: str, result: Report, *, shows_found: bool = False, errors: Sequence[Problem] = ()
) -> dict[str, Any]:
    """A pass as JSON's values; `shows_found`: idmappings as they are, not as they shall be."""
    return {
        "version": 1,
        "pass_id": pass_id,
        "manifest": [*result.files],
        "dry_run": result.is_dry,
        "changed": result.has_changes,
        "volumes": [_volume_document(each, shows_found) for each in _ordered(result)],
        "filesystems": [_filesystem_document(each) for each in result.filesystems],
        "errors": [
            {
                "file": each.file,
                "line": each.line,
                "column": each.column,
                "message": printable(each.message),
                "hint": each.hint and printable(each.hint),
            }
            for each in errors
        ],
    }


def _volume_document(outcome: Outcome, shows_found: bool) -> dict[str, Any]:
    action, fault = outcome.action, outcome.fault
    refused = None if fault else action.refused
    reason = refused.fault if refused else fault
    idmap = action.mount.idmap if action.mount and not shows_found else action.idmap
    return {
        "name": action.volume,
        "target": action.target,
        "source": action.source,
        "action": action.verb,
        "state": outcome.state,
        "reason": reason.code if reason else None,
        "drift": [each._asdict() for each in action.drift],
        "fallback": "plain" if refused else None,
        "refused": fault_document(refused.fault) if refused else None,
        "idmap": idmap_document(idmap),
        "notes": [*action.notes],
        "error": fault_document(fault),
    }


def _filesystem_document(action: FilesystemAction) -> dict[str, Any]:
    return {
        "type": action.type,
        "source": action.source,
        "options": [*action.options],
        "action": action.verb,
        "state": action.state,
        "notes": [*action.notes],
        "error": fault_document(action.fault),
        "volumes": [*action.volumes],
    }


def fault_document(fault: Fault | None) -> dict[str, Any] | None:
    """A fault as JSON's values, in the words that people get."""
    return fault and {"code": fault.code, "message": fault.message, "hint": fault.hint}


def idmap_document(idmap: Idmapping | None) -> dict[str, Any] | None:
    """An idmapping as JSON's values."""
    if idmap is None:
        return None
    return {
        side: [extent._asdict() for extent in extents] for side, extents in idmap._asdict().items()
    }


def _ordered(result: Report) -> list[Outcome]:
    """The volumes in the manifest's order, then the mounts that leave, by target."""
    leaving = [each for each in result.outcomes if each.action.is_departure]
    staying = [each for each in result.outcomes if not each.action.is_departure]
    return staying + sorted(leaving, key=lambda each: each.action.target)
