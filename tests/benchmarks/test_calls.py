"""Benchmarks call the package as it is now: mypy does not look at them, and nobody runs them all after each change."""

import ast
import importlib
import inspect
from collections.abc import Iterator
from pathlib import Path

import pytest

SCRIPTS = sorted((Path(__file__).resolve().parents[2] / "benchmarks").glob("*.py"))
PACKAGES = ("selavi", "datamodules")
EARLIER = {"scale.py"}
"""Also measures earlier commits, whose functions it calls where they are there."""


def imported(tree: ast.Module) -> Iterator[tuple[str, str, str]]:
    """(name in the script, module, name there) of what it takes from the package."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] in PACKAGES:
            for alias in node.names:
                yield alias.asname or alias.name, node.module, alias.name


@pytest.mark.parametrize("script", [path for path in SCRIPTS if path.name not in EARLIER], ids=lambda path: path.stem)
def test_calls_fit_what_is_called(script: Path) -> None:
    tree = ast.parse(script.read_text(encoding="utf-8"))
    objects = {}
    for name, module, there in imported(tree):
        package = importlib.import_module(module)
        objects[name] = getattr(package, there, None) or importlib.import_module(f"{module}.{there}")
    wrong = []
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        function = node.func
        called = objects.get(function.id) if isinstance(function, ast.Name) else None
        if isinstance(function, ast.Attribute) and isinstance(function.value, ast.Name):
            owner = objects.get(function.value.id)
            called = getattr(owner, function.attr) if inspect.ismodule(owner) else None
        given = {word.arg: None for word in node.keywords if word.arg is not None}
        spreads = len(given) < len(node.keywords) or any(isinstance(value, ast.Starred) for value in node.args)
        is_exception = isinstance(called, type) and issubclass(called, Exception)  # some of these say nothing
        if spreads or is_exception or not callable(called):
            continue
        try:
            inspect.signature(called).bind(*[None] * len(node.args), **given)
        except TypeError as error:
            wrong.append(f"line {node.lineno}: {ast.unparse(function)}: {error}")
    assert not wrong
