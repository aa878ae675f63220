"""A pass as lines for people: the plan, the summary, the status."""

from collections import Counter
from collections.abc import Sequence

from mountd.core.actions import Action, FilesystemAction, Outcome, Report
from mountd.core.choice import shown_owner
from mountd.core.desired import DesiredMount
from mountd.core.idmapping import in_words
from mountd.core.words.printable import printable, with_hint
from mountd.report.page import Page, wrapped

_SIGNS = {"mount": "+", "replace": "~", "adjust": "~", "unmount": "-", "keep": " "}
_COLOURS = {"+": "\x1b[32m", "~": "\x1b[33m", "-": "\x1b[31m", "!": "\x1b[35m"}
_PLAIN = "\x1b[0m"


def render_plan(
    filesystems: Sequence[FilesystemAction],
    actions: Sequence[Action],
    page: Page,
    *,
    explains: bool,
    is_long: bool,
) -> str:
    """What a pass is about to do: a line for each filesystem, volume, and mount that leaves.

    `explains`: with what is wrong, and what to do; `is_long`: with what is kept, though all is.
    """
    filesystems = [each for each in filesystems if each.done]  # volumes have the faults
    volumes = sum(not action.is_departure for action in actions)
    changes = len(filesystems) + sum(action.done is not None for action in actions)
    doing = _count(changes, "action") if changes else "nothing to do"
    head = f"mountd: {_count(volumes, 'volume')}, {doing}"
    if not is_long and all(action.verb == "keep" for action in actions):
        actions = [each for each in actions if each.refused]  # raw ids are reported every time
    rows: list[tuple[str, str, str, list[str]]] = [
        (each.verb or each.state, each.type, each.source, _filesystem_details(each))
        for each in filesystems
    ]
    rows += [
        (each.verb or each.state, each.target, each.source, _details(each, explains=explains))
        for each in actions
    ]
    if not rows:
        return f"{head}\n"
    targets = max(len(printable(target)) for _, target, _, _ in rows)
    sources = max(len(printable(source)) for _, _, source, _ in rows)
    lines = [head, ""]
    for word, target, source, (first, *rest) in rows:
        words = [f"{word:9}{printable(target):{targets}}", f"← {printable(source):{sources}}"]
        lines += _broken(_SIGNS.get(word, "!"), [*words, first], rest, page)
    return "\n".join([*lines, "", ""])


def render_summary(result: Report, page: Page) -> str:
    """A sentence that sums the pass up."""
    counts: Counter[str] = Counter()
    for each in result.outcomes:
        if each.fault:
            counts[each.state] += 1
        elif done := each.action.done:
            counts[f"to {each.action.verb}" if result.is_dry else done] += 1
    for step in result.filesystems:
        if done := step.done:
            counts[f"filesystem {f'to {step.verb}' if result.is_dry else done}"] += 1
    text = ", ".join(f"{number} {what}" for what, number in counts.items()) or "nothing to do"
    if result.is_dry:
        return "\n".join(wrapped(f"Plan: {text}. Nothing was changed (dry run).", page.width))
    return "\n".join(wrapped(f"Done: {text}.", page.width))


def render_status(result: Report, page: Page) -> str:
    """A table by target: TARGET SOURCE OWNER→USER STATE, and below a line what is wrong there."""
    outcomes = sorted(result.outcomes, key=lambda each: each.action.target)
    rows = [("TARGET", "SOURCE", "OWNER→USER", "STATE")]
    rows += [
        (
            printable(each.action.target),
            printable(each.action.source),
            _owner_to_user(each.action),
            _state(each),
        )
        for each in outcomes
    ]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    spare = max(page.width - sum(widths[2:]) - 6, 2 * len("TARGET"))  # what the paths may take
    widths[0] = min(widths[0], max(spare // 2, spare - widths[1]))
    widths[1] = min(widths[1], spare - widths[0])
    lines = []
    for row, more in zip(rows, [[], *map(_state_details, outcomes)], strict=True):
        cells = [_shortened(cell, width) for cell, width in zip(row, widths, strict=True)]
        cells = [f"{cell:{width}}" for cell, width in zip(cells, widths, strict=True)]
        lines.append("  ".join(cells).rstrip())
        lines += [f"  {piece}" for each in more for piece in wrapped(each, page.width - 2)]
    notes = (f"note: {note}" for each in result.filesystems for note in each.notes)
    lines += [piece for note in notes for piece in wrapped(note, page.width)]
    return "\n".join([*lines, ""])


def _broken(sign: str, words: list[str], rest: list[str], page: Page) -> list[str]:
    """One line if the page is wide enough; else its last words go on lines of their own."""
    while len("  ".join(words).rstrip()) > page.width - 4 and len(words) > 1:
        rest = [words.pop().rstrip(), *rest]
    if page.has_colour and sign in _COLOURS:
        sign = f"{_COLOURS[sign]}{sign}{_PLAIN}"
    indent = " " * (13 if page.width >= 60 else 6)
    pieces = (piece for each in rest for piece in wrapped(each, page.width - len(indent)))
    return [f"  {sign} {'  '.join(words).rstrip()}", *(indent + piece for piece in pieces)]


def _filesystem_details(step: FilesystemAction) -> list[str]:
    """What there is to say of a filesystem's step; no options, for these may be secrets."""
    return ["filesystem", *(f"note: {each}" for each in step.notes)]


def _details(action: Action, *, explains: bool) -> list[str]:
    """What there is to say of an action, the main thing first."""
    notes = [f"note: {each}" for each in action.notes]
    why = _fallback(action) if explains else []
    if fault := action.fault:
        return ["", *fault.lines, *notes] if explains else [""]
    if action.verb in ("replace", "adjust"):
        drift = (f"{each.field}: {each.found} → {each.wanted}" for each in action.drift)
        return [*drift, *why, *notes]
    if not action.mount:
        return ["", *why, *notes]
    ids = "raw ids" if action.refused else _ids(action.mount)
    ids = f"{ids}, read-only" if action.mount.flags.read_only else ids
    return [ids, *why, *notes]


def _fallback(action: Action) -> list[str]:
    """Why the ids are raw, and what to do about it."""
    if not (refused := action.refused):
        return []
    return with_hint(f"fallback: {refused.fault.message}", refused.fault.hint)


def _ids(mount: DesiredMount) -> str:
    """`uid 501→1000, gid 20→1000 (node)`: whom the owner appears as."""
    if not (mount.choice.idmap and mount.user):
        return in_words(mount.idmap)
    sides = [
        f"{word} {owner}→{user}"
        for word, owner, user in zip(("uid", "gid"), mount.owner, mount.user, strict=True)
        if user not in (None, owner)
    ]
    name = mount.volume.user or ""
    return ", ".join(sides or ["each id as itself"]) + ("" if name[:1].isdigit() else f" ({name})")


def _owner_to_user(action: Action) -> str:
    """`501:20→1000:1000`: the owner, and as whom the mount shows it that is there or planned."""
    if not (known := action.old or action.mount):
        return ""
    idmap = action.idmap if action.old else known.idmap
    return f"{known.owner}→{shown_owner(known.owner, idmap)}" if idmap else str(known.owner)


def _state(outcome: Outcome) -> str:
    if outcome.fault:
        return outcome.state
    if outcome.action.is_departure:
        return "leaving"
    return "drifted" if outcome.action.drift else outcome.state


def _state_details(outcome: Outcome) -> list[str]:
    action, fault = outcome.action, outcome.fault
    lines = [f"{each.field}: is {each.found}, not {each.wanted}" for each in action.drift]
    lines += _fallback(action)
    if fault:
        lines += fault.lines
        lines += [f"note: {each}" for each in action.notes]
    return lines


def _shortened(text: str, width: int) -> str:
    return text if len(text) <= width else f"…{text[len(text) - width + 1 :]}"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
