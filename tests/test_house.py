"""The rules of the house: who may import whom, and documents that say what is so."""

import ast
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]

# Every room, and the rooms right beneath it: it may import those and whatever is beneath them.
BENEATH = {
    "tools": {"experiments", "plan"},
    "experiments": {"serve", "chat", "plan", "labels", "prompting"},
    "serve": {"evaluate", "rl"},
    "chat": {"evaluate", "rl"},
    "plan": {"evaluate", "rl"},
    "labels": {"train"},
    "prompting": {"generate"},
    "evaluate": {"rl"},
    "rl": {"train"},
    "train": {"generate", "losses", "report"},
    "generate": {"models", "tasks"},
    "losses": {"models", "tasks"},
    "models": {"kernels", "data"},
    "kernels": {"parallel"},
    "parallel": {"bottom"},
    "tasks": {"data"},
    "data": {"text", "parallel"},
    "text": {"bottom"},
    "report": {"bottom"},  # it reads files only
    "bottom": set(),
}
# Files beside the rooms, for everyone.
BOTTOM = set("errors files keys ranges chips machine metrics readable seeds terminal".split())

Graph = dict[str, set[str]]


def sources() -> dict[str, Path]:
    """Every module of the repository by its dotted name; a package's is that of its folder."""
    tops = ("gpt_jax", "experiments", "tools")
    paths = [path for top in tops for path in ROOT.glob(f"{top}/**/*.py")]
    names = {".".join(path.relative_to(ROOT).with_suffix("").parts): path for path in paths}
    return {name.removesuffix(".__init__"): path for name, path in sorted(names.items())}


def imported(nodes: Iterable[ast.AST], modules: Iterable[str]) -> Iterator[str]:
    """The modules that these nodes import: `from a import b` is a.b where that is a module."""
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"import {node.module} by its whole name"
            for alias in node.names:
                name = f"{node.module}.{alias.name}"
                yield name if name in modules else node.module


def imports() -> Iterator[tuple[str, Path, str]]:
    """(module, its file, what it imports) for every import anywhere in a file."""
    modules = sources()
    for name, path in modules.items():
        nodes = ast.walk(ast.parse(path.read_text()))
        yield from ((name, path, other) for other in imported(nodes, modules))


def when_loaded(tree: ast.AST) -> Iterator[ast.AST]:
    """The statements that run when the file is imported: those outside of functions."""
    for node in ast.iter_child_nodes(tree):
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node
            yield from when_loaded(node)


def room_of(module: str) -> str:
    """The first folder under gpt_jax; of a file beside the rooms, its own name or the bottom."""
    top, *rest = module.split(".")
    name = rest[0] if top == "gpt_jax" and rest else top
    return "bottom" if name in BOTTOM else name


def reachable(graph: Graph, start: str) -> set[str]:
    """Everything that some way along the arrows leads to; `start` itself only by a circle."""
    found, pending = set(), [start]
    while pending:
        new = graph.get(pending.pop(), set()) - found
        found |= new
        pending += new
    return found


def circles(graph: Graph) -> list[str]:
    """The nodes that lie on a circle of arrows."""
    return sorted(node for node in graph if node in reachable(graph, node))


def test_imports_run_one_way():
    assert not circles(BENEATH)
    modules = sources()
    for name, path, other in imports():
        if other in modules and room_of(other) != room_of(name):
            assert room_of(name) in BENEATH, f"{path}: give {room_of(name)} a row in BENEATH"
            assert room_of(other) in reachable(BENEATH, room_of(name)), f"{path} imports {other}"


def test_no_two_rooms_import_each_other():
    modules, arrows = sources(), {}
    for name, _, other in imports():
        if other in modules and room_of(other) != room_of(name):
            arrows.setdefault(room_of(name), set()).add(room_of(other))
    assert circles(arrows) == []


def test_no_two_files_wait_for_each_other():
    """Import at the top of a file; inside a function it would come later, and may be a circle."""
    modules = sources()
    arrows = {
        name: set(imported(when_loaded(ast.parse(path.read_text())), modules)) & set(modules)
        for name, path in modules.items()
    }
    assert circles(arrows) == []


def test_circles_are_seen():
    """Break it: let `reachable` begin with `start` among what it found, or not follow `new`."""
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"b"}, "d": {"a"}}) == ["b", "c"]
    tree = ast.parse("if x:\n    import a.b\ndef f():\n    import c\n")
    assert list(imported(when_loaded(tree), {})) == ["a.b"]
    assert list(imported(ast.walk(tree), {})) == ["a.b", "c"]
    assert [*imported(ast.walk(ast.parse("from a import b, c")), {"a.b"})] == ["a.b", "a"]


def test_only_the_models_know_flax_and_nobody_knows_private_jax():
    for _, path, module in imports():
        assert not module.startswith("jax._src"), path
        if module.split(".")[0] == "flax":
            assert path.parent.name == "models", path


def test_the_readme_shows_the_tested_example():
    example = (ROOT / "experiments" / "confidence_penalty.py").read_text()
    assert example in (ROOT / "README.md").read_text()
    assert len(example.splitlines()) <= 40


def test_the_invariants_name_tests_that_cite_them():
    text = (ROOT / "docs" / "invariants.md").read_text()
    items = dict(re.findall(r"^(\d+)\. (.*?)(?=^\d|\Z)", text, re.MULTILINE | re.DOTALL))
    assert list(items) == [str(number) for number in range(1, len(items) + 1)]
    for number, item in items.items():
        files = re.findall(r"`(tests/\S+\.py)`", item)
        assert files, number
        for file in files:
            cited = re.findall(r"[Ii]nvariants? ([\d, and]+)", (ROOT / file).read_text())
            assert number in re.findall(r"\d+", " ".join(cited)), f"{file} cites no {number}"
