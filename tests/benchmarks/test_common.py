"""benchmarks/common.py: a training that is stopped goes on, and its minutes are those of its parts."""

from pathlib import Path
from types import ModuleType

import pytest

from selavi.runs.folder import RunFolder

MODULES = ("common",)


def test_a_stopped_training_goes_on_from_its_checkpoint(
    benchmarks: dict[str, ModuleType], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    common = benchmarks["common"]
    (tmp_path / "small.yaml").write_text("")
    monkeypatch.setattr(common, "ROOT", tmp_path)
    job = common.Job("labels", "one", "row", 0, "small.yaml", ("optim.lr=1",), ("train",))
    files = RunFolder(tmp_path / job.run_dir())
    said: list[list[str]] = []
    clock = iter([0.0, 100.0, 1000.0, 1007.0, 2000.0, 2003.0])
    monkeypatch.setattr(common.time, "monotonic", lambda: next(clock))

    def stop(words: list[str], folders: dict[str, Path]) -> None:
        """Make the folder, and, the second time, a checkpoint; the third part ends."""
        said.append(words)
        files.path.mkdir(parents=True, exist_ok=True)
        if len(said) == 2:
            files.last_checkpoint.parent.mkdir()
            files.last_checkpoint.touch()
        if len(said) < 3:
            raise SystemExit(75)

    monkeypatch.setattr(common, "run_tool", stop)
    for _ in range(2):
        with pytest.raises(SystemExit):
            common._train(job, {})
    assert common._train(job, {}) == 10.0  # the first part was thrown away: it had no checkpoint
    assert [words[-1] == "resume=auto" for words in said] == [False, False, True]
