"""The rules of the house: who may import whom, and a README that shows real code."""

import ast
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]

# Imports run down these rows only (and freely within one).
FLOORS = [
    {"experiments"},
    {"train", "rl", "evaluate", "chat"},
    {"losses", "generate"},
    {"models"},
    {"parallel", "kernels", "tasks", "data", "text"},
    {"report"},
    {"errors", "files", "keys", "metrics", "ranges", "readable"},
]


def floor_of(module: str) -> int:
    parts = module.split(".")
    name = parts[1] if parts[0] == "gpt_jax" and len(parts) > 1 else parts[0]
    return next(i for i, names in enumerate(FLOORS) if name in names)


def imports():
    """(file, imported module) for every import in the library and the experiments."""
    for path in sorted([*ROOT.glob("gpt_jax/**/*.py"), *ROOT.glob("experiments/*.py")]):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and node.module == "gpt_jax":
                yield from ((path, f"gpt_jax.{alias.name}") for alias in node.names)
            elif isinstance(node, ast.ImportFrom):
                yield path, node.module
            elif isinstance(node, ast.Import):
                yield from ((path, alias.name) for alias in node.names)


def test_imports_run_one_way():
    for path, module in imports():
        if module.split(".")[0] in ("gpt_jax", "experiments"):
            importer = ".".join(path.relative_to(ROOT).with_suffix("").parts)
            assert floor_of(importer) <= floor_of(module), f"{path} imports {module}"


def test_only_the_models_know_flax_and_nobody_knows_private_jax():
    for path, module in imports():
        assert not module.startswith("jax._src"), path
        if module.split(".")[0] == "flax":
            assert path.parent.name == "models", path


def test_the_readme_shows_the_tested_example():
    example = (ROOT / "experiments" / "confidence_penalty.py").read_text()
    assert example in (ROOT / "README.md").read_text()
    assert len(example.splitlines()) <= 40
