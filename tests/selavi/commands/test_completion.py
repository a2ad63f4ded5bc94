import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("argcomplete")


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("selavi ev", {"evaluate "}),
        ("selavi export --med", {"--media "}),
        ("selavi export --media t", {"transcode "}),
        ("selavi train --config vgg", {"vggsound "}),
        ("selavi train heads.num_cl", {"heads.num_clusters="}),
    ],
)
def test_what_the_shell_is_offered(line: str, expected: set[str], repository: Path, tmp_path: Path) -> None:
    offered = tmp_path / "offered"
    asked = {"_ARGCOMPLETE": "1", "COMP_LINE": line, "COMP_POINT": str(len(line)), "_ARGCOMPLETE_IFS": "\n"}
    environment = {**os.environ, **asked, "_ARGCOMPLETE_STDOUT_FILENAME": str(offered), "PYTHONPATH": str(repository)}
    script = "from selavi.commands.main import main\nmain()"
    subprocess.run([sys.executable, "-c", script], cwd=tmp_path, env=environment, capture_output=True)
    assert set(offered.read_text().split("\n")) == expected
