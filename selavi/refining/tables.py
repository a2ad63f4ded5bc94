"""The tables that a round of refining leaves for people, and for the next round.

answers.csv     id, cluster, name, round     clips that a person put somewhere, in all rounds so far
refined.csv     id, name, ...                every clip: its name, or "unsure", and how sure that is
questions.csv   id, name, confidence, margin clips to look at next
lessons.csv     id, cluster, before, answer  in the run of a round's encoders: what each clip taught them
"""

import csv
import io
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from selavi.atomic import write_text
from selavi.errors import UsageError
from selavi.guarded.json_file import as_written
from selavi.refining.places import Places
from selavi.refining.refine import Refined

UNSURE = "unsure"


def read_answers(path: Path) -> dict[str, int]:
    """Id -> round of the clips whose cluster is somebody's answer; none where there is no such file.

    Raises:
        UsageError: it is damaged.
    """
    if not path.exists():
        return {}
    advice = "remove it: the next round then learns the clusters, and none of their clips is an answer"
    with as_written(path, advice), path.open(encoding="utf-8", newline="") as file:
        return {row["id"]: int(row["round"]) for row in csv.DictReader(file)}


def write_answers(path: Path, places: Places, ids: Sequence[str], before: Path) -> None:
    """Write the answers of this round and those before; `before` is the file of the round before, if there was one."""
    rounds = read_answers(before)
    this_round = max(rounds.values(), default=0) + 1
    rows = places.is_answered.nonzero()[:, 0].tolist()
    answers = places.answers.tolist()
    lines = [(ids[row], answers[row], places.names[answers[row]], rounds.get(ids[row], this_round)) for row in rows]
    _write(path, ["id", "cluster", "name", "round"], lines)


def write_refined(path: Path, places: Places, refined: Refined, ids: Sequence[str]) -> None:
    """Write what became of every clip.

    `name` is empty for clips of a cluster without a name, `before` is what their cluster was called, `asked` is yes for
    clips to look at next, answered for those that a person put somewhere, and empty for the others.
    """
    clusters, confidence = refined.bank.labels[:, 0].tolist(), refined.statistics.confidence[:, 0].tolist()
    start, answered = places.start.tolist(), places.is_answered.tolist()
    is_sure = refined.is_sure.tolist()
    asked, lines = set(refined.questions.tolist()), list[tuple[Any, ...]]()
    for row, clip_id in enumerate(ids):
        likeliest = places.names[clusters[row]]
        state = "answered" if answered[row] else "yes" if row in asked else ""
        before = places.names[start[row]]
        name = likeliest if is_sure[row] else UNSURE
        lines.append((clip_id, name, clusters[row], likeliest, _figure(confidence[row]), before, state))
    _write(path, ["id", "name", "cluster", "likeliest", "confidence", "before", "asked"], lines)


def write_questions(path: Path, places: Places, refined: Refined, ids: Sequence[str]) -> None:
    """Write the clips to look at next, the least sure first."""
    clusters = refined.bank.labels[:, 0]
    confidence, margin = refined.statistics.confidence[:, 0], refined.statistics.margin[:, 0]
    lines = [
        (
            ids[row],
            int(clusters[row]),
            places.names[clusters[row]],
            _figure(float(confidence[row])),
            _figure(float(margin[row])),
        )
        for row in refined.questions.tolist()
    ]
    _write(path, ["id", "cluster", "name", "confidence", "margin"], lines)


def write_lessons(path: Path, places: Places, refined: Refined, ids: Sequence[str]) -> None:
    """Write the place of each clip, for encoders to learn; a table that is there stays.

    Raises:
        UsageError: the table that is there came of other decisions.
    """
    before, answers = places.start.tolist(), places.answers.tolist()
    decisions = [(clip_id, str(before[row]), str(answers[row])) for row, clip_id in enumerate(ids)]
    if path.exists():
        _require_same(path, decisions)
        return
    clusters = refined.bank.labels[:, 0].tolist()
    lines = [(clip_id, cluster, *rest) for cluster, (clip_id, *rest) in zip(clusters, decisions, strict=True)]
    _write(path, ["id", "cluster", "before", "answer"], lines)


def _require_same(path: Path, decisions: Sequence[tuple[str, str, str]]) -> None:
    advice = f"remove {path.parent}, whose encoders it taught"
    with as_written(path, advice), path.open(encoding="utf-8", newline="") as file:
        earlier = [(row["id"], row["before"], row["answer"]) for row in csv.DictReader(file)]
    if earlier != decisions:
        raise UsageError(
            f"{path.parent} has encoders that learned other names than these; remove it, or name another folder "
            "(--out FOLDER)"
        )


def _figure(value: float) -> str:
    """Four decimals; empty where it is not known."""
    return "" if math.isnan(value) else f"{value:.4f}"


def _write(path: Path, header: Sequence[str], lines: Iterable[Sequence[Any]]) -> None:
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerow(header)
    writer.writerows(lines)
    write_text(path, text.getvalue())
