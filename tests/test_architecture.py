"""The import rules of docs/ARCHITECTURE.md, checked on the syntax trees; nothing is imported."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("selavi", "datamodules", "tools")

# A room of selavi/ imports itself and the rows above its own, never a neighbour in its row.
LEAVES = {"errors", "atomic", "randomness", "ids", "filesystem", "memory", "signals", "wording"}
ROWS: list[set[str]] = [
    LEAVES,
    {"guarded"},
    {"batch", "media", "distributed", "tensor_files", "id_tables", "meter", "scores", "transfers"},
    {"modalities", "arrays", "shared_tensor"},
    {"config"},
    {"runs", "planning"},
    {"encoders", "augment", "heads", "labelling"},
    {"model", "results"},
    {"pretrained"},
    {"inference"},
    {"training", "cli"},
    {"evaluation", "localisation", "refining"},
    {"commands"},
]
# Rooms that see less than the rows above them.
NARROWER = {"results": LEAVES | {"guarded", "media", "id_tables", "scores", "runs"}, "cli": LEAVES}
SEEN_BY_DATAMODULES = set().union(*ROWS[:6])

PAGES = ("selavi/results/gallery/", "selavi/results/timeline/", "selavi/evaluation/report_page.py")

# Imported, or reached as an attribute, only in files whose path starts so.
ONLY_IN: dict[str, tuple[str, ...]] = {
    "torch.distributed": ("selavi/distributed.py",),
    "omegaconf": ("selavi/config/files.py",),
    "av": ("selavi/media/",),
    "pytorch_lightning": ("selavi/training/", "datamodules/clips.py"),
    "lightning": (),  # the same library under a second name
    "tqdm": ("selavi/meter.py",),
    "ray": ("selavi/commands/on_ray.py",),
    "pyarrow.parquet": ("selavi/guarded/", "selavi/results/handover/"),  # hand-over writes, for others to read
    "jinja2": PAGES,
    "markupsafe": PAGES,
}
HTML_TAG = re.compile(r"<(html|body|div|span|p|table|tr|td|a|img|video|audio|script|style|h[1-6])(\s[^>]*)?>")


def violations(root: Path) -> list[str]:
    """Return one line for each broken rule among the packages under `root`."""
    found = []
    for package in PACKAGES:
        for file in sorted((root / package).rglob("*.py")):
            path = file.relative_to(root).as_posix()
            source = file.read_text(encoding="utf-8")
            tree = ast.parse(source, filename=path)
            found += [f"{path}:{line} {problem}" for line, problem in _broken_imports(path, tree)]
            if not path.startswith(PAGES):
                found += [f"{path}:{line} holds HTML; it belongs in {PAGES}" for line in _html_lines(tree)]
    return found


def _broken_imports(path: str, tree: ast.Module) -> Iterator[tuple[int, str]]:
    package = path.split("/")[0]
    room = _room(_module_name(path)) if package == "selavi" else None
    if room is not None and _row(room) is None:
        yield 1, f"is in room {room}, which has no row; add it to ROWS here and to docs/ARCHITECTURE.md"
        return
    for line, target in sorted(set(_uses(path, tree))):
        for name, places in ONLY_IN.items():
            if _is_within(target, name) and not path.startswith(places):
                yield line, f"uses {target}; only {places or 'nobody'} may use {name}"
        owner = target.split(".")[0]
        if owner not in (*PACKAGES, "tests", "benchmarks") or (owner == package and package != "selavi"):
            continue
        if owner == "selavi":
            seen = _room(target)
            if seen is not None and seen != room and not _may_see(package, room, seen):
                yield line, f"imports {target}; {room or package} may not see {seen}"
        elif not (room == "commands" and owner == "datamodules"):
            yield line, f"imports {target}; {package} may not see {owner}"


def _may_see(package: str, room: str | None, seen: str) -> bool:
    if package == "tools":
        return seen in {"commands", "cli"}
    if package == "datamodules":
        return seen in SEEN_BY_DATAMODULES
    if room is None:  # selavi/__init__.py, which every import of selavi runs first; it reaches for the rest late
        return seen == "commands"
    if room in NARROWER:
        return seen in NARROWER[room]
    own_row, seen_row = _row(room), _row(seen)
    return own_row is not None and seen_row is not None and seen_row < own_row


def _room(module: str) -> str | None:
    """selavi.labelling.solver.transport -> labelling; selavi itself -> None; `python -m selavi` is a command."""
    parts = module.split(".")[1:]
    if parts == ["__main__"]:
        return "commands"
    # `from selavi import __version__` names no room
    return parts[0] if parts and not parts[0].startswith("__") else None


def _row(room: str) -> int | None:
    return next((index for index, row in enumerate(ROWS) if room in row), None)


def _module_name(path: str) -> str:
    return path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")


def _is_within(target: str, name: str) -> bool:
    return target == name or target.startswith(name + ".")


def _uses(path: str, tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Yield (line, full dotted name) of imports and of attributes reached through them."""
    bound: dict[str, str] = {}
    package_parts = _module_name(path).split(".")
    if not path.endswith("/__init__.py"):
        package_parts = package_parts[:-1]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name
                top = alias.name.split(".")[0]
                bound[alias.asname or top] = alias.name if alias.asname else top
        elif isinstance(node, ast.ImportFrom):
            parents = package_parts[: len(package_parts) - node.level + 1] if node.level else []
            origin = ".".join([*parents, *([node.module] if node.module else [])])
            for alias in node.names:
                yield node.lineno, f"{origin}.{alias.name}"
                bound[alias.asname or alias.name] = f"{origin}.{alias.name}"
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            names, inner = [node.attr], node.value
            while isinstance(inner, ast.Attribute):
                names, inner = [inner.attr, *names], inner.value
            if isinstance(inner, ast.Name) and inner.id in bound:
                yield node.lineno, ".".join([bound[inner.id], *names])


def _html_lines(tree: ast.Module) -> Iterator[int]:
    docstrings = {
        id(node.body[0].value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
        and node.body
        and isinstance(node.body[0], ast.Expr)
    }
    for node in ast.walk(tree):
        if not isinstance(node, ast.Constant) or not isinstance(node.value, str) or id(node) in docstrings:
            continue
        if HTML_TAG.search(node.value.lower()):
            yield node.lineno


def test_the_packages_keep_the_rules() -> None:
    assert (ROOT / "selavi/__init__.py").exists()
    broken = violations(ROOT)
    assert not broken, "\n" + "\n".join(broken)


@pytest.mark.parametrize(
    "module", ["datamodules.index.probing", "datamodules.stores.prepare", "datamodules.index.scan"]
)
def test_workers_that_only_read_media_start_without_torch(module: str) -> None:
    """Each of their processes imports its module: torch and scipy.signal would cost it seconds and 500 MB."""
    told = f"import sys, {module}; print(*({{'torch', 'scipy.signal'}} & sys.modules.keys()))"
    found = subprocess.run([sys.executable, "-c", told], cwd=ROOT, capture_output=True, text=True, check=True)
    assert not found.stdout.strip()


@pytest.mark.parametrize(
    ("path", "source", "problem"),
    [
        ("selavi/training/module.py", "import datamodules.index.manifest", "selavi may not see datamodules"),
        ("selavi/training/module.py", "from tools import train", "selavi may not see tools"),
        ("selavi/labelling/bank.py", "from ..training import optim", "labelling may not see training"),
        ("selavi/labelling/bank.py", "def f():\n    import selavi.model", "labelling may not see model"),
        ("selavi/heads.py", "from selavi import augment", "heads may not see augment"),
        ("selavi/batch.py", "import selavi.config", "batch may not see config"),
        ("selavi/errors.py", "import selavi.media as m", "errors may not see media"),
        ("selavi/training/optim.py", "import selavi.evaluation.report", "training may not see evaluation"),
        ("selavi/results/gallery/page.py", "from selavi.model import Model", "results may not see model"),
        ("selavi/results/gallery/page.py", "from selavi.evaluation import report", "may not see evaluation"),
        ("selavi/cli.py", "from selavi.config import Config", "cli may not see config"),
        ("selavi/__init__.py", "from selavi.model import Model", "selavi may not see model"),
        ("selavi/extras/new.py", "", "room extras, which has no row"),
        ("datamodules/clips.py", "import selavi.labelling.bank", "datamodules may not see labelling"),
        ("datamodules/clips.py", "from tools import train", "datamodules may not see tools"),
        ("tools/train.py", "from tests import helpers", "tools may not see tests"),
        ("selavi/labelling/bank.py", "import torch.distributed as dist", "may use torch.distributed"),
        ("selavi/heads.py", "import torch\ntorch.distributed.get_rank()", "uses torch.distributed"),
        ("selavi/labelling/bank.py", "from torch import distributed", "may use torch.distributed"),
        ("tools/train.py", "from selavi.training import module", "tools may not see training"),
        ("tools/train.py", "import datamodules.clips", "tools may not see datamodules"),
        ("selavi/evaluation/report.py", "from selavi.commands import train", "evaluation may not see commands"),
        ("selavi/commands/train.py", "from tools import train", "selavi may not see tools"),
        ("selavi/commands/train.py", "from omegaconf import OmegaConf", "may use omegaconf"),
        ("datamodules/index/scan.py", "import av", "may use av"),
        ("datamodules/index/scan.py", "import pytorch_lightning as pl", "may use pytorch_lightning"),
        ("selavi/commands/train.py", "import lightning.pytorch", "may use lightning"),
        ("selavi/results/cluster_table.py", "import jinja2", "may use jinja2"),
        ("selavi/results/cluster_table.py", 'row = f"<td>{1}</td>"', "holds HTML"),
    ],
)
def test_a_planted_violation_is_found(tmp_path: Path, path: str, source: str, problem: str) -> None:
    _plant(tmp_path, path, source)
    found = violations(tmp_path)
    assert any(line.startswith(path) and problem in line for line in found), found


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("selavi/training/module.py", "import pytorch_lightning as pl\nfrom selavi.model import Model"),
        ("selavi/training/speed.py", "from selavi.scores.metrics import nmi\nfrom . import optim"),
        ("selavi/evaluation/report_page.py", 'import jinja2\nfrom .metrics import nmi\npage = "<table><tr>"'),
        ("selavi/scores/metrics.py", "import numpy\nfrom selavi.errors import UsageError"),
        ("selavi/results/gallery/page.py", "import jinja2\nfrom selavi import __version__, atomic, media"),
        ("selavi/media/files.py", "import av\nfrom selavi.errors import DataError"),
        ("selavi/results/cluster_table.py", '"""Cells that a <table> shows."""\nis_less = "<a" < "b>"'),
        ("selavi/distributed.py", "import torch\ntorch.distributed.get_rank()"),
        ("selavi/config/files.py", "def f():\n    from omegaconf import OmegaConf"),
        ("datamodules/clips.py", "import pytorch_lightning\nfrom selavi import batch\nfrom . import scan"),
        ("selavi/commands/train.py", "from datamodules.clips import Clips\nfrom selavi.training.module import Module"),
        ("selavi/__main__.py", "from selavi.commands.main import main"),
        ("tools/train.py", "from selavi.commands.main import tool"),
    ],
)
def test_what_the_rules_allow_passes(tmp_path: Path, path: str, source: str) -> None:
    _plant(tmp_path, path, source)
    assert violations(tmp_path) == []


def _plant(root: Path, path: str, source: str) -> None:
    (root / path).parent.mkdir(parents=True)
    (root / path).write_text(source, encoding="utf-8")
