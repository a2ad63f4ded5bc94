"""Media files in and out, recordings and still pictures: the only user of PyAV."""

from selavi.media.browser import playable, require_recording, transcode
from selavi.media.decoding import (
    Recording,
    SoundError,
    decode_clip,
    decode_frames_at,
    decode_recording,
    decode_sound,
    frame_times,
    latest_frames,
    stream_frames,
)
from selavi.media.encoding import encode_clip, recompress
from selavi.media.facts import MediaInfo, probe, probe_picture
from selavi.media.files import DEADLINE_S, LIMITS, WALL_FACTOR, Limits, MediaError
from selavi.media.pictures import crop_square, decode_jpegs, encode_jpeg
from selavi.media.sound import SILENCE, SILENCE_S, cut_waveform, loudest
from selavi.media.stills import STILL_SUFFIXES, is_still

__all__ = [
    "DEADLINE_S",
    "LIMITS",
    "SILENCE",
    "SILENCE_S",
    "STILL_SUFFIXES",
    "WALL_FACTOR",
    "Limits",
    "MediaError",
    "MediaInfo",
    "Recording",
    "SoundError",
    "crop_square",
    "cut_waveform",
    "decode_clip",
    "decode_frames_at",
    "decode_jpegs",
    "decode_recording",
    "decode_sound",
    "encode_clip",
    "encode_jpeg",
    "frame_times",
    "is_still",
    "latest_frames",
    "loudest",
    "playable",
    "probe",
    "probe_picture",
    "recompress",
    "require_recording",
    "stream_frames",
    "transcode",
]
