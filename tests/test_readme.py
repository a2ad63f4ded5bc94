"""What README.md shows is true of the code: its Python runs, its links and settings exist."""

import re
from pathlib import Path

import pyarrow as pa
import pytest

from selavi.config import Config, as_dict
from selavi.results.cluster_table import CLUSTER_SCHEMA, write_cluster_tables

ROOT = Path(__file__).resolve().parents[1]
PAGES = ["README.md", *(path.relative_to(ROOT).as_posix() for path in sorted((ROOT / "docs").glob("*.md")))]
README = (ROOT / "README.md").read_text(encoding="utf-8")


@pytest.mark.slow
@pytest.mark.end_to_end
def test_the_python_examples_run(beside_videos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [
        dict.fromkeys(CLUSTER_SCHEMA.names, 0)
        | {"id": name, "path": name, "confidence": sure, "name": None, "label": None}
        for name, sure in (("a.mp4", 0.95), ("b.mp4", 0.5))
    ]
    write_cluster_tables([pa.Table.from_pylist(rows, CLUSTER_SCHEMA)], beside_videos / "runs" / "demo")
    examples = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    assert len(examples) == 3
    for example in examples:
        exec(compile(example, "README.md", "exec"), {})
    printed = capsys.readouterr().out
    assert "'path': 'a.mp4'" in printed and "b.mp4" not in printed


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    links = [link.split("#")[0] for link in re.findall(r"\]\(([^)]+)\)", text) if "://" not in link]
    missing = [link for link in links if not (ROOT / page).parent.joinpath(link).exists()]
    assert not missing


@pytest.mark.parametrize("page", PAGES)
def test_settings_that_are_named_exist(page: str) -> None:
    sections = {name: value for name, value in as_dict(Config()).items() if isinstance(value, dict)}
    named = re.findall(rf"(?<![\w./])({'|'.join(sections)})\.([a-z_]+)\b", (ROOT / page).read_text(encoding="utf-8"))
    files = {"py", "md", "npy", "yaml", "fit"}  # video.py is a file and trainer.fit a method, not a setting
    unknown = [f"{section}.{key}" for section, key in named if key not in files and key not in sections[section]]
    assert not unknown
