"""Where the shots of a recording begin: at the cuts of its picture; where none is read, at changes of its sound.

    picture   |aaaaaaaaaa|bbbbbb|cccccccccccccc|      a frame differs much more from the one before than its neighbours
    sound     ~~~~~~~~~~~~~~~~~~^^^^^^^^^^^^^^^^      the mean spectrum after a moment is far from that before it

Cuts are those of PySceneDetect's adaptive detector as it comes; fades are none.  The measure of the sound is Foote's
novelty ("Automatic audio segmentation using a measure of audio novelty", ICME 2000): its kernel is a product of
signed Gaussians over two times, so the sum over the similarity matrix is a squared length,

    sum_ij g_i g_j <x_(t+i), x_(t+j)>  =  | sum_i g_i x_(t+i) |^2        g < 0 before t, > 0 after it

and costs a convolution instead of a matrix.
"""

import logging
from collections.abc import Iterator
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from datamodules.index.notebook import Notebook
from selavi.errors import UsageError
from selavi.media import MediaError, decode_sound, stream_frames
from selavi.runs.manifest import media_root, require_unchanged

log = logging.getLogger("selavi")

_VERSION = 1
"""Shots that were found in another way are found anew."""
_SHORT_SIDE = 96
_MEMORY = 4 << 30
_RATE, _HOP_S, _BANDS, _SILENCE_DB = 16_000, 0.1, 40, -70.0
_BLOCK_S = 300.0
"""Sound that is decoded at once."""
_REACH_S = 2.0
"""What is compared before and after a moment; the Gaussians have half of it as standard deviation."""
_RISE = 1.0
"""A change of the sound rises by so many times the median novelty of the recording above its surroundings."""


def find_shots(
    manifest: pa.Table, cache_dir: Path, *, by_picture: bool, least_s: float, workers: int = 0
) -> tuple[list[np.ndarray | None], str]:
    """Look through recordings for the beginnings of shots; what earlier runs have found is not looked for again.

    Args:
        manifest: of whole recordings that could be probed, at least one.
        cache_dir: where results are kept.
        by_picture: look at the picture where there is one.
        least_s: no shot but the last one is shorter.
        workers: processes; 0: one for each core.

    Returns:
        Seconds at which shots begin but for the first, ascending, a row; None where they could not be found.  And what
        went wrong, as a sentence; "" where nothing did.

    Raises:
        UsageError: there are pictures to look at, and PySceneDetect is not installed.
    """
    has_picture = pc.any(pc.greater(manifest["width"], 0)).as_py()
    if has_picture and by_picture and find_spec("scenedetect") is None:
        raise UsageError(
            "data.cut=shots finds the cuts of pictures with PySceneDetect, which is not installed: "
            "pip install 'selavi[shots]', or data.cut=every"
        )
    root = media_root(manifest)
    files = manifest.select(["path", "bytes", "mtime_ns", "duration_s", "fps", "width", "audio_state"])
    files = files.rename_columns(["id", *files.column_names[1:]])
    facts = [pa.field("shots_s", pa.list_(pa.float64())), pa.field("status", pa.string())]
    about = f"{root} {_VERSION} {by_picture} {least_s:g}"
    notebook = Notebook(cache_dir, "shots", about, [*facts, pa.field("reason", pa.string())])
    rows = notebook.notes_of(
        files,
        partial(_shots_of, str(root), by_picture=by_picture, least_s=least_s),
        "looking for shots",
        workers=workers,
        deadline_s=600.0 + float(pc.max(files["duration_s"]).as_py()),
        memory_bytes=_MEMORY,
    )
    shots = [None if values is None else np.array(values, float) for values in rows["shots_s"].to_pylist()]
    return shots, _describe(files, rows)


def _describe(files: pa.Table, rows: pa.Table) -> str:
    failed = np.flatnonzero(pc.not_equal(rows["status"], "ok").to_numpy())
    if not len(failed):
        return ""
    first = int(failed[0])
    return f"{len(failed):,} could not be looked through, such as {files['id'][first]} ({rows['reason'][first]})"


def _shots_of(root: str, file: tuple[Any, ...], *, by_picture: bool, least_s: float) -> dict[str, Any]:
    """What a process does with one file: see find_shots."""
    path, num_bytes, mtime_ns, duration_s, fps, width, audio_state = file
    place = Path(root) / path
    require_unchanged(place, num_bytes, mtime_ns)
    if by_picture and width:
        shots = cuts_of_picture(place, fps or 25.0, least_s)
    elif audio_state in ("ok", "silent"):
        shots = changes_of_sound(place, duration_s, least_s)
    else:
        raise MediaError(place, "no_audio", "it has neither a picture that is read nor a sound")
    return {"shots_s": shots, "status": "ok", "reason": None}


def cuts_of_picture(path: Path, fps: float, least_s: float) -> list[float]:
    """Seconds at which a new shot begins, ascending, after the first.

    Args:
        path: of the recording.
        fps: its frames a second, on average.
        least_s: no shot but the last one is shorter.

    Raises:
        MediaError: it cannot be read, or no frame of it can be decoded.
    """
    from scenedetect import FrameTimecode  # here, as it brings OpenCV with it
    from scenedetect.detectors import AdaptiveDetector

    detector = AdaptiveDetector(min_scene_len=max(1, int(np.ceil(least_s * fps))))
    times_s, cuts = [], []
    for number, (time_s, frame) in enumerate(stream_frames(path, size=_SHORT_SIDE)):
        times_s.append(time_s)
        bgr = np.ascontiguousarray(frame[..., ::-1])
        cuts += [cut.frame_num for cut in detector.process_frame(FrameTimecode(number, float(fps)), bgr)]
    return [times_s[cut] for cut in cuts]


def changes_of_sound(path: Path, duration_s: float, least_s: float) -> list[float]:
    """Seconds at which the sound becomes another, ascending.

    Args:
        path: of the recording.
        duration_s: its length.
        least_s: no two changes, and no change and an end, are nearer.

    Raises:
        MediaError: the file cannot be read, or its sound cannot be decoded.
    """
    from scipy.signal import find_peaks

    measure = novelty(np.concatenate(list(_spectra(path, duration_s))))
    if not measure.any():
        return []
    least = max(1, int(np.ceil(least_s / _HOP_S)))
    peaks, _ = find_peaks(measure, prominence=_RISE * np.median(measure), distance=least)
    times_s = peaks * _HOP_S
    return [float(time_s) for time_s in times_s if least_s <= time_s <= duration_s - least_s]


def novelty(spectra: np.ndarray) -> np.ndarray:
    """How far the sound after each moment is from that before it.

    Args:
        spectra: (n, bands), of steps of _HOP_S.

    Returns:
        (n,) distance at the beginning of each step; 0 at the very beginning.
    """
    from scipy.ndimage import correlate1d

    reach = round(_REACH_S / _HOP_S)
    steps = np.arange(-reach, reach) + 0.5
    weights = np.sign(steps) * np.exp(-0.5 * (2 * steps / reach) ** 2)
    # correlate1d puts the middle of an even filter one step to the right of it: on the first step after the moment.
    change = correlate1d(spectra, weights / np.abs(weights).sum() * 2, axis=0, mode="nearest")
    distance: np.ndarray = np.linalg.norm(change, axis=1)
    return distance


def _spectra(path: Path, duration_s: float) -> Iterator[np.ndarray]:
    """Log-mel spectra, (n, bands) dB, of a sound a block at a time; where it has ended there is silence."""
    import librosa

    hop = round(_RATE * _HOP_S)
    for start_s in np.arange(0.0, duration_s, _BLOCK_S).tolist():
        end_s = min(start_s + _BLOCK_S, duration_s)
        # A spectrum is of the sound around its time: a block is heard with what lies beside it.
        begin_s = max(0.0, start_s - 2 * _HOP_S)
        sound = decode_sound(path, sample_rate=_RATE, start_s=begin_s, end_s=end_s + 2 * _HOP_S) / np.float32(32768)
        mel = librosa.feature.melspectrogram(y=sound, sr=_RATE, n_fft=2 * hop, hop_length=hop, n_mels=_BANDS)
        db = librosa.power_to_db(mel, ref=1.0, amin=10 ** (_SILENCE_DB / 10), top_db=None).T
        spectra = np.full((round((end_s - start_s) / _HOP_S), _BANDS), _SILENCE_DB)
        own = db[round((start_s - begin_s) / _HOP_S) :][: len(spectra)]
        spectra[: len(own)] = own
        yield spectra
