"""The page of benchmarks/killed.py counts what happened; a trial's runs are never published."""

from types import ModuleType
from typing import Any

MODULES = ("common", "killed")
LIFE = {"tool": "train", "code": -9, "began": 10.0, "hit": 19.0, "written": 17.5, "lost_s": 1.5, "is_fine": True}


def run(signal: str, lives: list[dict[str, Any]], **facts: Any) -> dict[str, Any]:
    return {"signal": signal, "lives": lives, "labels_equal": True, "scores_equal": True, "litter": [], **facts}


def test_what_was_lost_is_counted(benchmarks: dict[str, ModuleType]) -> None:
    lives = [LIFE, LIFE | {"tool": "cluster_eval", "lost_s": None}, LIFE | {"lost_s": 0.25, "is_fine": False}]
    runs = [run("SIGKILL", lives), run("SIGKILL", [LIFE], labels_equal=False, litter=["x.tmp"]), run("SIGTERM", [])]
    machine = {"processor": "a processor", "cores": 2}
    page = benchmarks["killed"].page({"length_s": 30.4, "machine": machine, "runs": runs})
    assert "| SIGKILL | 4 | train 3, cluster_eval 1, export_clusters 0 | 3 | 1 of 2 | 2 of 2 | 1.5 | 1 |" in page
    assert "| SIGTERM | 0 | train 0, cluster_eval 0, export_clusters 0 | 0 | 1 of 1 | 1 of 1 | none | 0 |" in page
    assert "(30 s when it is left alone)" in page
