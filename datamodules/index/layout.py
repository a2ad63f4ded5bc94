"""What the folders below data.root mean: splits, classes, or nothing.

One pure function decides over the whole listing, because no single folder can: `train` beside `test` is a split,
`train` between `car` and `bus` is a class.  What was decided is told in one line, what is doubtful is a warning, and
data.layout settles it.
"""

import json
import re
import unicodedata
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal, get_args

import pyarrow as pa
import pyarrow.compute as pc

from selavi.errors import UsageError

Layout = Literal["auto", "classes", "splits", "flat"]
METADATA_KEY = b"layout"
TRAIN, VAL, TEST = "train", "val", "test"
SPLIT_WORDS: dict[str, str] = {
    **dict.fromkeys(("train", "training", "trn", "trainval"), TRAIN),
    **dict.fromkeys(("val", "valid", "validate", "validation", "dev", "devel"), VAL),
    **dict.fromkeys(("test", "testing", "tst", "eval", "evaluation"), TEST),
}
"""Usual words for a split.  `eval` is a test set, or a validation set where there is another test set."""

_WORDS = "|".join(sorted(SPLIT_WORDS, key=len, reverse=True))
_KIND = r"(?:[ _.-]?(?:set|split|data|videos?|clips?))?"
_SIZE = r"(?:[ _.-]?v?\d+(?:x\d+|px|p|fps|s)?)*"  # train_256, val-256x256, test2
_SPLIT_NAME = re.compile(rf"({_WORDS}){_KIND}{_SIZE}")
_SPLIT_PART = re.compile(rf"(?<![^\W_])({_WORDS}){_KIND}(?![^\W\d_])")  # kinetics_train, val_small
_SETTLE = "data.layout=splits, classes or flat (--layout) settles it"


@dataclass(frozen=True)
class Reading:
    """What the folders below a root were taken for.

    Attributes:
        kind: classes: the first folder is the class and all is `train`; splits: the first folder is the split, the
            second one the class; flat: folders mean nothing, all is `train` without a label.
        splits: where kind is splits, the split of each first folder.
        doubts: in words, each with what to do.
    """

    kind: Literal["classes", "splits", "flat"]
    splits: Mapping[str, str]
    doubts: tuple[str, ...] = ()

    def place(self, folder: str) -> tuple[str, str | None]:
        """Split and label of the files in a folder, given as its path below the root."""
        parts = _parts(folder)
        if not parts or self.kind == "flat":
            return TRAIN, None
        if self.kind == "classes":
            return TRAIN, parts[0]
        return self.splits[parts[0]], parts[1] if len(parts) > 1 else None


def split_of(name: str) -> str | None:
    """The split that a folder's name is a usual word for, whatever its case: train, val or test; None for none."""
    found = _SPLIT_NAME.fullmatch(_plain(name))
    return SPLIT_WORDS[found[1]] if found else None


def read_layout(folders: Mapping[str, int], layout: str = "auto") -> Reading:
    """Decide what folders mean.

    Args:
        folders: for each folder below the root ("" is the root itself) how many media files lie directly in it.
        layout: a Layout; with auto the names and what lies below them decide: folders that are all named like splits
            are splits.  Beside others they are splits where two different ones hold the same class folders or there
            are more different ones than others, or one beside one other holds its classes; else all are classes.

    Raises:
        UsageError: `layout` is none.
    """
    require_layout(layout)
    tree = _Tree(folders)
    if layout == "flat":
        return Reading("flat", {})
    if layout == "classes":
        return Reading("classes", {})
    if layout == "splits":
        return Reading("splits", _name_splits(tree.tops))
    if not tree.tops:
        return Reading("flat", {})
    like_splits = [name for name in tree.tops if split_of(name)]
    if len(like_splits) == len(tree.tops):
        splits = _name_splits(tree.tops)
        return Reading("splits", splits, tuple(_doubts_of_splits(tree, splits)))
    parts = {split_of(name) or _loose_split(name) for name in tree.tops}
    if None not in parts and len(parts) > 1:
        return _loose(tree)
    return _mixed(tree, like_splits) if like_splits else _classes(tree)


def require_layout(layout: str) -> None:
    """Raise UsageError where it is none."""
    if layout not in get_args(Layout):
        raise UsageError(f"data.layout (--layout) must be {', '.join(get_args(Layout))}; got {layout!r}")


def describe_layout(manifest: pa.Table) -> list[str]:
    """Say in one line which splits and classes a manifest has, and in one more each what is doubtful about them."""
    written = (manifest.schema.metadata or {}).get(METADATA_KEY)
    facts = json.loads(written) if written else {"named": [], "doubts": []}
    counts = {entry["values"]: entry["counts"] for entry in pc.value_counts(manifest["split"]).to_pylist()}
    splits = ", ".join(f"{name} {count:,}" for name, count in sorted(counts.items(), key=_usual_order))
    labels = manifest["label"]
    num_classes = len(labels.drop_null().unique())
    classes = f"{num_classes:,} class{'' if num_classes == 1 else 'es'}" if num_classes else "no classes"
    bare = f", {labels.null_count:,} files without one" if num_classes and labels.null_count else ""
    named = f" (folders {', '.join(facts['named'])})" if facts["named"] else ""
    return [f"splits: {splits or 'none'}{named}; {classes}{bare}", *(f"doubtful: {doubt}" for doubt in facts["doubts"])]


def metadata_of(reading: Reading) -> bytes:
    """What describe_layout needs, for the metadata of a manifest."""
    named = [f"{_shown(name)} as {split}" for name, split in sorted(reading.splits.items()) if name != split]
    return json.dumps({"kind": reading.kind, "named": named, "doubts": list(reading.doubts)}).encode()


class _Tree:
    """The first two levels of folders, and how many media files lie where."""

    def __init__(self, folders: Mapping[str, int]) -> None:
        self.in_root = 0
        self.direct: dict[str, int] = {}
        self.below: dict[str, dict[str, int]] = {}
        for folder, count in folders.items():
            parts = _parts(folder)
            if not count:
                continue
            if not parts:
                self.in_root += count
                continue
            top = parts[0]
            self.direct.setdefault(top, 0)
            self.below.setdefault(top, {})
            if len(parts) == 1:
                self.direct[top] += count
            else:
                self.below[top][parts[1]] = self.below[top].get(parts[1], 0) + count

    @property
    def tops(self) -> list[str]:
        return sorted(self.direct)

    def total(self, top: str) -> int:
        return self.direct[top] + sum(self.below[top].values())

    def shares_classes(self, first: str, second: str) -> bool:
        return bool(self.below[first].keys() & self.below[second].keys())


def _name_splits(tops: Iterable[str]) -> dict[str, str]:
    """The split of each first folder: what it is a usual word for, else its own name."""
    tops = list(tops)
    splits = {name: split_of(name) or _loose_split(name) or name for name in tops}
    evaluations = [name for name in tops if splits[name] == TEST and _plain(name).startswith("eval")]
    others = {split for name, split in splits.items() if name not in evaluations}
    if TEST in others and VAL not in others:
        splits.update(dict.fromkeys(evaluations, VAL))
    return splits


def _loose(tree: _Tree) -> Reading:
    """Each first folder has a split in its name, some only as a part of it."""
    splits = _name_splits(tree.tops)
    doubt = f"the folders {_list(tree.tops)} were taken for splits by a part of their names; if they are classes, say "
    return Reading("splits", splits, (f"{doubt}data.layout=classes (--layout)", *_doubts_of_splits(tree, splits)))


def _classes(tree: _Tree) -> Reading:
    """No first folder has a usual name of a split."""
    doubts = []
    below = {name for top in tree.tops for name in tree.below[top] if split_of(name)}
    if len(tree.tops) == 1 and not tree.in_root:
        doubts.append(_doubt_of_one_folder(tree.tops[0], sorted(below)))
    elif below:
        holding = [top for top in tree.tops if below & tree.below[top].keys()]
        doubts.append(
            f"folders named like splits ({_list(sorted(below))}) lie below {_list(holding)} and were not read as "
            "splits: all clips there are in train. If they are splits, put them first, as ROOT/SPLIT/CLASS, or name "
            "the splits in a table (data.list)"
        )
    return Reading("classes", {}, tuple(doubts))


def _doubt_of_one_folder(name: str, splits_below: list[str]) -> str:
    below = f", and {_list(splits_below)} below it were not read as splits" if splits_below else ""
    return (
        f"every file is in the one folder {_shown(name)}, so that all have that label and are in train{below}. If it "
        f"is no class, data.root is one level too high: say data.root=ROOT/{_shown(name)}, or data.layout=flat"
    )


def _mixed(tree: _Tree, like_splits: list[str]) -> Reading:
    """Some first folders are named like splits, others are not."""
    others = [name for name in tree.tops if name not in like_splits]
    splits = _name_splits(like_splits)
    distinct = set(splits.values())
    shared = any(
        splits[first] != splits[second] and tree.shares_classes(first, second)
        for first in like_splits
        for second in like_splits
    )
    one_more = len(others) == 1 and len(distinct) == 1 and _is_split_beside(tree, like_splits, others[0])
    like = "is named like a split" if len(like_splits) == 1 else "are named like splits"
    names = f"{_list(like_splits)} {like}, {_list(others)} {'is' if len(others) == 1 else 'are'} not"
    if one_more or (len(distinct) > 1 and (shared or len(distinct) > len(others))):
        splits |= {name: name for name in others}
        what = f"all were taken for splits, so that {_list(others)} is no class and not in train; {_SETTLE}"
        return Reading("splits", splits, (f"{names}: {what}", *_doubts_of_splits(tree, splits)))
    what = f"all were taken for classes, and all clips are in train; {_SETTLE}, or move {_list(others)} away"
    return Reading("classes", {}, (f"{names}: {what}",))


def _is_split_beside(tree: _Tree, like_splits: list[str], other: str) -> bool:
    """Whether folders named like one split hold the classes of the one other folder, or classes where it has none."""
    if any(tree.shares_classes(name, other) for name in like_splits):
        return True
    return not tree.below[other] and any(len(tree.below[name]) > 1 for name in like_splits)


def _doubts_of_splits(tree: _Tree, splits: Mapping[str, str]) -> Iterable[str]:
    with_classes = [top for top in splits if tree.below[top]]
    for top in splits:
        if with_classes and not tree.below[top]:
            bare = f"its {tree.direct[top]:,} files have no label"
            yield f"the split {_shown(top)} has no class folders: {bare}; {_SETTLE}"
        elif tree.below[top] and tree.direct[top]:
            yield (
                f"{tree.direct[top]:,} files lie directly in the split {_shown(top)} beside its class folders and have "
                "no label; move them into one"
            )
    if len(splits) == 1 and not with_classes:
        top = next(iter(splits))
        yield f"the only folder {_shown(top)} was taken for a split, and no file has a label; {_SETTLE}"
    if tree.in_root:
        yield f"{tree.in_root:,} files lie beside the split folders and are in train; move them into a split"
    for split in sorted(set(splits.values())):
        same = [top for top in splits if splits[top] == split]
        if len(same) > 1:
            yield f"{_list(same)} are all read as the split {split}; if clips are in several, remove the others"
    if len(set(splits.values())) > 1 and len(with_classes) > 1 and not _any_shared(tree, with_classes):
        yield f"{_list(with_classes)} have no class folder in common; if they are classes, say data.layout=classes"


def _any_shared(tree: _Tree, tops: list[str]) -> bool:
    return any(tree.shares_classes(a, b) for number, a in enumerate(tops) for b in tops[:number])


def _loose_split(name: str) -> str | None:
    """The one split that is a part of a name, as in kinetics_train and val_small."""
    found = {SPLIT_WORDS[word] for word in _SPLIT_PART.findall(_plain(name))}
    return found.pop() if len(found) == 1 else None


def _plain(name: str) -> str:
    return unicodedata.normalize("NFKC", name).casefold().strip()


def _parts(folder: str) -> list[str]:
    return [part for part in folder.split("/") if part]


def _list(names: Iterable[str], most: int = 4) -> str:
    shown = [_shown(name) for name in names]
    return ", ".join(shown[:most]) + (f" and {len(shown) - most} more" if len(shown) > most else "")


def _shown(name: str) -> str:
    """A folder's name: no control character reaches a terminal."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in name)


def _usual_order(entry: tuple[str, int]) -> tuple[int, str]:
    name = entry[0]
    order = (TRAIN, VAL, TEST)
    return (order.index(name) if name in order else len(order), str(name))
