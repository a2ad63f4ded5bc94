"""docs/python.md and docs/tutorial.ipynb run as they are printed."""

import json
import re
from pathlib import Path

import pytest

import selavi
from selavi.commands import label_plan
from selavi.planning import Length


def python_examples(page: Path) -> list[str]:
    return re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)


@pytest.mark.slow
@pytest.mark.end_to_end
def test_the_examples_of_python_md_run_in_their_order(repository: Path, beside_videos: Path) -> None:
    """`runs/videos` is there as the first example would leave it: without it, it only takes longer."""
    examples = python_examples(repository / "docs" / "python.md")
    assert len(examples) == 6
    names: dict[str, object] = {}
    for example in examples:
        exec(compile(example, "docs/python.md", "exec"), names)
    by_hand = names["by_hand"]
    assert isinstance(by_hand, selavi.LabelledRun) and by_hand.gallery.exists()


def cells(repository: Path) -> list[dict[str, object]]:
    notebook = json.loads((repository / "docs" / "tutorial.ipynb").read_text(encoding="utf-8"))
    assert notebook["nbformat"] == 4
    return notebook["cells"]


def test_the_notebook_holds_no_outputs(repository: Path) -> None:
    for cell in cells(repository):
        assert cell["cell_type"] == "markdown" or (cell["outputs"] == [] and cell["execution_count"] is None)


@pytest.mark.slow
@pytest.mark.end_to_end
def test_the_notebook_runs(repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a shorter training than it asks for."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(label_plan, "plan_length", lambda *_: Length(2, 2, 1.0, "time"))
    names: dict[str, object] = {}
    for cell in cells(repository):
        if cell["cell_type"] == "code":
            exec(compile("".join(cell["source"]), "docs/tutorial.ipynb", "exec"), names)  # type: ignore[arg-type]
    assert (tmp_path / "tutorial" / "run" / "gallery" / "index.html").exists()
