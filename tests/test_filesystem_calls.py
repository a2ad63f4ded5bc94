"""No question to the file system about other people's files goes unguarded: checked on the syntax trees.

A call is guarded where it stands in a `try` that catches OSError, or is one of os.path's (or glob's) that never raise.
What else asks is listed below with the reason why a fault there may end the tool, which selavi/cli.py then says in one
line.
"""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("selavi", "datamodules", "tools")
METHODS = {
    *("stat", "lstat", "is_dir", "is_file", "exists", "is_symlink", "is_mount", "samefile", "resolve", "readlink"),
    *(
        "iterdir",
        "glob",
        "rglob",
        "walk",
        "scandir",
        "listdir",
        "open",
        "read_bytes",
        "read_text",
        "getsize",
        "getmtime",
    ),
}
NEVER_RAISE = {"os.path.exists", "os.path.lexists", "os.path.isfile", "os.path.isdir", "os.path.islink"}
NOT_FILES = {
    "av.open",
    "self.open",
    "batch.open",
    "self.source.open",
    "archive.open",
    "Path(__file__).resolve",
    "_POOLS[self.pool].open",
    "files.exists",
}
CATCHING = {"OSError", "Exception", "BaseException", "EnvironmentError", "IOError", "_BROKEN"}

OWN = "a folder that selavi makes and owns: "
CALLER = "its callers catch OSError: "
# Where other people's media, lists and folders are read: function by function.
STRICT = (
    "datamodules/",
    "selavi/media/",
    "selavi/results/gallery/media.py",
    "selavi/results/gallery/thumbnails.py",
    "selavi/results/handover/",
)
ALLOWED: dict[str, dict[str, str]] = {
    "datamodules/doctor/machine.py": {"read_machine": "the operating system's files"},
    "datamodules/loading/shared_memory.py": {"require_shared_memory": "the operating system's files"},
    "datamodules/loading/mapped.py": dict.fromkeys(("_write", "_holds", "_remove_unused"), f"{CALLER}in_file"),
    "datamodules/processes.py": {"_serve": "the operating system's files"},
    "datamodules/stores/cache.py": dict.fromkeys(
        ("build_cache", "is_decoded", "_Work._append", "_map_file"), f"{OWN}data.cache_dir"
    ),
    "datamodules/index/notebook.py": dict.fromkeys(("Notebook.read", "Notebook.learn"), f"{OWN}data.cache_dir"),
    "datamodules/stores/shards.py": dict.fromkeys(
        ("open_shards", "_ShardFiles.open", "_ShardFiles._fetch", "_ShardFiles._make_room"),
        f"{OWN}a prepared set; ShardReader._opened catches OSError",
    ),
    "datamodules/synthetic.py": dict.fromkeys(("generate", "_check_root"), f"{OWN}the demo set"),
    "datamodules/index/new_clips.py": dict.fromkeys(("fix_list", "_require_place"), f"{OWN}--out"),
    "datamodules/loading/new_clips.py": dict.fromkeys(("ClipList.done", "ClipList.todo"), f"{OWN}--out"),
    "datamodules/stores/prepare.py": dict.fromkeys(
        (
            *("prepare", "require_place", "_begin", "_differing_clips", "_earlier_faults", "_mapped", "encode_part"),
            *("prepare_share", "_summary", "_names_in"),
            *("_Shards.write", "_Shards.shard_bytes", "_Shards._is_whole", "_Shards._assemble"),
            *("_Files.make", "_Files.manifest"),
        ),
        f"{OWN}OUT",
    ),
    "datamodules/index/walk.py": {"Walk._take": f"{CALLER}Walk._guarded"},
    "selavi/media/facts.py": {"_require_whole": f"{CALLER}translated"},
    "selavi/media/browser.py": {"_container_kind": f"{CALLER}open_container"},
    "selavi/results/gallery/media.py": dict.fromkeys(("copy_file", "transcode_file"), f"{OWN}the gallery"),
    "selavi/results/gallery/thumbnails.py": {"make_thumbnail": f"{OWN}the gallery"},
    "selavi/results/handover/folder.py": dict.fromkeys(
        ("Folder.link", "Folder.copy", "Folder._read_record"),
        f"{OWN}the hand-over; Clips.media has looked",
    ),
    "selavi/results/handover/formats.py": dict.fromkeys(
        ("fiftyone", "cvat", "labelstudio", "features"), f"{OWN}the hand-over"
    ),
}
# Elsewhere a fault ends the tool: selavi/cli.py says it in one line.
ELSEWHERE = {
    "selavi/atomic.py": f"{OWN}whatever is written",
    "selavi/guarded/": "ParquetReader and selavi.id_tables catch OSError",
    "selavi/config/": "settings of this installation",
    "selavi/id_tables.py": "a table that the user names",
    "selavi/arrays/": f"{OWN}data.cache_dir",
    "selavi/results/labels.py": f"{OWN}a run",
    "selavi/evaluation/": f"{OWN}a run",
    "selavi/results/gallery/": f"{OWN}the gallery",
    "selavi/results/timeline/": f"{OWN}--out",
    "selavi/results/naming.py": "a table that the user names",
    "selavi/pretrained/": "weights that the user names",
    "selavi/tensor_files.py": f"{OWN}a run, or weights that the user names",
    "selavi/training/": f"{OWN}a run",
    "selavi/runs/": f"{OWN}a run",
    "selavi/inference/": f"{OWN}a run",
    "selavi/localisation/": f"{OWN}a run",
    "selavi/refining/": f"{OWN}a run",
    "selavi/commands/": f"{OWN}a run",
    "tools/": f"{OWN}a run",
}


def unguarded(path: str, tree: ast.Module) -> Iterator[tuple[int, str, str]]:
    """Yield (line, function, call) for each call to the file system that nothing guards."""
    yield from _visit(tree, "", False)


def _visit(node: ast.AST, place: str, guarded: bool) -> Iterator[tuple[int, str, str]]:
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        place, guarded = f"{place}.{node.name}" if place else node.name, False
    if isinstance(node, ast.Try):
        caught = guarded or any(_catches(handler) for handler in node.handlers)
        for child in node.body:
            yield from _visit(child, place, caught)
        for child in (*node.handlers, *node.orelse, *node.finalbody):
            yield from _visit(child, place, guarded)
        return
    if isinstance(node, ast.With) and any("suppress" in ast.unparse(item.context_expr) for item in node.items):
        guarded = guarded or any("OSError" in ast.unparse(item.context_expr) for item in node.items)
    if isinstance(node, ast.Call) and not guarded and (name := _asks(node)):
        yield node.lineno, place, name
    for child in ast.iter_child_nodes(node):
        yield from _visit(child, place, guarded)


def _catches(handler: ast.ExceptHandler) -> bool:
    names = {node.id for node in ast.walk(handler.type) if isinstance(node, ast.Name)} if handler.type else {"OSError"}
    return bool(names & CATCHING)


def _asks(call: ast.Call) -> str | None:
    """The name of a call to the file system; None for any other."""
    if isinstance(call.func, ast.Name):
        asks = call.func.id == "open"
    else:
        asks = isinstance(call.func, ast.Attribute) and call.func.attr in METHODS
    if not asks:
        return None
    name = ast.unparse(call.func)
    return None if name in NEVER_RAISE or name in NOT_FILES else name


def _found() -> dict[tuple[str, str], list[str]]:
    found: dict[tuple[str, str], list[str]] = {}
    for package in PACKAGES:
        for file in sorted((ROOT / package).rglob("*.py")):
            path = file.relative_to(ROOT).as_posix()
            for line, place, name in unguarded(path, ast.parse(file.read_text(encoding="utf-8"))):
                found.setdefault((path, place), []).append(f"{path}:{line} {place or 'at the top'}: {name}")
    return found


def test_every_call_to_the_file_system_is_guarded_or_has_a_reason() -> None:
    allowed = {(path, place) for path, places in ALLOWED.items() for place in places}
    found = _found()
    new = [line for key, lines in found.items() if key not in allowed and not _is_elsewhere(key[0]) for line in lines]
    assert not new, "\n" + "\n".join(new)
    stale = allowed - found.keys()
    assert not stale, f"these ask nothing any more: {sorted(stale)}"


def _is_elsewhere(path: str) -> bool:
    return path.startswith(tuple(ELSEWHERE)) and not path.startswith(STRICT)


@pytest.mark.parametrize(
    ("source", "calls"),
    [
        ("def f(p):\n    return p.stat()", ["p.stat"]),
        ("def f(p):\n    try:\n        return p.stat()\n    except OSError:\n        return None", []),
        ("def f(p):\n    try:\n        return p.stat()\n    except (KeyError, OSError):\n        return None", []),
        ("def f(p):\n    try:\n        return p.stat()\n    except KeyError:\n        return None", ["p.stat"]),
        ("def f(p):\n    try:\n        pass\n    except OSError:\n        p.stat()", ["p.stat"]),
        ("def f(e):\n    return e.is_dir(follow_symlinks=False)", ["e.is_dir"]),
        ("def f(p):\n    with suppress(OSError):\n        p.read_text()", []),
        ("def f(p):\n    with suppress(KeyError):\n        p.read_text()", ["p.read_text"]),
        ("import os\ndef f(p):\n    return os.path.exists(p), os.scandir(p)", ["os.scandir"]),
        ("def f(p):\n    try:\n        def g():\n            open(p)\n    except OSError:\n        pass", ["open"]),
    ],
)
def test_what_counts_as_guarded(source: str, calls: list[str]) -> None:
    assert [name for _, _, name in unguarded("x.py", ast.parse(source))] == calls
