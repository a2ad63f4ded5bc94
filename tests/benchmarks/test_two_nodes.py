"""benchmarks/two_nodes.py reads how processes ended from what they print; its page counts that."""

from types import ModuleType
from typing import Any

import pytest

MODULES = ("common", "two_nodes")
LOG = """\
training: 44 of 160 steps, epoch 11, 54.1 clips/s, loss 1.996, about 2 min left
lost touch with process 1 of 2 (pid 25816 on node1), last heard of 24 s ago (Timed out): it has ended, or it hangs
  rank      : 0 (local_rank: 0)
  exitcode  : 75 (pid: 25815)
"""
END = {
    "machine": 0,
    "ended_s": 21.26,
    "code": 75,
    "names_the_other": True,
    "message": "lost touch, last heard of 24 s ago",
}


def run(fault: str, ends: list[dict[str, Any]], **facts: Any) -> dict[str, Any]:
    return {"fault": fault, "ends": ends, "is_whole": True, "labels_equal": True, "litter": [], **facts}


def test_the_end_of_a_process_is_read_from_its_log(benchmarks: dict[str, ModuleType]) -> None:
    ending = benchmarks["two_nodes"].ending
    assert (ending(LOG, 1)["code"], ending(LOG, 1)["names_the_other"]) == (75, True)
    assert ending(LOG, 1)["message"].startswith("lost touch with process 1 of 2 (pid 25816 on node1)")
    assert not ending(LOG, 0)["names_the_other"]  # that is the process itself
    assert ending("Killed\n", 1) == {"code": None, "names_the_other": False, "message": ""}


def test_what_became_of_the_processes_is_counted(benchmarks: dict[str, ModuleType]) -> None:
    hangs = END | {"ended_s": None, "code": None, "names_the_other": False, "message": ""}
    runs = [
        run("link down", [END, END | {"ended_s": 25.04}]),
        run("link down", [END, hangs], is_whole=False, labels_equal=False, litter=["x.tmp"]),
        run("machine 1 stopped", [END]),
    ]
    machine = {"processor": "a processor", "cores": 2}
    result = {"date": "today", "machine": machine, "undisturbed_equal": True, "runs": runs}
    page = benchmarks["two_nodes"].page(result)
    assert (
        "| the link is taken down | 2 | 3 of 4 | 25.0 | 24, 24, 24 | 75, None | 3 of 4 | 1 of 2 | 1 of 2 | 1 |" in page
    )
    assert (
        "| SIGSTOP for all processes of machine 1 | 1 | 1 of 1 | 21.3 | 24 | 75 | 1 of 1 | 1 of 1 | 1 of 1 | 0 |"
        in page
    )
    table = [line for line in page.splitlines() if line.startswith("|")]
    assert len({line.count("|") for line in table}) == 1
    assert "the labels of the two machines equal those" in page
    assert "are NOT those" in benchmarks["two_nodes"].page(result | {"undisturbed_equal": False})


def test_where_namespaces_cannot_be_made_it_says_what_is_missing(
    benchmarks: dict[str, ModuleType], monkeypatch: pytest.MonkeyPatch
) -> None:
    two_nodes = benchmarks["two_nodes"]
    monkeypatch.setattr(two_nodes.shutil, "which", lambda name: None if name == "ip" else f"/bin/{name}")
    monkeypatch.setattr(two_nodes.os, "geteuid", lambda: 1000)
    with pytest.raises(SystemExit, match="root's rights, ip missing here; nothing was run"):
        two_nodes.require_namespaces()
