import re
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pytest

from datamodules.index.manifest import (
    STATUSES,
    bad,
    describe_bad,
    judge,
    mark_unusable,
    probed,
    select_split,
    usable,
    write_manifest,
)
from datamodules.index.triage import ADVICE, advise, triage
from selavi.errors import UsageError
from selavi.runs.manifest import SCHEMA, media_root, read_manifest


@pytest.fixture
def manifest() -> pa.Table:
    rows = [
        {"id": f"{split}/{label or ''}{n}.mp4", "path": f"{split}/{n}.mp4", "split": split, "label": label}
        | {"duration_s": 2.0, "status": status, "reason": None if status == "ok" else "why"}
        for n, (split, label, status) in enumerate(
            [
                ("train", "ball", "ok"),
                ("train", None, "empty"),
                ("test", "fan", "ok"),
                ("test", "fan", "corrupt"),
                ("train", "fan", "corrupt"),
            ]
        )
    ]
    return pa.Table.from_pylist(rows, schema=SCHEMA.with_metadata({"root": "/some where/ö"}))


def test_it_is_read_back_with_its_root(tmp_path: Path, manifest: pa.Table) -> None:
    write_manifest(manifest, tmp_path / "deep" / "manifest.parquet")
    found = read_manifest(tmp_path / "deep" / "manifest.parquet")
    assert found.equals(manifest)
    assert media_root(found) == Path("/some where/ö")


def test_splits_are_selected_and_missing_ones_refused(manifest: pa.Table) -> None:
    assert select_split(manifest, "test")["path"].to_pylist() == ["test/2.mp4", "test/3.mp4"]
    assert media_root(select_split(manifest, "test")) == Path("/some where/ö")
    with pytest.raises(UsageError) as caught:
        select_split(manifest, "val")
    told = "no file in split 'val' of /some where/ö; found: test (2 files), train (3 files). data.layout says what"
    assert str(caught.value).startswith(told)


def test_a_split_is_found_under_another_usual_word_where_only_one_has_it(manifest: pa.Table) -> None:
    renamed = manifest.set_column(2, "split", [["Training", "Training", "Training", "validate", "validate"]])
    assert len(select_split(renamed, "train")) == 3
    assert len(select_split(renamed, "val")) == len(select_split(renamed, "validation")) == 2
    both = manifest.set_column(2, "split", [["val", "val", "validate", "valid", "valid"]])
    assert len(select_split(both, "val")) == 2
    with pytest.raises(UsageError, match=r"no file in split 'dev' .* found: val \(2 files\), valid"):
        select_split(both, "dev")
    with pytest.raises(UsageError, match="found: nothing"):
        select_split(manifest.slice(0, 0), "train")


def test_only_rows_without_a_fault_are_usable(manifest: pa.Table) -> None:
    assert usable(manifest)["status"].to_pylist() == ["ok", "ok"]
    assert len(usable(manifest.slice(1, 1))) == 0


def test_rows_are_marked_and_nothing_else_changes(manifest: pa.Table) -> None:
    marked = mark_unusable(manifest, {manifest["id"][2].as_py(): ("too_short", "0.5 s"), "nobody": ("x", "y")})
    assert marked["status"].to_pylist() == ["ok", "empty", "too_short", "corrupt", "corrupt"]
    assert marked["reason"].to_pylist() == [None, "why", "0.5 s", "why", "why"]
    assert marked.schema.equals(manifest.schema, check_metadata=True)
    assert marked.drop_columns(["status", "reason"]).equals(manifest.drop_columns(["status", "reason"]))
    assert manifest["status"].to_pylist()[2] == "ok"


def test_bad_files_are_counted_by_reason(manifest: pa.Table) -> None:
    assert describe_bad(manifest) == "2 corrupt (such as test/3.mp4); 1 empty (such as train/1.mp4)"
    assert describe_bad(usable(manifest)) == ""


# ---- judgement ----

FACTS = [  # id, duration_s, audio_state, audio_s, status
    ("good", 2.0, "ok", 2.0, "ok"),
    ("short", 0.5, "ok", 2.0, "ok"),
    ("mute", 2.0, "absent", 0.0, "ok"),
    ("silent", 2.0, "silent", 2.0, "ok"),
    ("little sound", 2.0, "ok", 0.5, "ok"),
    ("broken", None, None, None, "corrupt"),
    ("short and mute", 0.5, "absent", 0.0, "ok"),
    ("just long enough", 1.0 - 1e-6, "ok", 1.0 - 1e-6, "ok"),
]


@pytest.fixture
def facts() -> pa.Table:
    names = ("id", "duration_s", "audio_state", "audio_s", "status")
    rows = [dict(zip(names, row, strict=True)) | {"split": "train"} for row in FACTS]
    rows[5]["reason"] = "no frame can be decoded"
    return pa.Table.from_pylist(rows, schema=SCHEMA.with_metadata({"root": "/r", "list": "{}"}))


def verdicts(table: pa.Table) -> dict[str, str]:
    return {row["id"]: row["status"] for row in table.to_pylist() if row["status"] != "ok"}


ALWAYS = {"short": "too_short", "broken": "corrupt", "short and mute": "too_short"}
STRICT = ALWAYS | {"mute": "no_audio", "silent": "silent", "little sound": "too_short"}
BOTH = ["video", "audio"]


@pytest.mark.parametrize(
    ("policy", "modalities", "expected"),
    [
        ("require", BOTH, STRICT),
        ("mask", BOTH, ALWAYS),
        ("zeros", BOTH, ALWAYS),
        ("require", ["video"], ALWAYS),
        ("mask", ["audio"], STRICT),  # nothing would be left of a masked clip
        ("zeros", ["audio"], ALWAYS),
    ],
)
def test_facts_become_statuses(facts: pa.Table, policy: str, modalities: list[str], expected: dict[str, str]) -> None:
    before = facts.to_pylist()
    judged = judge(facts, clip_s=1.0, audio_policy=policy, modalities=modalities)
    assert verdicts(judged) == expected
    assert facts.to_pylist() == before
    assert judged.schema.equals(facts.schema, check_metadata=True)
    reasons = dict(zip(judged["id"].to_pylist(), judged["reason"].to_pylist(), strict=True))
    assert {name for name, reason in reasons.items() if reason} == expected.keys()
    assert reasons["short"] == "0.50 s, data.clip_s=1.0"
    assert reasons["broken"] == "no frame can be decoded"


@pytest.mark.parametrize(
    ("policy", "modalities", "left_out"),
    [
        ("mask", BOTH, {"silence": "silent", "nothing": "no_audio"}),
        ("zeros", BOTH, {}),  # silence is a sound like any other
        ("require", BOTH, {"silence": "silent", "mute film": "no_audio", "nothing": "no_audio"}),
        ("mask", ["audio"], {"silence": "silent", "mute film": "no_audio", "nothing": "no_audio"}),
        ("mask", ["video"], {"sound": "no_video", "silence": "no_video", "nothing": "no_video"}),
    ],
)
def test_sound_alone_is_a_clip_where_it_is_heard(policy: str, modalities: list[str], left_out: dict[str, str]) -> None:
    rows = [("film", 48, "ok"), ("mute film", 48, "absent"), ("sound", 0, "ok"), ("silence", 0, "silent")]
    table = pa.Table.from_pylist(
        [
            {"id": name, "path": f"{name}.wav", "width": width, "duration_s": 2.0, "status": "ok"}
            | {"audio_state": state, "audio_s": 2.0 * (state != "absent")}
            for name, width, state in [*rows, ("nothing", 0, "absent")]
        ],
        schema=SCHEMA.with_metadata({"root": "/r", "list": "{}"}),
    )
    judged = judge(table, clip_s=1.0, audio_policy=policy, modalities=modalities)
    assert verdicts(judged) == left_out
    assert bad(judged).num_rows == 0
    paths = table["path"].combine_chunks()
    films = judge(table.set_column(1, "path", pc.replace_substring(paths, ".wav", ".mp4")), clip_s=1.0,
                  audio_policy=policy, modalities=modalities)  # fmt: skip
    assert set(bad(films)["id"].to_pylist()) == {name for name, why in left_out.items() if why == "no_video"}


def test_a_judged_manifest_is_judged_anew(facts: pa.Table) -> None:
    strict = judge(facts, clip_s=1.9, audio_policy="require", modalities=BOTH)
    lenient = judge(strict, clip_s=1.0, audio_policy="mask", modalities=BOTH)
    assert lenient.equals(judge(facts, clip_s=1.0, audio_policy="mask", modalities=BOTH))
    marked = mark_unusable(facts, {"good": ("corrupt", "why")})
    assert verdicts(judge(marked, clip_s=1.0, audio_policy="mask", modalities=BOTH))["good"] == "corrupt"


def test_what_the_policy_leaves_out_is_no_fault(facts: pa.Table) -> None:
    judged = judge(facts, clip_s=1.0, audio_policy="require", modalities=BOTH)
    assert bad(judged)["id"].to_pylist() == ["short", "little sound", "broken", "short and mute"]
    assert "broken" not in probed(judged)["id"].to_pylist()
    assert len(probed(judged)) == len(FACTS) - 1


def test_the_triage_report_counts_explains_and_gives_examples(facts: pa.Table) -> None:
    rows = facts.to_pylist()
    for number, row in enumerate(rows):
        row |= {"path": f"{row['id']}.mp4", "width": 48, "height": 32 + number}
    rows += [dict(rows[5], id=f"b{n}", path=f"b\x1b[2J{n}.mp4") for n in range(7)]
    table = pa.Table.from_pylist(rows, schema=facts.schema)
    text = triage(judge(table, clip_s=1.0, audio_policy="require", modalities=BOTH), clip_s=1.0, audio_policy="require")
    assert "15 files, for clips of 1 s and audio_policy=require." in text
    counts = {line.split("|")[1].strip(): line.split("|")[2].strip() for line in text.splitlines() if "%" in line}
    assert counts == {"ok": "2", "silent": "1", "no_audio": "1", "too_short": "3", "corrupt": "8"}
    assert "- broken.mp4: no frame can be decoded" in text
    assert "and 3 more: the rows of the manifest with status corrupt" in text
    assert "\x1b" not in text and "b\\x1b[2J0.mp4" in text
    assert "Usable: 3.0 s; splits train 2;" in text


def test_the_advice_fits_the_commonest_fault(facts: pa.Table) -> None:
    short = judge(facts, clip_s=10.0, audio_policy="mask", modalities=BOTH)
    said = advise(bad(short))
    assert "What to do about too_short (shorter than a clip): a smaller data.clip_s" in said
    assert re.search(r"half of them last [\d.]+ s or more", said)
    corrupt = short.filter(pc.equal(short["status"], "corrupt"))
    assert "download or copy them again" in advise(corrupt) and "clip_s" not in advise(corrupt)
    assert advise(corrupt.slice(0, 0)) == ""


def test_there_is_advice_for_every_status() -> None:
    assert ADVICE.keys() == set(STATUSES) - {"ok"}
