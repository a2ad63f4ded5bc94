from collections.abc import Callable

import numpy as np
import pytest

from selavi.config import Config
from selavi.modalities import MODALITIES, Request, examples, num_bytes, reads_sound, request_of

Tiny = Callable[..., Config]


def test_requests_of_several_modalities_become_one(tiny: Tiny) -> None:
    config = tiny()
    assert request_of(config, ["video", "audio"]) == Request(num_frames=2, size=32, sample_rate=8000)
    assert request_of(config, ["audio"]) == Request(sample_rate=8000)
    assert not request_of(config, []) and reads_sound(config, ["audio"]) and not reads_sound(config, ["video"])


def test_one_read_gives_one_form_of_a_stream() -> None:
    with pytest.raises(ValueError, match="one form of a stream"):
        Request(num_frames=2, size=32) | Request(num_frames=4, size=32)


@pytest.mark.parametrize("name", MODALITIES)
def test_blanks_and_examples_have_the_type_and_shape_of_decoded_clips(tiny: Tiny, name: str) -> None:
    config, kind = tiny(f"modalities=[{name}]", "features.num_dims=4"), MODALITIES[name]
    blank, values = kind.blank(config), examples(config, 3, seed=1)[name]
    assert blank.shape == kind.shape(config) and values.shape == (3, *blank.shape)
    assert blank.dtype == values.dtype == kind.dtype and not blank.any() and values.any()
    assert num_bytes(config) == blank.nbytes
    np.testing.assert_array_equal(values, examples(config, 3, seed=1)[name])


def test_sound_that_is_too_short_for_a_clip_is_a_fault() -> None:
    facts = {"audio_state": "ok", "audio_s": 0.5, "audio_reason": None}
    assert MODALITIES["audio"].fault_of(facts, 1.0) == ("too_short", "0.50 s of sound, data.clip_s=1.0")
    assert MODALITIES["audio"].fault_of(facts | {"audio_s": 1.0}, 1.0) is None
    broken = facts | {"audio_state": "broken", "audio_reason": "no decoder"}
    assert MODALITIES["audio"].fault_of(broken, 1.0) == ("bad_audio", "no decoder")


def test_windows_are_held_within_the_sound_only_where_it_is_required() -> None:
    facts = {"audio_state": "ok", "audio_s": 2.5, "audio_reason": None}
    seconds = MODALITIES["audio"].seconds
    assert seconds(facts, 1.0, "require") == 2.5
    assert seconds(facts, 1.0, "mask") == seconds(facts | {"audio_s": 0.5}, 1.0, "require") == float("inf")
