import json
from dataclasses import replace
from pathlib import Path

from datamodules.doctor.machine import check_machine
from datamodules.doctor.report import Advice, Check, Report
from selavi.config import Config
from tests.datamodules.doctor.test_machine import MACHINE


def test_the_report_says_the_same_in_text_and_json() -> None:
    advice = Advice("data.num_workers=8", 2.0, 160.0)
    report = Report([Check("media", "decoders", "problem", "no aac", "install av")], {"one": 1}, [advice])
    parsed = json.loads(report.as_json())
    assert parsed["checks"][0]["mark"] == "problem" and parsed["checks"][0]["found"] == "no aac"
    assert parsed["advice"][0]["gain"] == 2.0
    lines = report.as_text().splitlines()
    assert "  problem  decoders  no aac" in lines and "  x2.00    data.num_workers=8  (160.0 clips/s)" in lines
    assert any("-> install av" in line for line in lines)
    assert len(report.problems) == 1


def test_every_fault_has_a_section_in_the_docs(repository: Path) -> None:
    text = (repository / "docs" / "troubleshooting.md").read_text(encoding="utf-8")
    small = replace(MACHINE, cores=1, memory_bytes=1, disk_bytes=1, open_files=1, shared_bytes=1, gpus=[])
    config = Config()
    config.data.cache_gb = 1
    names = [check.name for check in check_machine(small, config) if check.mark != "ok"]
    assert len(names) == 6
    for name in [
        *names,
        "mixed builds",
        "malware",
        "too old",
        "killed by signal",
        "decoders",
        "decode test",
        "bottleneck",
    ]:
        assert name in text, name
