"""An explanation as lines for people."""

import stat

from mountd.core.choice import LEFT_OUT
from mountd.core.idmapping import in_words
from mountd.core.model import Person
from mountd.core.words.printable import printable, with_hint
from mountd.explain.explanation import Explanation
from mountd.explain.obstacle import Obstacle
from mountd.explain.travel import Rest, Row
from mountd.explain.verdict import Deed, Verdict
from mountd.kernel.route import Step
from mountd.report.page import Page, wrapped


def render_explanation(told: Explanation, page: Page, *, only_no: bool) -> str:
    """The volume, the table of ids, who creates what, why, and what the user may.

    `only_no`: nothing but what is wrong with the volume, and what stops the user.
    """
    if only_no and not (told.fault or told.drift or told.verdict.obstacles):
        return ""
    state = "drifted" if told.drift and told.state == "mounted" else told.state
    lines = [printable(f"{told.volume}: {told.target} ← {told.source} ({state})")]
    for each in told.drift:
        lines += _labelled("  ", f"{each.field}: is {each.found}, not {each.wanted}", page)
    if told.fault:
        lines += [line for each in told.fault.lines for line in _labelled("  ", each, page)]
    if told.origin and not only_no:
        lines += ["", *_table(told, page), "", *_why(told, page)]
    lines += _access(told, page)
    notes = [each for each in dict.fromkeys(told.notes) if each != _REST.get(told.rest)]
    if notes and not only_no:
        lines += ["", *(line for each in notes for line in _labelled("note: ", each, page))]
    return "\n".join([*lines, ""])


def _table(told: Explanation, page: Page) -> list[str]:
    cells = [("STORED", "SEEN", "HERE", "")]
    for row, name in zip(told.rows, told.names, strict=True):
        here = name if row.seen.is_whole else "left out"
        cells.append((str(row.stored), str(row.seen.shown), here or "-", _whose(row, told)))
    widths = [max(map(len, map(printable, column))) for column in zip(*cells, strict=True)]
    lines = [
        "  " + "  ".join(f"{printable(c):{w}}" for c, w in zip(row, widths, strict=True)).rstrip()
        for row in cells
    ]
    if told.rest in _REST:
        lines += _labelled("  ", _REST[told.rest], page)
    if (person := told.person) and (ids := told.creates):
        ways = {"kernel": "is stored", "record": "is stored", "manifest": "would be stored"}
        who = f"{person.name} ({person.uid}:{person.gid})"
        if ids.is_whole:
            said = f"What {who} creates {ways[told.origin or 'kernel']} as {ids.shown}."
        else:
            said = f"{who} can't create anything: the idmapping doesn't cover its ids."
        lines += ["", *wrapped(said, page.width)]
    return lines


_REST: dict[Rest | None, str] = {
    "as-itself": "every other id is seen as itself",
    "left-out": LEFT_OUT,
}


def _whose(row: Row, told: Explanation) -> str:
    match row.kind:
        case "owner":
            return "the source's owner"
        case "root":
            return "stored as root's"
        case "asker":
            return f"stored as {told.person.name}'s" if told.person else ""
        case "user":
            return f"stored as {told.user}'s"


def _why(told: Explanation, page: Page) -> list[str]:
    by = {"kernel": "as the kernel has it", "record": "by mountd's record"}
    what = in_words(told.idmap) if told.idmap else "none"
    what += f" ({by.get(told.origin or '', 'as it would be mounted')})"
    lines = _labelled("idmapping: ", what, page, indent=2)
    if why := told.why:
        is_other = any(each.field == "idmap" for each in told.drift)
        because = f"the manifest means another: {why.message}" if is_other else why.message
        lines += _labelled("why: ", because, page, indent=2)
        lines += [_cut(f"  {printable(str(each))}", page.width) for each in why.lines]
    if told.refused and told.refused.fault.hint:
        lines += _labelled("hint: ", told.refused.fault.hint, page, indent=2)
    return lines


_DEEDS: dict[str | None, dict[Deed, str]] = {
    "folder": {"read": "list", "execute": "go through", "create": "create in it"},
    "file": {"read": "read", "write": "write", "execute": "run"},
    "other": {"read": "read", "write": "write"},
    None: {"create": "create there"},
}


def _access(told: Explanation, page: Page) -> list[str]:
    verdict, person = told.verdict, told.person
    lines: list[str] = []
    if verdict.steps and (told.is_asked or verdict.obstacles):
        lines += ["", *_steps(verdict)]
    if verdict.deeds["reach"] is None and not verdict.obstacles:
        return lines
    who = f"Asked of the kernel as {person.name} ({_ids(person)}), at" if person else "At"
    lines += ["", *wrapped(f"{who} {verdict.path}:", page.width)]
    names: dict[Deed, str] = {"reach": "reach", **_DEEDS[verdict.kind]}
    told_of: set[Obstacle] = set()
    for deed, name in names.items():
        if deed in verdict.deeds:
            lines += _answer(name, deed, told, page, told_of)
    return lines


def _answer(
    name: str, deed: Deed, told: Explanation, page: Page, told_of: set[Obstacle]
) -> list[str]:
    """A line for a deed; why it is refused follows, once for each reason."""
    answer = {True: "yes", False: "no", None: "?"}[told.verdict.deeds[deed]]
    label = f"  {name:12}  "
    obstacle = told.verdict.obstacles.get(deed)
    if obstacle is None:
        return [label + answer]
    if obstacle in told_of:
        return [f"{label}{answer}, likewise"]
    told_of.add(obstacle)
    first, *hint = with_hint(f"{answer}: {obstacle.message}", obstacle.hint)
    lines = _labelled(label, first, page)
    indent = " " * len(label)
    if obstacle.path != told.target and f"{told.target}/".startswith(
        f"{obstacle.path.rstrip('/')}/"
    ):
        said = "(above the target, so nothing that the volume decides)"
        lines += _labelled(indent, said, page)
    return lines + [line for each in hint for line in _labelled(indent, each, page)]


def _steps(verdict: Verdict) -> list[str]:
    """A line for each; the one that the way can't be gone beyond is marked."""
    stop = verdict.obstacles.get("reach")
    cells = [("MAY", "OWNER", "MODE", "PATH")]
    for step in verdict.steps:
        found = step.found
        path = step.path if step.leads_to is None else f"{step.path} → {step.leads_to}"
        path += "  ← stops here" if stop and step.path == stop.path else ""
        mode = stat.filemode(found.mode) + ("+" if step.has_acl else "")
        cells.append((_may(step), f"{found.uid}:{found.gid}", mode, printable(path)))
    columns = [*zip(*cells, strict=True)]
    if not any(columns[0][1:]):  # nobody was asked about
        del columns[0]
    widths = [max(map(len, column)) for column in columns[:-1]] + [0]
    return [
        "  " + "  ".join(f"{cell:{width}}" for cell, width in zip(row, widths, strict=True))
        for row in zip(*columns, strict=True)
    ]


def _may(step: Step) -> str:
    if step.may is None:
        return ""
    return "".join("-" if errno else word for word, errno in zip("rwx", step.may, strict=True))


def _ids(person: Person) -> str:
    groups = f", groups {' '.join(map(str, person.groups))}" if person.groups else ""
    return f"{person.uid}:{person.gid}{groups}"


def _cut(text: str, width: int) -> str:
    return text if len(text) <= width else f"{text[: width - 1]}…"


def _labelled(label: str, text: str, page: Page, indent: int | None = None) -> list[str]:
    """Lines that begin with a label, the further ones indented as far, or by `indent`."""
    if indent is None:
        indent = len(label)
    first, *more = wrapped(text, page.width - len(label))
    if more and indent < len(label):
        more = wrapped(" ".join(more), page.width - indent)
    return [label + first, *(" " * indent + each for each in more)]
