import csv
import shutil
from pathlib import Path

import numpy as np
import pytest

from selavi.labelling.bank import ids_of_bank
from selavi.results.labels import read_labels
from selavi.results.naming import read_names
from selavi.runs.checkpoint import REFITTED
from selavi.runs.record import load_run, read_verdict
from selavi.scores.head_choice import choose_head
from tests.end_to_end.runs import start
from tools import cluster_eval, export_clusters, refine, refit


@pytest.fixture(scope="module")
def source(finished_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of which somebody has named two clusters, moved one clip and confirmed another."""
    run = Path(shutil.copytree(finished_run, tmp_path_factory.mktemp("refine") / "run"))
    bank = load_run(run).checkpoint["label_bank"]
    ids, clusters = ids_of_bank(bank), bank["labels"][:, 1].tolist()
    first, second = sorted(set(clusters))[:2]
    moved, kept = clusters.index(second), clusters.index(first)
    lines = ["head,cluster,id,name,into,rejected", f"1,{first},,dog,,", f"1,{second},,cat,,", "0,0,,cow,,"]
    lines += [f"1,{second},{ids[moved]},,{first},", f"1,{first},{ids[kept]},,{first},"]
    (run / "names.csv").write_text("\n".join(lines) + "\n")
    return run


@pytest.fixture(scope="module")
def refined(source: Path) -> Path:
    assert refine.main([str(source), "--questions", "3"]) == 0
    return source.with_name("run-round1")


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_each_name_is_a_cluster_of_a_new_run(source: Path, refined: Path) -> None:
    run = load_run(refined)
    names = read_names(refined / "names.csv")
    assert [names.of(head).name for head in range(2)] == [{0: "cat", 1: "dog"}, {}]
    assert choose_head(read_labels(refined, "train").clusters, probe=np.full(2, np.nan)).head == 0
    clusters = read_labels(refined, "train").clusters
    assert clusters.shape == (32, 2) and (clusters[:, 0] == clusters[:, 1]).all()
    assert run.config.heads.num_clusters == len(set(load_run(source).checkpoint["label_bank"]["labels"][:, 1].tolist()))
    answers = rows_of(refined / "answers.csv")
    assert {(row["name"], row["round"]) for row in answers} == {("dog", "1")} and len(answers) == 2
    of_clip = dict(zip(ids_of_bank(run.checkpoint["label_bank"]), clusters[:, 0].tolist(), strict=True))
    assert all(of_clip[row["id"]] == 1 for row in answers)
    table = rows_of(refined / "refined.csv")
    assert len(table) == 32 and sum(row["asked"] == "answered" for row in table) == 2
    assert {row["id"] for row in table if row["asked"] == "yes"} == {
        row["id"] for row in rows_of(refined / "questions.csv")
    }
    assert all((row["name"] == "unsure") == (float(row["confidence"]) < 0.5) for row in table)
    assert read_verdict(refined).startswith(f"Refined from {source}: cat, dog. Confidence is not calibrated")


def test_other_commands_read_it_and_rounds_go_on(
    source: Path, refined: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cluster_eval.main([str(refined), "--split", "test"]) == 0
    views = sorted((source / "views").iterdir())
    before = [path.stat().st_mtime_ns for path in views]
    assert refine.main([str(refined)]) == 0
    said = capsys.readouterr().err
    assert "2 clips moved or confirmed by hand" in said and "encoding" not in said
    assert [path.stat().st_mtime_ns for path in views] == before
    second = source.with_name("run-round2")
    assert load_run(second).checkpoint[REFITTED] == str(source)
    assert [row["round"] for row in rows_of(second / "answers.csv")] == ["1", "1"]


def test_its_page_says_that_the_clusters_were_learned(source: Path, refined: Path) -> None:
    for run, how in ((source, "found without labels"), (refined, "learned from names")):
        assert export_clusters.main([str(run), "--evidence", "0", "--media", "none"]) == 0
        assert f'"how":"{how}"' in next((run / "gallery").rglob("index.js")).read_text().replace(": ", ":")


@pytest.fixture(scope="module")
def learned(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A round in which the encoders learned, too."""
    out = tmp_path_factory.mktemp("learned") / "run"
    assert refine.main([str(source), "--encoders", "2", "--questions", "3", "--out", str(out)]) == 0
    return out


def test_encoders_learn_the_places_and_heads_learn_again(source: Path, refined: Path, learned: Path) -> None:
    trained = load_run(learned.with_name("run-encoders"))
    places = {row["id"]: row["cluster"] for row in rows_of(refined / "refined.csv")}
    assert {row["id"]: row["cluster"] for row in rows_of(trained.folder / "lessons.csv")} == places
    encoder = "model.encoders.video."
    weights = [
        {name: values for name, values in run.checkpoint["state_dict"].items() if name.startswith(encoder)}
        for run in (load_run(source), trained, load_run(learned))
    ]
    assert any(not values.equal(weights[1][name]) for name, values in weights[0].items())
    assert all(values.equal(weights[2][name]) for name, values in weights[1].items())
    assert load_run(learned).checkpoint[REFITTED] == str(trained.folder)
    assert read_names(learned / "names.csv").rows == read_names(refined / "names.csv").rows
    assert f"Its encoders learned the names too: {trained.folder}." in read_verdict(learned)
    assert len(rows_of(learned / "refined.csv")) == 32
    assert cluster_eval.main([str(learned), "--split", "test"]) == 0


def test_a_round_with_encoders_goes_on_where_it_was_stopped(
    source: Path, learned: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(learned.with_name("run-encoders"), tmp_path / "run-encoders")
    settings = tmp_path / "run-encoders" / "config.resolved.yaml"
    settings.write_text(settings.read_text().replace(str(learned.parent), str(tmp_path)))
    checkpoint = load_run(tmp_path / "run-encoders").folder / "checkpoints" / "last.ckpt"
    before = checkpoint.stat().st_mtime_ns
    assert refine.main([str(source), "--encoders", "2", "--questions", "3", "--out", str(tmp_path / "run")]) == 0
    assert checkpoint.stat().st_mtime_ns == before
    assert (tmp_path / "run" / "refined.csv").read_bytes() == (learned / "refined.csv").read_bytes()
    shutil.rmtree(tmp_path / "run")
    lines = (source / "names.csv").read_text().splitlines()
    (tmp_path / "others.csv").write_text("\n".join(lines[:-1]) + "\n")
    names = ("--names", str(tmp_path / "others.csv"))
    assert refine.main([str(source), "--encoders", "2", *names, "--out", str(tmp_path / "run")]) == 2
    assert f"{tmp_path / 'run-encoders'} has encoders that learned other names" in capsys.readouterr().err


def test_a_round_that_is_there_stays(refined: Path, source: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert refine.main([str(source)]) == 2
    assert (
        f"{refined} exists and is not empty; name another folder (--out FOLDER), or remove it to undo that round"
        in (capsys.readouterr().err)
    )


def test_a_run_without_names_is_told_how_to_get_them(
    finished_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = shutil.copytree(finished_run, tmp_path / "run")
    assert refine.main([str(run)]) == 2
    assert "name clusters on the run's page" in capsys.readouterr().err
    (tmp_path / "names.csv").write_text("head,cluster,name\n0,0,\n")
    assert refine.main([str(run), "--names", str(tmp_path / "names.csv")]) == 2
    assert "no cluster has a name" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "out"), [("mine", "mine-round1"), ("mine-round1", "mine-round2"), ("a-round9", "a-round10")]
)
def test_rounds_are_numbered(name: str, out: str) -> None:
    from selavi.commands.refine import new_folder

    assert new_folder(Path("runs", name)) == Path("runs", out)


def test_heads_that_name_no_common_clusters_are_refused(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = Path(shutil.copytree(source, tmp_path / "run"))
    settings = run / "config.resolved.yaml"
    settings.write_text(settings.read_text().replace("source: joint", "source: own"))
    assert refine.main([str(run)]) == 2
    assert "has labelling.source=own" in capsys.readouterr().err


def test_a_refitted_run_can_be_named_too(source: Path, tmp_path: Path) -> None:
    assert refit.main([str(source), "-k", "4", "--out", str(tmp_path / "run-k4")]) == 0
    (tmp_path / "names.csv").write_text("head,cluster,name\n0,0,dog\n0,1,cat\n")
    assert refine.main([str(tmp_path / "run-k4"), "--names", str(tmp_path / "names.csv")]) == 0


@pytest.mark.slow
def test_two_processes_share_the_views_and_learn_the_same(
    repository: Path, source: Path, refined: Path, tmp_path: Path
) -> None:
    other = Path(shutil.copytree(source, tmp_path / "run", ignore=shutil.ignore_patterns("views")))
    launcher = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
    process = start(repository, other, "--questions", "3", tool="refine", launcher=launcher)
    try:
        _, error = process.communicate(timeout=240)
    finally:
        process.kill()
    assert process.returncode == 0, error
    assert error.count("encoding 8 views") == error.count("done in") == 1
    assert "view 1 of 8" in error and "view 2 of 8" in error
    for name in ("names.csv", "refined.csv", "questions.csv"):
        assert (tmp_path / "run-round1" / name).read_bytes() == (refined / name).read_bytes()
    ours, theirs = (read_labels(folder, "train") for folder in (refined, tmp_path / "run-round1"))
    assert np.array_equal(ours.clusters, theirs.clusters) and ours.ids.equals(theirs.ids)


@pytest.mark.slow
def test_two_processes_train_the_encoders_together(repository: Path, source: Path, tmp_path: Path) -> None:
    launcher = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
    settings = ("--encoders", "1", "--out", str(tmp_path / "run"))
    process = start(repository, source, *settings, tool="refine", launcher=launcher)
    try:
        _, error = process.communicate(timeout=240)
    finally:
        process.kill()
    assert process.returncode == 0, error
    assert error.count("done in") == 1
    assert load_run(tmp_path / "run").checkpoint[REFITTED] == str(tmp_path / "run-encoders")
