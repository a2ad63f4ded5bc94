"""No file is ever unpickled or run: what comes from somebody else is read as data, checked on the syntax trees.

Processes of one program may pass objects to each other (multiprocessing does so by pickling); files may not.
"""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = ("selavi", "datamodules", "tools", "benchmarks", "docs")
MODULES = {"pickle", "cPickle", "_pickle", "joblib", "dill", "cloudpickle", "shelve", "marshal", "jsonpickle"}
ERRORS_ALONE = {"pickle.UnpicklingError", "pickle.PicklingError"}
CALLS = {"eval", "exec", "read_pickle", "unsafe_load", "full_load", "yaml.load", "torch.jit.load", "torch.export.load"}
NEEDED = {
    "torch.load": ("weights_only", True),
    "np.load": ("allow_pickle", False),
    "numpy.load": ("allow_pickle", False),
}


def violations(source: str) -> Iterator[str]:
    """What a module does that could run code out of a file, with its line."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            names = []
        for name in names:
            if name.split(".")[0] in MODULES and name not in ERRORS_ALONE:
                yield f"{node.lineno} imports {name}"
        if isinstance(node, ast.Call):
            yield from _wrong_call(node)


def _wrong_call(node: ast.Call) -> Iterator[str]:
    name = ast.unparse(node.func)
    if name in CALLS or name.split(".")[-1] in {"read_pickle", "unsafe_load", "full_load"}:
        yield f"{node.lineno} calls {name}"
    if name in NEEDED:
        word, value = NEEDED[name]
        given = {keyword.arg: keyword.value for keyword in node.keywords}
        if not (isinstance(given.get(word), ast.Constant) and given[word].value is value):
            yield f"{node.lineno} calls {name} without {word}={value}"


def test_nothing_here_unpickles_a_file() -> None:
    files = [path for folder in FOLDERS for path in sorted((ROOT / folder).rglob("*.py"))]
    assert len(files) > 200
    found = [f"{path.relative_to(ROOT)}:{line}" for path in files for line in violations(path.read_text("utf-8"))]
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    "source",
    [
        "import pickle",
        "from pickle import load",
        "import joblib.memory",
        "import torch\ntorch.load(path)",
        "torch.load(path, weights_only=False)",
        "torch.load(path, weights_only=trusted)",
        "np.load(path)",
        "np.load(path, allow_pickle=True)",
        "yaml.load(text, Loader)",
        "pd.read_pickle(path)",
        "eval(text)",
    ],
)
def test_it_would_be_seen(source: str) -> None:
    assert list(violations(source))


@pytest.mark.parametrize(
    "source", ["from pickle import UnpicklingError", "model.eval()", "np.load(p, allow_pickle=False)"]
)
def test_what_does_no_harm_is_let_be(source: str) -> None:
    assert not list(violations(source))
