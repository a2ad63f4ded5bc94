"""What was learned of files, remembered between runs by path, size and time of change.

Everything is written down as soon as it is known, a line a file, so that what is interrupted goes on where it was; when
all is known, the lines become a table.
"""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from hashlib import blake2b
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from datamodules.processes import Failure, run_jobs
from selavi.atomic import claim, is_held
from selavi.filesystem import PASSING
from selavi.guarded.parquet import read_parquet, write_parquet
from selavi.meter import follow

_KEY = (("id", pa.string()), ("bytes", pa.int64()), ("mtime_ns", pa.int64()))
_BLOCK = 50_000
"""Lines that are parsed at once: dicts take much more room than columns."""


class Notebook:
    """Facts of the files below a folder, and the status and the reason of what has none.

    Args:
        folder: where they are kept.
        name: of the facts, which begins the names of the files.
        about: what else they depend on: the folder of the media, settings, the version of what finds them.
        facts: their columns; `status` and `reason` among them.
        task: which of several tasks writes here, and of how many; each has lines of its own, and reads those of all.
    """

    def __init__(
        self, folder: Path, name: str, about: str, facts: Iterable[pa.Field], task: tuple[int, int] = (0, 1)
    ) -> None:
        self.schema = pa.schema([*_KEY, *facts])
        stem = f"{name}-{blake2b(about.encode(), digest_size=6).hexdigest()}"
        number, count = task
        of_task = f".{number}-of-{count}" if count > 1 else ""
        self.store, self.journal = folder / f"{stem}.parquet", folder / f"{stem}{of_task}.jsonl"
        self._journals = partial(folder.glob, f"{stem}*.jsonl")

    def read(self) -> pa.Table:
        """Everything that is known, the newest first."""
        tables = []
        for journal in sorted(self._journals(), key=lambda path: path.stat().st_mtime_ns):
            with journal.open(encoding="utf-8") as file:
                while lines := list(islice(file, _BLOCK)):
                    rows = [row for row in map(_parse, lines) if row]
                    tables.append(pa.Table.from_pylist(rows[::-1], schema=self.schema))
        tables.reverse()
        if self.store.exists():
            tables.append(read_parquet(self.store).select(self.schema.names).replace_schema_metadata())
        return pa.concat_tables([*tables, self.schema.empty_table()])

    def learn(
        self,
        files: pa.Table,
        learn_of: Callable[[tuple[Any, ...]], Mapping[str, Any]],
        what: str,
        *,
        workers: int,
        deadline_s: float,
        memory_bytes: int,
    ) -> None:
        """Learn the facts of files in processes that may die, and write them down.

        Args:
            files: columns id (the path), bytes, mtime_ns, and what else `learn_of` needs.
            learn_of: a row of these as a tuple -> its facts.
            what: is done, for the bar.
            workers: processes; 0: one for each core.
            deadline_s: seconds of processor time that a file may take.
            memory_bytes: that a process may take.
        """
        self.store.parent.mkdir(parents=True, exist_ok=True)
        outcomes = run_jobs(learn_of, _rows(files), workers=workers, deadline_s=deadline_s, memory_bytes=memory_bytes)
        ids, sizes, times = (files[name].combine_chunks() for name, _ in _KEY)
        with self.journal.open("a", encoding="utf-8") as file:
            claim(file)
            file.write("\n")  # the last line may be half a line
            for number, outcome in follow(outcomes, what, len(files)):
                facts = (
                    {"status": outcome.reason, "reason": outcome.detail} if isinstance(outcome, Failure) else outcome
                )
                key = {"id": ids[number].as_py(), "bytes": sizes[number].as_py(), "mtime_ns": times[number].as_py()}
                file.write(json.dumps(key | dict(facts)) + "\n")
                file.flush()

    def notes_of(
        self, files: pa.Table, learn_of: Callable[[tuple[Any, ...]], Mapping[str, Any]], what: str, **limits: Any
    ) -> pa.Table:
        """The facts of some files, in their order, after those that lack them have been learned; see learn."""
        notes = self.read()
        todo = np.flatnonzero(match(files, lasting(notes)) < 0)
        if len(todo):
            self.learn(files.take(pa.array(todo)), learn_of, what, **limits)
            notes = self.read()
            self.settle(notes.filter(pa.array(match(notes, notes) == np.arange(len(notes)))))
        return notes.take(pa.array(match(files, notes)))

    def settle(self, table: pa.Table) -> None:
        """Let what is known of some files, with their keys, stand for everything that was written down.

        What a task is still writing stays.
        """
        journals = [journal for journal in self._journals() if not is_held(journal)]
        if journals:
            write_parquet(table, self.store)
        for journal in journals:
            journal.unlink()


def lasting(notes: pa.Table) -> pa.Table:
    """What of it need not be tried again: whatever failed in passing may do better the next time."""
    return notes.filter(pc.invert(pc.fill_null(pc.is_in(notes["status"], pa.array(PASSING)), False)))


def match(files: pa.Table, notes: pa.Table) -> np.ndarray:
    """Row of `notes` with the same path, size and time for each file, the first of several; -1 for none."""
    keys = [
        pc.binary_join_element_wise(*(table[name].cast(pa.string()) for name in ("mtime_ns", "bytes", "id")), " ")
        for table in (files, notes)
    ]
    return pc.fill_null(pc.index_in(keys[0], value_set=keys[1].combine_chunks()), -1).to_numpy()


def _rows(files: pa.Table) -> Iterator[tuple[Any, ...]]:
    return (tuple(row.values()) for batch in files.to_batches(max_chunksize=10_000) for row in batch.to_pylist())


def _parse(line: str) -> dict[str, object]:
    try:
        return dict(json.loads(line))
    except ValueError:  # it was killed in the middle of this line
        return {}
