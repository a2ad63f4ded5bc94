"""Kinetics-Sounds: a part of Kinetics' classes, by SeLaVi's 32, by a list of classes, or by a list of clips."""

import pyarrow as pa
import pyarrow.compute as pc

from datamodules.index.sources import kinetics
from datamodules.index.sources.join import folded
from datamodules.index.sources.listing import (
    LISTING_SCHEMA,
    NUMBER,
    SUFFIX,
    VIDEO,
    ListFormat,
    Listing,
    ListSample,
    clip_listing,
    listing,
    matches,
    read_columns,
)

# As SeLaVi uses it.  31, 33 and 34 classes are in use too, so that a list of classes can be given.
SELAVI_CLASSES = (
    "blowing_nose",
    "blowing_out_candles",
    "bowling",
    "chopping_wood",
    "dribbling_basketball",
    "laughing",
    "mowing_lawn",
    "playing_accordion",
    "playing_bagpipes",
    "playing_bass_guitar",
    "playing_clarinet",
    "playing_drums",
    "playing_guitar",
    "playing_harmonica",
    "playing_keyboard",
    "playing_organ",
    "playing_piano",
    "playing_saxophone",
    "playing_trombone",
    "playing_trumpet",
    "playing_violin",
    "playing_xylophone",
    "ripping_paper",
    "shoveling_snow",
    "shuffling_cards",
    "singing",
    "stomping_grapes",
    "strumming_guitar",
    "tap_dancing",
    "tapping_guitar",
    "tapping_pen",
    "tickling",
)


def fits(sample: ListSample) -> bool:
    """Whether the lines are id_start[_end],frames,class number: a list of classes could be anyone's."""
    return _is_clips(sample.cells())


def read(sample: ListSample) -> Listing:
    """Read a Kinetics list (its clips of SeLaVi's 32 classes), a list of clips, or a list of classes, one a line."""
    if kinetics.fits(sample):
        whole = kinetics.read(sample)
        classes = folded(pa.array(SELAVI_CLASSES))
        return Listing("clip", whole.rows.filter(pc.is_in(folded(whole.rows["label"]), value_set=classes)))
    rows = sample.cells()
    if _is_clips(rows[:1]):
        name, label = read_columns(sample, ",", False, (0, 2))
        return clip_listing(KINETICS_SOUNDS, sample, name, label=label)
    if all(len(row) == 1 and not matches(f".*{SUFFIX}", row) for row in rows):
        return listing("class", sample, *read_columns(sample, None, False, range(1)))
    raise KINETICS_SOUNDS.refuse(sample, f"its first line is {sample.lines[0]!r}")


def selavi_classes() -> Listing:
    """SeLaVi's 32 classes as a list of classes."""
    rows = [{"name": name} for name in SELAVI_CLASSES]
    return Listing("class", pa.Table.from_pylist(rows, schema=LISTING_SCHEMA))


def _is_clips(rows: list[list[str]]) -> bool:
    name = rf"{VIDEO}_{NUMBER}(_{NUMBER})?({SUFFIX})?"
    return all(len(row) == 3 and matches(name, row[:1]) and matches("[0-9]+", row[1:]) for row in rows)


KINETICS_SOUNDS = ListFormat(
    "a Kinetics-Sounds list", "--4-0ihtnBU_000058_000068,10,4 (or a Kinetics list, or a class a line)", fits, read
)
