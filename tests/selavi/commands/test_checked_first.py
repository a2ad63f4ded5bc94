"""What can be refused from the command line, the disk or a run's settings is refused before the work begins."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import datamodules.doctor.throughput
import datamodules.index.notebook
import datamodules.loading.loader
import datamodules.loading.new_clips
import datamodules.stores.opening
import datamodules.stores.prepare
import selavi.commands.gallery_workers
import selavi.evaluation.compare
import selavi.model
import selavi.pretrained
from tools import (
    assign,
    cluster_eval,
    compare,
    convert,
    degrade,
    doctor,
    export_clusters,
    finetune,
    localise,
    prepare,
    probe,
    scan,
    train,
)

# Each where it is looked up.  All of these are imported above: one that is imported while they are replaced would keep
# what stands in their place.
WORK = {
    datamodules.loading.loader.Loader: "__iter__",  # decodes clips
    datamodules.loading.new_clips: "probe_file",
    datamodules.doctor.throughput: "probe_file",
    datamodules.index.notebook: "run_jobs",
    datamodules.stores.prepare: "run_jobs",
    selavi.commands.gallery_workers: "run_jobs",
    datamodules.stores.opening: "build_cache",
    selavi.model.SelaviModel: "forward",
    selavi.pretrained: "export_program",
    selavi.evaluation.compare: "cluster_features",
}


@pytest.fixture(scope="module")
def own_run(finished_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return shutil.copytree(finished_run, tmp_path_factory.mktemp("checked") / "run")


@pytest.fixture
def places(
    own_run: Path, demo_set: Path, tiny_yaml: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[dict[str, Path]]:
    """What the arguments below name; in an empty folder, where whatever is work fails the test."""
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)
    (tmp_path / "file").write_text("a file\n")
    (tmp_path / "names.csv").write_text("head,cluster,name\n0,many,dog\n")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thing").touch()
    (tmp_path / "list.csv").write_text("path,label\n")
    video = shutil.copytree(own_run, tmp_path / "video", ignore=shutil.ignore_patterns("checkpoints"))
    settings = video / "config.resolved.yaml"
    settings.write_text(settings.read_text().replace("modalities:\n- video\n- audio", "modalities:\n- video"))
    labels = pq.read_table(video / "labels" / "train.parquet")
    place = labels.schema.get_field_index("modality_agreement")
    nothing = pa.nulls(len(labels), pa.float32())
    pq.write_table(labels.set_column(place, "modality_agreement", nothing), video / "labels" / "train.parquet")
    unlabelled = shutil.copytree(own_run, tmp_path / "unlabelled", ignore=shutil.ignore_patterns("checkpoints"))
    manifest = pq.read_table(unlabelled / "manifest.parquet")
    nothing, place = pa.nulls(len(manifest), pa.string()), manifest.schema.get_field_index("label")
    pq.write_table(manifest.set_column(place, "label", nothing), unlabelled / "manifest.parquet")
    np.save(tmp_path / "x.npy", np.eye(4))
    (tmp_path / "ids.txt").write_text("a\nb\nc\nd\n")
    (tmp_path / "labels.csv").write_text("id,label\na,1\nb,1\nc,2\nd,2\n")

    def forbidden(*_: object, **__: object) -> None:
        raise AssertionError("the work began")

    for owner, name in WORK.items():
        monkeypatch.setattr(owner, name, forbidden)
    yield {
        "run": own_run,
        "video": video,
        "unlabelled": unlabelled,
        "media": demo_set,
        "config": tiny_yaml,
        "tmp": tmp_path,
    }


REFUSED: list[tuple[ModuleType, str, str]] = [
    (train, "--config {config} data.list=none.csv", "data.list=none.csv: no such file"),
    (train, "--config {config} data.list={tmp}/file", "is of no known format"),
    (train, "--config {config} encoders.init=none", "encoders.init=none: no such file or folder"),
    (train, "--config {config} trainer.accelerator=abacus", "the settings of section trainer do not work here"),
    (train, "--config {config} trainer.precision=16", "Invalid value '16'"),
    (train, "--config {config} run_dir={tmp}/file", "is a file; give a folder"),
    (train, "--config {config} run_dir={tmp}/full", "exists and is not empty"),
    (train, "--config {config} optim.batch_size=1", "optim.batch_size must be at least 2"),
    (cluster_eval, "{run} --merge 2 9", "--merge 9: the run has 8 clusters, which can be merged to 1 to 8"),
    (cluster_eval, "{run} --merge 0", "--merge 0: the run has 8 clusters"),
    (cluster_eval, "{run} --split val", "no file in split 'val'"),
    (cluster_eval, "{run} {tmp}/none", "none is not a run folder"),
    (cluster_eval, "{run} --views 0", "--views must be at least 1, got 0"),
    (cluster_eval, "{video} --choose modalities", "--choose modalities: no label of "),
    (cluster_eval, "", "expected run folders, or --clusters FILE and --labels FILE together"),
    (cluster_eval, "--clusters {tmp}/ids.txt --labels {tmp}/labels.csv --merge 2", "--merge is for run folders"),
    (cluster_eval, "--clusters {tmp}/ids.txt --labels {tmp}/labels.csv --report", "--report is for run folders"),
    (export_clusters, "{run} --to cvat paper", "--to paper: expected some of "),
    (export_clusters, "{run} --head 7", "expected one of the heads [0, 1], got 7"),
    (export_clusters, "{run} --head best", "--head must be `chosen`, `all` or a number, got 'best'"),
    (export_clusters, "{run} --clips 0", "--clips must be at least 1"),
    (export_clusters, "{run} --evidence -1", "--evidence must be at least 0, got -1"),
    (export_clusters, "{run} --names {tmp}/names.csv", "line 2, column cluster: expected a whole number"),
    (export_clusters, "{run} --names {tmp}/none.csv", "none.csv cannot be read"),
    (export_clusters, "{run} --split val", "no file in split 'val'"),
    (export_clusters, "{tmp}/none", "none is not a run folder"),
    (assign, "{run} {media} --head 7", "--head must be `chosen`, `all` or one of 0 to 1, got '7'"),
    (assign, "{run} {media} --views 0", "--views must be at least 1, got 0"),
    (assign, "{run} {media} --shard-clips 0", "--shard-clips must be at least 1, got 0"),
    (assign, "{run} {media} --task 3/2", "--task must be i/n"),
    (assign, "{run} {media} --max-bad-fraction 2", "--max-bad-fraction must be in [0, 1], got 2.0"),
    (assign, "{run} {media} {tmp}/none", "none: no such file or folder"),
    (assign, "{run} {media} --out {tmp}/file", "--out {tmp}/file: {tmp}/file is a file"),
    (assign, "{run} {media} --out {tmp}/full", "was not made by this tool"),
    (assign, "{video} {media} --modalities audio", "--modalities audio: the run was trained on video alone"),
    (assign, "{run}", "expected files or folders to label"),
    (compare, "--recipes selavi nonsense --config {config}", "no recipe nonsense"),
    (compare, "--recipes selavi concat --config {config} modalities=[video]", "labelling.source must be joint or own"),
    (compare, "--recipes selavi --config {config} --seeds -1", "--seeds must be 0 to 4294967295, got -1"),
    (compare, "--recipes selavi --config {config} --seeds 1 1", "--seeds: each of them once, got 1 1"),
    (compare, "--recipes selavi --config {config} --splits test test", "--splits: each of them once"),
    (compare, "--recipes selavi --config {config} --out {tmp}/file", "--out {tmp}/file: {tmp}/file is a file"),
    (compare, "--recipes selavi --config none", "no configuration file none"),
    (compare, "--runs {run} {tmp}/none", "none is not a run folder"),
    (compare, "--runs {run} --splits train val", "no file in split 'val'"),
    (compare, "--runs {run} {unlabelled}", "of {unlabelled} has a label to compare clusters with"),
    (compare, "--runs {run} --clusters 17", "expected 1 to 16 clusters for 16 clips, got 17"),
    (compare, "--runs {run} --methods kmeans magic", "no method magic"),
    (compare, "--runs {run} --scale twice", "features are scaled by "),
    (compare, "--runs {run} --views 0", "must be at least 1"),
    (compare, "--runs {run} --ids {tmp}/ids.txt", "--ids and --labels belong to --arrays"),
    (compare, "--arrays {tmp}/x.npy", "arrays need --ids"),
    (compare, "--arrays {tmp}/x.npy {tmp}/none.npy --ids {tmp}/ids.txt --labels {tmp}/labels.csv", "none.npy"),
    (compare, "--arrays {tmp}/x.npy --ids {tmp}/ids.txt --labels {tmp}/labels.csv --clusters 5", "expected 1 to 4"),
    (convert, "{run} --to onnx --out {tmp}/file", "--out {tmp}/file: {tmp}/file is a file"),
    (convert, "{tmp}/none", "none: no such file or folder"),
    (convert, "{run} --set audio.standardize=fixed", "did you mean audio.standardise?"),
    (
        localise,
        "{run} --annotations {tmp}/none.csv --format voc",
        "--format voc: there is no such format",
    ),
    (localise, "{run} --annotations {tmp}/none.csv --head 9", "--head 9: the run has heads 0 to 1"),
    (localise, "{run} --annotations {tmp}/none.csv --split val", "no file in split 'val'"),
    (localise, "{run} --annotations {tmp}/none.csv", "none.csv"),
    (degrade, "{run} --corruptions fog", "no corruption 'fog'"),
    (degrade, "{run} --split val", "no file in split 'val'"),
    (degrade, "{run} {tmp}/none", "none is not a run folder"),
    (degrade, "{unlabelled}", "has a label to compare clusters with"),
    (degrade, "{video} --kmeans audio", "--kmeans audio: none of the runs was trained on audio"),
    (degrade, "{run} --kmeans audio+video", "they have video, audio, video+audio"),
    (degrade, "{run} --seed -1", "--seed must be at least 0, got -1"),
    (degrade, "{run} --views 0", "--views must be at least 1, got 0"),
    (degrade, "{run} --out {tmp}/file", "--out {tmp}/file: {tmp}/file is a file"),
    (doctor, "--config {config} --seconds 0", "--seconds must be above 0, got 0"),
    (doctor, "--config none", "no configuration file none"),
    (finetune, "{run} --config {config} --folds 1 2", "--folds need data.list with {{fold}}"),
    (finetune, "{run} --config {config} data.list={tmp}/{{fold}}.csv --folds 1", "1.csv: no such file"),
    (finetune, "{run} --config {config} audio.num_mels=64", "audio.num_mels=64 cannot be set"),
    (finetune, "{tmp}/none --config {config}", "none is not a run folder"),
    (finetune, "{run} --config none", "no configuration file none"),
    (prepare, "{media} {tmp}/full", "full is not empty, and was not made by this tool"),
    (prepare, "{media} {tmp}/file", "file is a file"),
    (prepare, "{media} {tmp}/out --list none.csv", "data.list=none.csv: no such file"),
    (prepare, "{media} {tmp}/out --list {tmp}/list.csv", "list.csv names no clip"),
    (prepare, "{media} {tmp}/out --list {tmp}/list.csv --source cds", "no format of lists 'cds'"),
    (prepare, "{media} {tmp}/out --workers -1", "--workers must be at least 0, got -1"),
    (prepare, "{media} {tmp}/out --timeout-s 0", "--timeout-s must be above 0, got 0.0"),
    (prepare, "{media} {tmp}/out --size 7", "--size must be an even number from 16 to 1024, got 7"),
    (prepare, "{media} {tmp}/out --format zip", "--format must be shards or files, got zip"),
    (prepare, "{tmp}/none {tmp}/out", "no such folder"),
    (probe, "{run} --split val", "no file in split 'val'"),
    (probe, "{run} --split train", "--split train is what the probes learn from"),
    (probe, "{run} --group (", "--group '(' is neither ucf101 nor hmdb51 nor a pattern"),
    (probe, "{run} --views 0", "--views must be at least 1, got 0"),
    (probe, "{run} --folds 1 2", "folds need data.list with {{fold}}"),
    (probe, "{run} data.root={media} data.list={tmp}/{{fold}}.csv --folds 1", "1.csv: no such file"),
    (probe, "{run} --folds 1 data.root={media}", "--folds: data.root={media} is a setting"),
    (probe, "{run} heads.num_heads=3", "heads.num_heads=3 cannot be changed"),
    (probe, "{unlabelled}", "has a label to compare clusters with"),
    (scan, "{media} --list none.csv", "data.list=none.csv: no such file"),
    (scan, "{media} --out {tmp}/full", "--out {tmp}/full is a folder; name the file to write"),
    (scan, "{media} --out {tmp}/file/m.parquet", "{tmp}/file is a file"),
    (scan, "{media} --workers -1", "--workers must be at least 0, got -1"),
    (scan, "{media} --clip-s 0", "data.clip_s must be 0.04 to 600 seconds, got 0.0"),
    (scan, "{tmp}/none", "no such folder"),
]


@pytest.mark.parametrize(
    ("tool", "arguments", "message"), REFUSED, ids=[f"{t.__name__.split('.')[1]} {a}" for t, a, _ in REFUSED]
)
def test_what_cannot_be_done_is_refused_before_the_work(
    places: dict[str, Path], capsys: pytest.CaptureFixture[str], tool: ModuleType, arguments: str, message: str
) -> None:
    code = tool.main([word.format(**places) for word in arguments.split()])
    error = capsys.readouterr().err
    assert code == 2, error
    assert error.startswith("error: ")
    assert message.format(**places) in error
    assert not list(places["tmp"].glob("work/*")), "something was left behind"


def test_a_broken_names_csv_of_the_run_is_seen_before_new_clips_are_labelled(
    places: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copy(places["tmp"] / "names.csv", places["video"] / "names.csv")
    assert assign.main([str(places["video"]), str(places["media"])]) == 2
    assert "names.csv, line 2, column cluster" in capsys.readouterr().err


def test_a_package_that_an_option_needs(
    places: dict[str, Path], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("selavi.commands.convert.find_spec", lambda name: None)
    assert convert.main([str(places["run"]), "--to", "safetensors", "onnx", "--out", str(places["tmp"] / "new")]) == 2
    assert "--to onnx needs onnx onnxscript, which this installation lacks: pip install" in capsys.readouterr().err
    assert not (places["tmp"] / "new").exists()


def test_the_work_is_what_these_tests_think(places: dict[str, Path]) -> None:
    """Without a fault in the arguments the work begins, so that a test above could fail."""
    for tool, arguments in (
        (train, "--config {config} data.cache_dir={tmp}/cache data.cache_gb=0"),
        (cluster_eval, "{run}"),
        (compare, "--arrays {tmp}/x.npy --ids {tmp}/ids.txt --labels {tmp}/labels.csv"),
        (prepare, "{media} {tmp}/out --cache-dir {tmp}/cache"),
        (probe, "{run}"),
        (scan, "{media} --cache-dir {tmp}/cache"),
    ):
        with pytest.raises(AssertionError, match="the work began"):
            tool.main([word.format(**places) for word in arguments.split()])
