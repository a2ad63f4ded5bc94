"""Every file of a run that a command reads, truncated and with flipped bits: a message, or the same result.

What selavi itself writes as tables and tensors has checksums: damage is refused, or changes nothing.  Texts that people
may edit (settings, names, figures) have none: they end in a message, or are read as they are now.
"""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from tools import assign, cluster_eval, convert, export_clusters, train

SEED = 17
NAMES = "head,cluster,id,name,into,rejected\n0,1,,dogs,,\n0,2,,,1,\n"

Command = tuple[Callable[[list[str]], int], list[str]]


@pytest.fixture(scope="module")
def measured(finished_run: Path, demo_set: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run with everything in it that commands keep."""
    folder = shutil.copytree(finished_run, tmp_path_factory.mktemp("measured") / "run")
    (folder / "names.csv").write_text(NAMES)
    assert cluster_eval.main([str(folder), "--split", "test", "--views", "1"]) == 0
    assert cluster_eval.main([str(folder), "--views", "1"]) == 0
    assert export_clusters.main([str(folder), "--evidence", "1", "--clips", "4", "--to", "features"]) == 0
    assert assign.main([*new_clips(folder, demo_set), "--shard-clips", "8"]) == 0
    assert convert.main([str(folder), "--out", str(folder / "export")]) == 0
    return folder


def new_clips(folder: Path, demo_set: Path) -> list[str]:
    return [str(folder), str(demo_set / "test"), "--out", str(folder / "assigned" / "test"), "--workers", "0"]


def artefacts(folder: Path) -> list[Path]:
    """The files of a run that commands read, without its checkpoints and what is written for others alone."""
    patterns = (
        "manifest.parquet",
        "config.resolved.yaml",
        "status.json",
        "names.csv",
        "metrics.csv",
        "labels/*.parquet",
        "eval/metrics_*.json",
        "eval/features/*.safetensors",
        "evidence/*.parquet",
        "handover/features/.handover.json",
        "assigned/test/manifest.parquet",
        "assigned/test/assign.json",
        "assigned/test/parts/00000.parquet",
        "export/weights.safetensors",
        "export/config.yaml",
    )
    return [path.relative_to(folder) for pattern in patterns for path in sorted(folder.glob(pattern))]


def commands_of(artefact: Path, folder: Path, demo_set: Path) -> list[Command]:
    """The quickest commands that read a file."""
    name = artefact.as_posix()
    tables = ["--map", "none", "--evidence", "0", "--clips", "1"]
    if name.startswith("assigned/"):
        return [(assign.main, [*new_clips(folder, demo_set), "--shard-clips", "8"])]
    if name.startswith("export/"):
        return [(convert.main, [str(folder / "export"), "--out", str(folder / "again")])]
    if name == "status.json":
        settings = folder / "config.resolved.yaml"
        return [
            (train.main, ["--config", str(settings), f"run_dir={folder}", "resume=auto"]),
            (convert.main, [str(folder), "--to", "hub", "--out", str(folder / "hub")]),
        ]
    if name.startswith("eval/features"):
        return [(export_clusters.main, [str(folder), "--evidence", "0", "--clips", "1"])]
    if name.startswith("evidence/"):
        return [(export_clusters.main, [str(folder), "--map", "none", "--evidence", "1", "--clips", "4"])]
    if name.startswith("handover/"):
        return [(export_clusters.main, [str(folder), *tables, "--to", "features"])]
    if name == "metrics.csv" or name == "labels/test.parquet":
        return [(cluster_eval.main, [str(folder), "--views", "1"])]
    if name.startswith("eval/metrics_test"):
        return [(convert.main, [str(folder), "--to", "hub", "--out", str(folder / "hub")])]
    return [(export_clusters.main, [str(folder), *tables])]


def damages(whole: bytes, number: int) -> Iterator[tuple[str, bytes]]:
    """Half as many truncations, among them to nothing, and as many flipped bits as there are bytes to spare."""
    generator = np.random.default_rng(SEED)
    lengths = [0, *generator.integers(len(whole), size=number // 2 - 1).tolist()]
    yield from ((f"cut to {length} bytes", whole[:length]) for length in lengths)
    for place in generator.integers(8 * len(whole), size=number - len(lengths)).tolist():
        flipped = bytearray(whole)
        flipped[place // 8] ^= 1 << place % 8
        yield f"bit {place} flipped", bytes(flipped)


def sweep(measured: Path, demo_set: Path, tmp_path: Path, number: int, capfd: pytest.CaptureFixture[str]) -> list[str]:
    """Damage each artefact in turn, run what reads it; what was not refused in words, in words."""
    faults = []
    for artefact in artefacts(measured):
        whole = (measured / artefact).read_bytes()
        for what, content in damages(whole, number):
            folder = shutil.copytree(measured, tmp_path / "run")
            (folder / artefact).write_bytes(content)
            for main, words in commands_of(artefact, folder, demo_set):
                case = f"{artefact}, {what}, {main.__module__}"
                capfd.readouterr()
                try:
                    code = main(words)
                except BaseException as error:
                    faults.append(f"{case}: {error!r:.300}")
                    continue
                said = capfd.readouterr().err
                if code not in (0, 2):
                    faults.append(f"{case}: exit code {code}: {said[-300:]}")
                elif code == 2 and (artefact.name if len(artefact.parts) == 1 else str(artefact.parent)) not in said:
                    faults.append(f"{case}: the message does not name the file: {said[-300:]}")
            shutil.rmtree(folder)
    return faults


@pytest.mark.slow
def test_damaged_artefacts_end_in_a_message(
    measured: Path, demo_set: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    faults = sweep(measured, demo_set, tmp_path, 12, capfd)
    assert not faults, "\n".join(faults)
