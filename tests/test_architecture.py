"""Imports point downward only, and each library has one place that knows it."""

import ast
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import mountd

_ROOT = Path(mountd.__file__).parent
_PATHS = {
    ".".join(p.relative_to(_ROOT.parent).with_suffix("").parts): p for p in _ROOT.rglob("*.py")
}
_PURE = {
    "bisect", "collections", "errno", "functools", "graphlib", "hashlib", "itertools", "re",
    "shlex", "stat", "sys", "types", "typing",
}  # fmt: skip
_FLOORS = ("mountd.core.", "mountd.kernel.", "mountd.manifest.")
_LAWS = {
    "mountd.core.": (),
    "mountd.kernel.": ("mountd.core.",),
    "mountd.manifest.": ("mountd.core.",),
    "mountd.report.": ("mountd.core.", "mountd.manifest."),
    "mountd.reconcile.": (*_FLOORS, "mountd.exits"),
    "mountd.watch.": (*_FLOORS, "mountd.exits", "mountd.reconcile.", "mountd.report."),
    "mountd.check.": (*_FLOORS, "mountd.exits", "mountd.reconcile.", "mountd.report."),
    "mountd.explain.": (*_FLOORS, "mountd.exits", "mountd.reconcile.", "mountd.report."),
}
"""Whose modules each wing and each floor may import, beside its own."""
_AT_THE_ROOT = {
    "mountd.__init__", "mountd.arguments", "mountd.cli", "mountd.commands", "mountd.exits",
    "mountd.usage",
}  # fmt: skip
_KNOWN_BY: dict[str, str | tuple[str, ...]] = {
    "pydantic": "mountd.manifest.",
    "pydantic_core": "mountd.manifest.",
    "tomli": "mountd.manifest.",
    "ctypes": "mountd.kernel.",
    "systemd": ("mountd.report.journal", "mountd.watch.systemd"),
}


def _imports(module: str) -> set[str]:
    """What a module imports, also within functions; the modules of ours by their whole name."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(_PATHS[module].read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.module and not node.level, f"{module} imports by a relative path"
            inner = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= (inner & _PATHS.keys()) or {node.module}
    return found


_IMPORTS = {module: _imports(module) for module in _PATHS}
_EVERY = [(module, each) for module, imports in _IMPORTS.items() for each in imports]


@pytest.mark.parametrize("wing", _LAWS)
def test_a_wing_imports_nothing_but_what_its_law_allows(wing: str) -> None:
    ours = [(m, each) for m, each in _EVERY if m.startswith(wing) and each.startswith("mountd")]
    assert ours, f"nothing in {wing} imports anything of ours: has it moved?"
    assert [edge for edge in ours if not edge[1].startswith((wing, *_LAWS[wing]))] == []


def test_every_module_is_in_a_wing_or_one_of_those_at_the_root() -> None:
    outside = {module for module in _PATHS if not module.startswith(tuple(_LAWS))}
    assert outside == _AT_THE_ROOT


def test_core_does_no_input_or_output() -> None:
    core = [module for module in _PATHS if module.startswith("mountd.core.")]
    others = [(m, e) for m, e in _EVERY if m in core and not e.startswith("mountd.")]
    assert [edge for edge in others if edge[1].partition(".")[0] not in _PURE] == []
    names = [
        (module, node.id)
        for module in core
        for node in ast.walk(ast.parse(_PATHS[module].read_text()))
        if isinstance(node, ast.Name) and node.id in ("open", "print", "input", "__import__")
    ]
    assert names == []


@pytest.mark.parametrize("library", _KNOWN_BY)
def test_a_library_is_known_to_one_place_alone(library: str) -> None:
    users = {module for module, each in _EVERY if each.partition(".")[0] == library}
    assert users, f"nobody imports {library}"
    assert {module for module in users if not module.startswith(_KNOWN_BY[library])} == set()


def test_no_module_imports_itself_by_way_of_others() -> None:
    ours = {module: imports & _PATHS.keys() for module, imports in _IMPORTS.items()}
    TopologicalSorter(ours).prepare()  # or CycleError, which names the circle


def test_named_tuples_are_of_the_kind_that_is_made_quickly() -> None:
    users = [
        module
        for module, path in _PATHS.items()
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ImportFrom) and node.module == "typing"
        if "NamedTuple" in [alias.name for alias in node.names]
    ]
    assert users == ["mountd.core.named_tuple"], "import it from there"
