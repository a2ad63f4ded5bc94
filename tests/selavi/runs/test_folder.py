import re
from pathlib import Path

from selavi.runs.folder import RunFolder

ROOT = Path(__file__).resolve().parents[3]
FILES = ("manifest.parquet", "config.resolved.yaml", "env.json", "metrics.csv", "status.json", "bad_clips.csv")
FILES += ("clusters.parquet", "clusters.csv", "names.csv", "last.ckpt", "best.ckpt", "loggers.json", "mlflow.db")
FOLDERS = ("labels", "eval", "gallery", "handover", "assigned", "evidence", "export", "checkpoints")
SPELLED = re.compile(rf'/ f?"({"|".join(map(re.escape, (*FILES, *FOLDERS)))})"')
# The folder of a prepared set has a manifest, too.
ELSEWHERE = {"datamodules/stores/prepare.py"}


def test_the_files_of_a_run_are_named_in_one_place() -> None:
    spelled = [
        f"{path}:{number}"
        for package in ("selavi", "datamodules", "tools")
        for file in sorted((ROOT / package).rglob("*.py"))
        if (path := file.relative_to(ROOT).as_posix()) not in {"selavi/runs/folder.py", *ELSEWHERE}
        for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), 1)
        if SPELLED.search(line)
    ]
    assert not spelled, f"say RunFolder(...) there: {spelled}"


def test_names_of_a_split_and_a_head(tmp_path: Path) -> None:
    folder = RunFolder(str(tmp_path))
    assert folder.labels("test") == tmp_path / "labels" / "test.parquet"
    assert folder.report("v1.2").with_suffix("") == tmp_path / "eval" / "report_v1.2"
    assert folder.probes("", "test") == tmp_path / "eval" / "probe_test.json"
    assert folder.probes("ucf", "test") == tmp_path / "eval" / "probe_ucf_test.json"
    assert folder.evidence("train", 3) == tmp_path / "evidence" / "train-h3.parquet"
    assert RunFolder("50% off?").mlflow_address == "sqlite:///50%25 off%3F/mlflow.db"
