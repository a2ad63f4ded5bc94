import time
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pytest

from datamodules.doctor import throughput
from datamodules.doctor.throughput import (
    DataSpeed,
    Flow,
    SampledFiles,
    check_flow,
    faster_flows,
    make_flow,
    rank_advice,
)
from datamodules.index.manifest import usable
from datamodules.index.scan import scan
from selavi.config import Config
from selavi.errors import UsageError
from tests.datamodules.doctor.test_machine import MACHINE

SLOW = DataSpeed(one=10.0, loader=40.0, faults=0, clips=100)
FLOW = Flow(loader=40.0, training=1600.0, labelling=4800.0, share=0.5, gpu=True, workers=4, cores=8)


def test_slow_data_are_named_and_the_best_change_comes_first() -> None:
    verdict = check_flow(FLOW, SLOW)[-1]
    assert FLOW.bottleneck == "data"
    assert verdict.mark == "warning" and "98% of a run's time is waiting" in verdict.finding
    changed = faster_flows(FLOW, SLOW, {"shards": 200.0, "smaller": 10.1}, {})
    advice = rank_advice(FLOW, changed)
    assert [one.change for one in advice] == ["shards", "data.num_workers=8"]  # 1 % is not worth a line
    assert advice[0].gain == pytest.approx(20) and advice[1].gain == pytest.approx(2)
    assert advice[1].clips_per_s == pytest.approx(80)


def test_a_change_gains_no_more_than_the_model_lets_it() -> None:
    fast = replace(FLOW, loader=1e6)
    assert fast.clip_s() == pytest.approx(0.5 / 1600 + 0.5 / 4800) == fast.model_s()
    assert fast.bottleneck == "model" and check_flow(fast, SLOW)[-1].mark == "ok"
    assert rank_advice(fast, {"more of the same": replace(fast, loader=2e6)}) == []
    assert rank_advice(fast, faster_flows(fast, SLOW, {}, {"bf16": (3200.0, 9600.0)}))[0].gain == pytest.approx(2)


def test_fewer_passes_for_labels_make_each_clip_that_is_trained_on_faster() -> None:
    [advice] = rank_advice(FLOW, faster_flows(replace(FLOW, workers=8), SLOW, {}, {}, kept_share=0.2))
    assert advice.change == "labelling.features=kept"
    assert advice.gain == pytest.approx(0.8 / 0.5)  # the data give as many clips a second as before


def test_without_loader_processes_beside_a_gpu_data_and_model_take_turns() -> None:
    turns = replace(FLOW, loader=10.0, workers=0)
    assert turns.clip_s() == pytest.approx(0.1 + turns.model_s())
    more = faster_flows(turns, SLOW, {}, {})["data.num_workers=8"]
    assert (more.loader, more.overlap) == (80.0, True)
    assert not replace(more, gpu=False).overlap  # on a processor both want the same cores


def test_several_devices_share_the_cores() -> None:
    config = Config()
    one = make_flow(config, SLOW, 1.0, 1.0, MACHINE, 200)
    four = make_flow(config, SLOW, 1.0, 1.0, replace(MACHINE, processes=4), 200)
    assert (one.cores, one.loader) == (8, 40.0)
    assert (four.cores, four.loader) == (2, 20.0)
    assert one.share == pytest.approx(200 / 400)  # 100 labellings of 2 groups, 200 epochs


def test_faults_of_the_loader_are_reported() -> None:
    assert "3 of 100 clips could not be decoded" in check_flow(FLOW, replace(SLOW, faults=3))[-1].finding


def test_a_sample_stands_for_the_folder(tiny, demo_set: Path) -> None:
    sample = throughput.find_sample(tiny(), 60.0)
    assert sample is not None and sample.num_files == 32 and len(sample.manifest) == 32
    assert set(sample.manifest["split"].to_pylist()) == {"train"}
    check = throughput.check_sample(sample, tiny())[-1]
    assert (check.mark, check.finding) == ("ok", "32 of 32 files looked at")
    assert sample.num_others == 16 and sample.is_all
    half = SampledFiles(sample.manifest.slice(0, 16), None, 32, num_others=16)
    assert not half.is_all
    assert throughput.cache_gb(tiny(), half) == pytest.approx(throughput.cache_gb(tiny(), sample), rel=0.2)


def test_a_list_chooses_the_files_that_are_looked_at(tiny, demo_set: Path, tmp_path: Path) -> None:
    """With its splits: the demo set's own test clips become the training clips here."""
    names = sorted(path.relative_to(demo_set).as_posix() for path in (demo_set / "test").rglob("*.mp4"))
    lines = [f"{name},x,{'train' if number < 5 else 'test'}" for number, name in enumerate(names)]
    (tmp_path / "list.csv").write_text("\n".join(["path,label,split", *lines, names[0] + ",y,train"]) + "\n")
    config = tiny(f"data.list={tmp_path / 'list.csv'}")
    sample = throughput.find_sample(config, 60.0)
    assert sample is not None and sample.num_files == 5
    assert sorted(sample.manifest["id"].to_pylist()) == names[:5]
    throughput.measure_data(config, sample, tmp_path, 0.1)
    (tmp_path / "twice.csv").write_text(f"path\n{Path(names[0]).name}\n")  # a name that several files have
    sample = throughput.find_sample(tiny(f"data.list={tmp_path / 'twice.csv'}", "data.train_split=test"), 60.0)
    assert sample is not None and sample.num_files == 1
    (tmp_path / "spans.csv").write_text(f"path,start,end\n{names[0]},0,1\n{names[0]},0.5,1.5\n")
    sample = throughput.find_sample(tiny(f"data.list={tmp_path / 'spans.csv'}", "data.train_split=test"), 60.0)
    assert sample is not None and sample.num_files == 2
    (tmp_path / "none.csv").write_text("path\nno/such.mp4\n")
    with pytest.raises(UsageError, match="none of its 1 clips is in"):
        throughput.find_sample(tiny(f"data.list={tmp_path / 'none.csv'}"), 1.0)


def test_bad_files_are_counted_and_none_is_a_problem(tiny, media: Path) -> None:
    config = tiny(f"data.root={media}")
    sample = throughput.find_sample(config, 60.0)
    assert sample is not None
    check = throughput.check_sample(sample, config)[-1]
    assert check.mark == "warning" and "7 of 7 files looked at, 3 cannot be used" in check.finding
    none = SampledFiles(sample.manifest.filter(pa.array([False] * 7)), None, 7)
    assert throughput.check_sample(none, config)[-1].mark == "problem"
    mute = sample.manifest.filter(pa.array([path == "mute.mp4" for path in sample.manifest["path"].to_pylist()]))
    assert throughput.check_sample(SampledFiles(mute, None, 1), config)[-1].advice == "modalities=[video]"


def test_no_data_is_no_fault_where_training_generates_them(tiny, tmp_path: Path) -> None:
    config = tiny(f"data.root={tmp_path / 'none'}", "data.demo=true")
    assert throughput.find_sample(config, 1.0) is None
    check = throughput.check_sample(None, config)[-1]
    assert check.mark == "ok" and "not there yet" in check.finding
    with pytest.raises(UsageError, match="no such folder"):
        throughput.find_sample(tiny(f"data.root={tmp_path / 'none'}"), 1.0)


def test_recordings_over_a_minute_are_measured_without_what_takes_too_long(
    tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """doctor with small.yaml (data.cache_gb=4) ended in a traceback where every file was longer than a minute."""
    monkeypatch.setattr(throughput, "_TRIAL_S", 0.1)
    config = tiny("data.cache_gb=1")
    sample = throughput.find_sample(config, 60.0)
    assert sample is not None
    monkeypatch.setattr(throughput._few, "__defaults__", (0.5, 12))  # the clips of 2 s are now longer than allowed
    assert len(throughput._few(usable(sample.manifest))) == 0
    data = throughput.measure_data(config, sample, tmp_path, 0.2)
    assert data.one > 0 and data.faults == 0
    assert "measured without data.cache_gb" in caplog.text
    rates = throughput.faster_data(config, sample, MACHINE, tmp_path, time.monotonic() + 1e6)
    assert [change.split()[0] for change in rates] == ["video.decode_size=24"]


def test_what_is_tried_is_measured_and_leaves_nothing(tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(throughput, "_TRIAL_S", 0.1)
    config = tiny("data.cache_gb=0")
    sample = throughput.find_sample(config, 0.0)
    assert sample is not None
    data = throughput.measure_data(config, sample, tmp_path, 0.2)
    assert data.one > 0 and data.loader == data.one and data.faults == 0 and data.clips > 0
    until_s = time.monotonic() + 1e6
    rates = throughput.faster_data(config, sample, replace(MACHINE, cores=1), tmp_path, until_s)
    assert [change.split()[0] for change in rates] == [
        "video.decode_size=24",
        "data.cache_gb=1",
        *2 * ["selavi"],
    ]
    assert all(rate > 0 for rate in rates.values())
    assert throughput.faster_data(config, sample, MACHINE, tmp_path, time.monotonic() - 1) == {}


def test_a_run_that_decodes_ahead_is_measured_so(tiny, tmp_path: Path) -> None:
    sample = throughput.find_sample(tiny(), 0.0)
    assert sample is not None
    throughput.measure_data(tiny("data.num_workers=1"), sample, tmp_path, 0.2)
    assert (tmp_path / "cache").exists()


def test_files_of_other_splits_are_not_read_for_the_speed_of_training(tiny, cache_dir: Path, tmp_path: Path) -> None:
    """Those of `test` come first; `selavi label` ended with "no file in split 'train'" where a folder had both."""
    config = tiny("data.cache_gb=1")
    scan(Path(config.data.root), cache_dir, 1)
    sample = throughput.find_sample(config, 0.0, recalls=True)
    assert sample is not None and sample.is_all
    assert sample.num_files == len(sample.manifest) == 48 and sample.num_others == 0
    assert set(sample.manifest["split"].to_pylist()[:12]) == {"test"}
    assert throughput.measure_data(config, sample, tmp_path, 0.1).one > 0


def test_recordings_over_a_minute_are_not_decoded_to_say_how_long_that_takes(
    tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tiny()
    sample = throughput.find_sample(config, 60.0)
    assert sample is not None
    seconds = throughput.decoding_s(config, sample, 0.1)
    assert seconds is not None and seconds > 0
    monkeypatch.setattr(throughput, "_LONGEST_TRIAL_S", 1.0)
    assert throughput.decoding_s(config, sample, 0.1) is None
