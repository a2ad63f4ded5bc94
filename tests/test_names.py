"""Names that say nothing of their content, checked on the syntax trees: CONTRIBUTING.md, Habits."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("selavi", "datamodules", "tools")
VAGUE = {"found", "told", "each", "there", "sure", "known", "wanted"}
SHORT = 8
"""Lines of a body from which on a vague name is refused."""

Function = ast.FunctionDef | ast.AsyncFunctionDef


def faults(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Yield (line, fault) for each vague name that lives long, and for each docstring that begins with `Of`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef):
            for line, name in _assigned(node.body):
                yield line, f"`{name}`, at the top of a module or class, says nothing of its content"
        if isinstance(node, Function):
            for line, name in _parameters(node):
                yield line, f"the parameter `{name}` of {node.name} says nothing of its content"
            if _lines_of(node) >= SHORT:
                for line, name in _assigned(node.body):
                    yield line, f"`{name}` in {node.name}, a long body, says nothing of its content"
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and _begins_with_of(node.value.value):
            yield node.lineno, "this docstring begins with `Of`: name its subject first"


def _begins_with_of(text: object) -> bool:
    return isinstance(text, str) and text.lstrip().startswith("Of ")


def _parameters(function: Function) -> Iterator[tuple[int, str]]:
    arguments = function.args
    optional = [argument for argument in (arguments.vararg, arguments.kwarg) if argument is not None]
    for argument in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs, *optional):
        if argument.arg in VAGUE:
            yield argument.lineno, argument.arg


def _assigned(body: list[ast.stmt]) -> Iterator[tuple[int, str]]:
    """Vague names that a body binds itself, also as `self.name`; not those of functions and classes inside it."""
    for statement in body:
        yield from _bound(statement)


def _bound(node: ast.AST) -> Iterator[tuple[int, str]]:
    if isinstance(node, Function | ast.ClassDef | ast.Lambda):
        return
    if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store) and node.id in VAGUE:
        yield node.lineno, node.id
    if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store) and node.attr in VAGUE:
        yield node.lineno, node.attr
    if isinstance(node, ast.comprehension):  # it lives for one line
        return
    for child in ast.iter_child_nodes(node):
        yield from _bound(child)


def _lines_of(function: Function) -> int:
    """Lines of a body without its docstring."""
    body = function.body
    if ast.get_docstring(function, clean=False) is not None:
        body = body[1:]
    return (body[-1].end_lineno or 0) - body[0].lineno + 1 if body else 0


def _faults_of(file: Path) -> list[str]:
    path = file.relative_to(ROOT).as_posix()
    return [f"{path}:{line} {fault}" for line, fault in sorted(faults(ast.parse(file.read_text(encoding="utf-8"))))]


def _files() -> list[Path]:
    return sorted(file for package in PACKAGES for file in (ROOT / package).rglob("*.py"))


def test_names_say_what_they_hold() -> None:
    lines = [line for file in _files() for line in _faults_of(file)]
    assert not lines, "\n" + "\n".join(lines)


LONG = "\n".join(f"    line_{number} = {number}" for number in range(SHORT))


@pytest.mark.parametrize(
    "source",
    [
        f"def f():\n    found = 1\n{LONG}",
        f"def f():\n    a, (told, b) = 1, (2, 3)\n{LONG}",
        f"def f():\n    for each in (1, 2):\n        pass\n{LONG}",
        f"def f():\n    if (there := 1):\n        pass\n{LONG}",
        f"def f(self):\n    self.known = 1\n{LONG}",
        "def f(wanted): ...",
        "def f(*, told=1): ...",
        "class C:\n    sure: int = 1",
        "found = 1",
        'x = 1\n"""Of x."""',
        'def f():\n    """Of the clips."""',
    ],
)
def test_a_vague_name_is_refused(source: str) -> None:
    assert len(list(faults(ast.parse(source)))) == 1


@pytest.mark.parametrize(
    "source",
    [
        "def f():\n    found = 1\n    return found",
        f"def f():\n    kept = [each for each in (1, 2)]\n{LONG}",
        f"def f():\n    print(found)\n{LONG}",
        f"def f():\n    def g():\n        found = 1\n        return found\n{LONG}",
        'def f():\n    """Often."""',
    ],
)
def test_a_short_life_and_other_names_pass(source: str) -> None:
    assert not list(faults(ast.parse(source)))
