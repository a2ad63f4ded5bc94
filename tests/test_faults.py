import re
from pathlib import Path


def test_every_fault_has_tests_that_exist() -> None:
    folder = Path(__file__).parent
    rows = [
        line for line in (folder / "faults.md").read_text(encoding="utf-8").splitlines() if re.match(r"\| \d", line)
    ]
    assert [row.split("|")[1].strip() for row in rows] == [str(number) for number in range(1, 13)]
    for row in rows:
        named = re.findall(r"`([\w/]+\.py)::(\w+)`", row)
        assert named, row
        for path, name in named:
            assert f"def {name}(" in (folder / path).read_text(encoding="utf-8"), f"{path}::{name}"
