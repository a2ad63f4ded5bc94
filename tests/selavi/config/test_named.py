"""Modalities with names and sections of their own."""

import pickle
from dataclasses import replace
from pathlib import Path

import pytest

from selavi.config import RESOLVED, Config, as_dict, differing, freedom, load_config, save_config, settings_of
from selavi.errors import UsageError
from selavi.modalities import named, num_bytes, request_of, request_of_media

THREE = "modalities={left: video, right: video, ear: audio}"


def test_a_section_of_its_own_begins_with_the_settings_of_its_kind(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(
        "modalities: {left: video, right: video, ear: audio}\n"
        "video: {size: 64, decode_size: 72}\nleft: {size: 48}\nright: {flip: 0}\n"
    )
    config = load_config(path, ["video.num_frames=4", "right.size=32"])
    left, right = config.section("left"), config.section("right")
    assert (left.size, left.decode_size, left.num_frames, left.flip) == (48, 72, 4, 0.5)
    assert (right.size, right.decode_size, right.num_frames, right.flip) == (32, 72, 4, 0.0)
    assert config.seen_by("left").video is left and config.seen_by("ear").audio is config.section("ear")
    assert config.video.size == 64
    assert config.kinds == {"left": "video", "right": "video", "ear": "audio"} and config.branches == [*config.kinds]


def test_it_is_saved_beside_the_others_and_read_back(tmp_path: Path) -> None:
    config = load_config(None, [THREE, "left.size=48", "labelling.weights.left=2"])
    save_config(config, tmp_path / RESOLVED)
    again = load_config(tmp_path / RESOLVED)
    assert type(again) is Config and as_dict(again) == as_dict(config)
    assert "left:\n" in (tmp_path / RESOLVED).read_text() and "own" not in as_dict(config)
    assert pickle.loads(pickle.dumps(config)) == config
    assert replace(config, seed=1).section("left").size == 48


def test_a_mapping_on_the_command_line_adds_to_that_of_the_file(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("modalities: {left: video}\n")
    assert load_config(path, ["modalities.ear=audio"]).kinds == {"left": "video", "ear": "audio"}
    assert load_config(path, ["modalities=[audio]"]).kinds == {"audio": "audio"}
    path.write_text("modalities: [video]\n")
    assert load_config(path, ["modalities={ear: audio}"]).kinds == {"ear": "audio"}


def test_names_that_are_kinds_are_as_a_list() -> None:
    config = load_config(None, ["modalities={audio: audio, video: video}"])
    assert config.modalities == ["video", "audio"] and not config.own
    assert load_config(None, ["modalities=[audio,video]"]).modalities == ["video", "audio"]


def test_its_settings_count_when_a_run_goes_on() -> None:
    before = as_dict(load_config(None, [THREE, "left.size=48"]))
    now = as_dict(load_config(None, [THREE, "left.size=64"]))
    assert differing(before, now) == {"left.size": "48 then, 64 now"}
    assert freedom("left.size") == freedom("video.size")
    assert settings_of(load_config(None, [THREE]))["left.size"].key == "left.size"


def test_modalities_of_one_stream_read_it_once_in_one_form() -> None:
    config = load_config(None, [THREE, "left.size=48"])
    assert request_of(config, ["left", "right"]) == request_of(config, ["left"])
    assert num_bytes(config) > num_bytes(replace(config, modalities={"left": "video", "ear": "audio"}))
    other = load_config(None, [THREE, "left.decode_size=48"])
    with pytest.raises(UsageError, match="modalities left, right: one read gives one form of a stream"):
        request_of(other, ["left", "right"])
    alone = load_config(None, ["modalities={left: video}", "left.decode_size=48", "left.size=32"])
    assert request_of_media(alone).size == 48 and request_of_media(alone).sample_rate == alone.audio.sample_rate


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["modalities={left: video}", "left.sise=3"], "unknown setting left.sise; did you mean left.size?"),
        (["modalities={left: video}", "left.size=big"], r"could not be converted to Integer \(setting left.size\)"),
        (["modalities={left: video}", "left.flip=7"], "flip must be in"),
        (
            ["modalities={left: smell}"],
            r"names to kinds \(video, audio, features, image, motion, statistics\), got {'left': 'smell'}",
        ),
        (["modalities={left: [video]}"], r"got {'left': \['video'\]}"),
        (["modalities={}"], "modalities must be a mapping from names to kinds"),
        (["modalities={audio: video}"], "'audio' cannot name a modality of kind video"),
        (["modalities={data: video}"], "'data' cannot name a modality of kind video"),
        (["modalities={cross: video}"], "'cross' cannot name a modality"),
        (["modalities={Left: video}"], "'Left' cannot name a modality of kind video: a name has small letters"),
        (["modalities={7: video}"], "cannot name a modality"),
        (["modalities=smell"], r"each once, got \['smell'\]; several of one kind"),
        (
            ["modalities=[smell]"],
            r"modalities must be some of video, audio, features, image, motion, statistics, each once, got \['smell'\]",
        ),
        (["left.size=3"], "unknown setting left"),
        (["own.left=3"], "own must be a section of the name of a modality"),
        ([THREE, "labelling.weights.up=1"], "labelling.weights must be a weight for each of"),
    ],
)
def test_what_cannot_be_is_refused(overrides: list[str], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        load_config(None, overrides)


def test_a_list_has_one_order_and_a_mapping_its_own() -> None:
    assert list(named(["audio", "video"])) == ["video", "audio"]
    assert list(named({"b": "audio", "a": "video"})) == ["b", "a"]
