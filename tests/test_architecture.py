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
    "bisect", "collections", "errno", "functools", "graphlib", "hashlib", "itertools", "re", "stat",
    "typing",
}  # fmt: skip
_LAYERS = {
    "mountd.core.": ("mountd.core.",),
    "mountd.kernel.": ("mountd.core.", "mountd.kernel."),
    "mountd.manifest.": ("mountd.core.", "mountd.manifest."),
}
_KNOWN_BY: dict[str, str | tuple[str, ...]] = {
    "pydantic": "mountd.manifest.",
    "pydantic_core": "mountd.manifest.",
    "tomli": "mountd.manifest.",
    "ctypes": "mountd.kernel.",
    "systemd": ("mountd.journal", "mountd.supervisor"),
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


@pytest.mark.parametrize("layer", _LAYERS)
def test_a_layer_imports_nothing_from_above_it(layer: str) -> None:
    ours = [(m, each) for m, each in _EVERY if m.startswith(layer) and each.startswith("mountd")]
    assert ours, f"nothing in {layer} imports anything of ours: has it moved?"
    assert [edge for edge in ours if not edge[1].startswith(_LAYERS[layer])] == []


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
