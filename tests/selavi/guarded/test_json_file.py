from pathlib import Path

import pytest

from selavi.errors import UsageError
from selavi.guarded.json_file import as_written, read_json


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[]", b"3", b"null", b"\xff\xfe{}", b"[" * 100_000, b'{"a": ' * 100_000, b"9" * 5000, b'{"a": 1} x'],
    ids=["empty", "open", "list", "number", "null", "letters", "deep list", "deep mapping", "digits", "more"],
)
def test_what_is_no_mapping_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "status.json"
    path.write_bytes(content)
    with pytest.raises(UsageError, match=r"cannot read .*status\.json: .*it is damaged: do this"):
        read_json(path, "do this")


def test_a_mapping_is_read(tmp_path: Path) -> None:
    path = tmp_path / "status.json"
    path.write_text('{"epochs": 2, "ü": null}', encoding="utf-8")
    assert read_json(path) == {"epochs": 2, "ü": None}
    with pytest.raises(UsageError, match=r"cannot read .*none\.json: No such file"):
        read_json(tmp_path / "none.json")


@pytest.mark.parametrize("take", [lambda c: c["none"], lambda c: c["a"][7], lambda c: int(c["a"]), lambda c: c.none])
def test_what_is_not_there_names_the_file(take) -> None:
    with (
        pytest.raises(UsageError, match=r"x\.json is not as selavi wrote it .*: do this"),
        as_written("x.json", "do this"),
    ):
        take({"a": "b"})


def test_a_message_stays_as_it_is() -> None:
    with pytest.raises(UsageError, match=r"^no label$"), as_written("x.json"):
        raise UsageError("no label")
