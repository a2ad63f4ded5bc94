"""Folders are splits, classes or nothing: two hundred random trees whose maker knows which, and each doubtful kind."""

import random
from collections import Counter
from dataclasses import dataclass, field

import pyarrow as pa
import pytest

from datamodules.index.layout import METADATA_KEY, describe_layout, metadata_of, read_layout, split_of
from selavi.errors import UsageError

CLASSES = ("dog", "cat", "playing guitar", "Bus", "steam_train", "crash test", "003", "évaluer", "validator", "tram")
SPELLINGS = {
    "train": ("train", "Train", "TRAIN", "training", "Training", "train_256", "train256", "trn", "train-set"),
    "val": ("val", "Val", "valid", "validate", "validation", "VALIDATION", "dev", "val_256x256", "Valid2"),
    "test": ("test", "Test", "TEST", "testing", "eval", "Evaluation", "tst", "test_set", "test 1"),
}


@dataclass
class Tree:
    """A generated folder tree: what is right for it, and whether nobody could be certain."""

    kind: str
    is_doubtful: bool
    folders: Counter[str] = field(default_factory=Counter)
    places: dict[str, tuple[str, str | None]] = field(default_factory=dict)

    def add(self, folder: str, split: str, label: str | None) -> None:
        self.folders[folder] += 1
        self.places[folder] = (split, label)


def make_splits(draw: random.Random) -> Tree:
    """Two or three splits under any usual names, which share their classes."""
    tree, names = Tree("splits", False), draw.sample(CLASSES, draw.randint(2, 6))
    for split in draw.sample(("train", "val", "test"), draw.randint(2, 3)):
        folder = draw.choice(SPELLINGS[split])
        for name in names:
            deeper = draw.choice(("", "/a", "/a/train"))
            tree.add(f"{folder}/{name}{deeper}", split, name)
    return tree


def make_classes(draw: random.Random) -> Tree:
    """Classes alone, with deeper folders or without."""
    tree = Tree("classes", False)
    for name in draw.sample(CLASSES, draw.randint(2, 8)):
        tree.add(f"{name}{draw.choice(('', '/1', '/1/2'))}", "train", name)
    return tree


def make_class_like_a_split(draw: random.Random) -> Tree:
    """A class whose name is that of a split, between others."""
    tree = Tree("classes", True)
    odd = draw.choice(SPELLINGS[draw.choice(("train", "val", "test"))])
    for name in (odd, *draw.sample(CLASSES, draw.randint(2, 8))):
        tree.add(f"{name}{draw.choice(('', '/1'))}", "train", name)
    return tree


def make_split_beside(draw: random.Random) -> Tree:
    """Splits, and one more folder of clips with the same classes."""
    tree = make_splits(draw)
    tree.is_doubtful = True
    other = draw.choice(("extra", "unlabelled", "originals"))
    for name in draw.sample(CLASSES, 2):
        tree.add(f"{other}/{name}", other, name)
    return tree


def make_one_level_too_high(draw: random.Random) -> Tree:
    """A root above the one that was meant."""
    inner, name = draw.choice((make_splits, make_classes))(draw), draw.choice(("videos", "data set", "UCF-101"))
    tree = Tree("classes", True)
    for folder in inner.folders:
        tree.add(f"{name}/{folder}", "train", name)
    return tree


def make_bare_split(draw: random.Random) -> Tree:
    """Splits, one of them without class folders, or with files beside them."""
    tree = make_splits(draw)
    tree.is_doubtful = True
    folder = draw.choice([folder.split("/")[0] for folder in tree.folders])
    tree.add(folder, split_of(folder) or "", None)
    return tree


def make_flat(draw: random.Random) -> Tree:
    """Files alone."""
    tree = Tree("flat", False)
    for _ in range(draw.randint(1, 5)):
        tree.add("", "train", None)
    return tree


def make_splits_without_classes(draw: random.Random) -> Tree:
    """Splits of files alone."""
    tree = Tree("splits", False)
    for split in draw.sample(("train", "val", "test"), draw.randint(2, 3)):
        tree.add(draw.choice(SPELLINGS[split]), split, None)
    return tree


MAKERS = (
    make_splits,
    make_classes,
    make_class_like_a_split,
    make_split_beside,
    make_one_level_too_high,
    make_bare_split,
    make_flat,
    make_splits_without_classes,
)


@pytest.mark.parametrize("seed", range(240))
def test_random_trees_end_with_a_right_layout_and_doubts_where_there_are_any(seed: int) -> None:
    tree = MAKERS[seed % len(MAKERS)](random.Random(seed))
    folders = [*tree.folders.items()]
    random.Random(-seed).shuffle(folders)
    reading = read_layout(dict(folders))
    assert reading.kind == tree.kind, (folders, reading)
    assert {folder: reading.place(folder) for folder in tree.folders} == tree.places
    assert bool(reading.doubts) == tree.is_doubtful, (folders, reading.doubts)
    assert all("data." in doubt or "move" in doubt or "remove" in doubt for doubt in reading.doubts)


@pytest.mark.parametrize("seed", range(0, 240, 7))
def test_a_given_layout_is_taken_without_a_doubt(seed: int) -> None:
    tree = MAKERS[seed % len(MAKERS)](random.Random(seed))
    for folder in tree.folders:
        parts = folder.split("/") if folder else []
        reading = read_layout(tree.folders, "classes")
        assert reading.place(folder) == ("train", parts[0] if parts else None)
        reading = read_layout(tree.folders, "flat")
        assert reading.place(folder) == ("train", None)
        reading = read_layout(tree.folders, "splits")
        assert reading.place(folder)[1] == (parts[1] if len(parts) > 1 else None)
        assert not parts or split_of(parts[0]) in (None, *({"train"} & {reading.place(folder)[0]}), "val", "test")
        assert not reading.doubts


def places(*folders: str, layout: str = "auto") -> list[tuple[str, str | None]]:
    reading = read_layout(Counter(folders), layout)
    return [reading.place(folder) for folder in folders]


def doubts(*folders: str) -> str:
    return "\n".join(read_layout(Counter(folders)).doubts)


def test_a_given_layout_of_splits_takes_any_name() -> None:
    assert places("Train/a", "fold one/a", layout="splits") == [("train", "a"), ("fold one", "a")]
    with pytest.raises(UsageError, match=r"data\.layout \(--layout\) must be auto, classes, splits, flat; got 'tree'"):
        read_layout({}, "tree")


@pytest.mark.parametrize(
    ("name", "split"),
    [
        *((name, split) for split, names in SPELLINGS.items() for name in names),
        *((name, None) for name in CLASSES),
        ("trains", None),
        ("testament", None),
        ("latest", None),
        ("devil", None),
        ("", None),
    ],
)
def test_usual_words_for_splits(name: str, split: str | None) -> None:
    assert split_of(name) == split


def test_eval_is_validation_beside_a_test_set() -> None:
    assert places("train/a", "eval/a", "test/a") == [("train", "a"), ("val", "a"), ("test", "a")]
    assert places("train/a", "eval/a") == [("train", "a"), ("test", "a")]


def test_names_with_a_split_in_them_are_splits_where_all_have_one() -> None:
    assert places("kinetics_train/a", "kinetics-VAL_small/a") == [("train", "a"), ("val", "a")]
    assert "taken for splits by a part of their names; if they are classes, say data.layout=classes" in doubts(
        "kinetics_train/a", "kinetics-VAL_small/a"
    )
    assert places("train/a", "test-clean/a") == [("train", "a"), ("test", "a")]
    assert places("steam_train", "crash_test", "car") == [("train", x) for x in ("steam_train", "crash_test", "car")]


def test_splits_below_classes_are_told() -> None:
    assert places("dog/train", "dog/test", "cat/train") == [("train", "dog"), ("train", "dog"), ("train", "cat")]
    assert "named like splits (test, train) lie below cat, dog and were not read as splits" in doubts(
        "dog/train", "dog/test", "cat/train"
    )


def test_one_folder_alone_is_told_with_the_root_to_name() -> None:
    assert "every file is in the one folder videos" in doubts("videos/dog", "videos/cat")
    assert "say data.root=ROOT/videos" in doubts("videos/dog", "videos/cat")
    assert "train below it were not read as splits" in doubts("videos/test/a", "videos/train/a")
    assert "the only folder test was taken for a split" in doubts("test")
    assert not doubts("train/dog", "train/cat")


def test_two_folders_of_one_split_are_told() -> None:
    assert "train, training are all read as the split train" in doubts("train/a", "training/a", "test/a")
    assert "no class folder in common" in doubts("train/a", "test/b")


def test_the_line_names_splits_classes_and_renamed_folders() -> None:
    reading = read_layout({"Train/dog/": 2, "Train/cat/": 1, "test/dog/": 1, "": 1})
    rows = [("train", "dog"), ("train", "dog"), ("train", "cat"), ("test", "dog"), ("train", None)]
    table = pa.table({"split": [row[0] for row in rows], "label": [row[1] for row in rows]})
    line, doubt = describe_layout(table.replace_schema_metadata({METADATA_KEY: metadata_of(reading)}))
    assert line == "splits: train 4, test 1 (folders Train as train); 2 classes, 1 files without one"
    assert doubt == "doubtful: 1 files lie beside the split folders and are in train; move them into a split"
    bare = pa.table({"split": ["train"] * 1200, "label": pa.nulls(1200, pa.string())})
    assert describe_layout(bare) == ["splits: train 1,200; no classes"]
