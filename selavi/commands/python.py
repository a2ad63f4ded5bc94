"""The commands as Python, which `import selavi` gives.  Faults are exceptions; progress goes to standard error."""

import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from selavi.errors import UsageError
from selavi.filesystem import expand, user_path

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa
    from torch import Tensor

    from selavi.config import Config
    from selavi.labelling.solver.transport import Labelling
    from selavi.pretrained import Pretrained
    from selavi.runs.folder import RunFolder

Settings = Mapping[str, object]
"""Settings by name: {"heads.num_clusters": 20, "modalities": ["video"]}."""


class LabelledRun:
    """A run on disk: its clips, the labels that they got, and where the page is.

    Nothing is read before it is asked for, and everything is read anew each time: another process may go on with the
    run.

    Args:
        folder: of the run.

    Raises:
        UsageError: the folder is no run.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        from selavi.config import load_run_config

        self.folder = user_path(os.fspath(folder))
        load_run_config(self.folder)

    def __repr__(self) -> str:
        lines = [f"LabelledRun({str(self.folder)!r})"]
        if self.verdict:
            lines.append(f"  labels: {self.verdict}")
        if self.gallery.exists():
            lines += [f"  page:   {self.gallery}", f"  table:  {self._files.clusters_csv}"]
        return "\n".join(lines)

    @property
    def _files(self) -> "RunFolder":
        from selavi.runs.folder import RunFolder

        return RunFolder(self.folder)

    @property
    def config(self) -> "Config":
        """Every setting of the run."""
        from selavi.config import load_run_config

        return load_run_config(self.folder)

    @property
    def gallery(self) -> Path:
        """The page to look through the clusters; open it in a browser."""
        return self._files.gallery / "index.html"

    @property
    def verdict(self) -> str:
        """Whether the labels have settled, in words; empty before the training is finished."""
        from selavi.runs.record import read_verdict

        return read_verdict(self.folder)

    def table(self) -> "pa.Table":
        """One row for each clip: id, path, cluster, name, confidence and more; `.to_pandas()` where pandas is there.

        Raises:
            UsageError: the run was not exported yet.
        """
        from selavi.guarded.parquet import read_parquet

        path = self._files.clusters
        if not path.exists():
            raise UsageError(f"{self.folder} has no table yet: selavi.export(run) writes it")
        return read_parquet(path, advice="selavi.export(run) writes it")

    @property
    def labels(self) -> dict[str, int]:
        """Cluster of each clip, by the clip's id (its path below the media folder)."""
        table = self.table()
        return dict(zip(table["id"].to_pylist(), table["cluster"].to_pylist(), strict=True))

    @property
    def names(self) -> dict[int, str]:
        """Names that people gave to clusters (names.csv of the page, handed to `export`)."""
        table = self.table()
        pairs = zip(table["cluster"].to_pylist(), table["name"].to_pylist(), strict=True)
        return {cluster: name for cluster, name in pairs if name}

    @property
    def metrics(self) -> dict[str, Any]:
        """What evaluation found of the training clips; see docs/metrics.md.

        Raises:
            UsageError: the run was not measured yet.
        """
        path = self._files.figures(self.config.data.train_split)
        if not path.exists():
            raise UsageError(f"{self.folder} was not measured yet: selavi.evaluate(run) does it")
        from selavi.guarded.json_file import read_json

        return read_json(path, "selavi.evaluate(run) writes it again")

    def assign(self, paths: Iterable[str | os.PathLike[str]] | str, **options: Any) -> "pa.Table":
        """Label new files with the clusters of this run; see `selavi.assign`."""
        return assign(self, paths, **options)


Run = LabelledRun | str | os.PathLike[str]
"""A run, or its folder."""


def open_run(folder: str | os.PathLike[str]) -> LabelledRun:
    """Open the folder of a run.

    Raises:
        UsageError: it is none.
    """
    return LabelledRun(folder)


def load(path: str | os.PathLike[str]) -> "Pretrained":
    """Read the weights of a run, of a folder that `selavi convert` wrote, or of a released file.

    Returns:
        Its `model` gives features and clusters, its `augment` makes the inputs from decoded clips; see
        docs/pretrained.md.

    Raises:
        UsageError: the weights are missing, damaged, or of no known kind.
    """
    from selavi.pretrained import load

    return load(user_path(os.fspath(path)))


def label(
    folder: str | os.PathLike[str],
    num_clusters: int | None = None,
    *,
    minutes: float | None = None,
    out: str | os.PathLike[str] | None = None,
    more: float | None = None,
    settings: Settings | None = None,
) -> LabelledRun:
    """Label a folder of videos, with settings chosen by what is there: look, train, measure, write tables and a page.

    Called again, it goes on where it stopped; what is done is not done again.

    Args:
        folder: of videos, in any depth; it is never written to.
        num_clusters: K; None: suggested by the number of clips.
        minutes: of training, about and at most; None: as many as the command takes.
        out: run folder; None: runs/NAME of the folder.
        more: minutes that a finished run is trained longer; 0: as many as `minutes`.
        settings: in place of the chosen ones, by name.

    Raises:
        UsageError: what cannot be done, with what to change; DataError: too many files cannot be read.
    """
    from selavi.commands.label import LabelArguments
    from selavi.commands.label import label as run_label

    place = None if out is None else user_path(os.fspath(out))
    source = expand(os.fspath(folder))
    arguments = LabelArguments(source, num_clusters, minutes, place, more, _words(settings))
    return LabelledRun(run_label(arguments).run)


def train(config: str | os.PathLike[str] = "demo", settings: Settings | None = None, *, more: int = 0) -> LabelledRun:
    """Train and label with settings of your own.

    Args:
        config: YAML file, or the name of one of selavi's own recipes.
        settings: on top of it, by name: {"data.root": "videos", "run_dir": "runs/mine"}.
        more: epochs that a finished run, named by "run_dir", is trained longer with its own settings.
    """
    from selavi.commands.train import TrainArguments
    from selavi.commands.train import train as run_train

    if more:
        result = run_train(TrainArguments(overrides=_words(settings), more=more))
    else:
        result = run_train(TrainArguments(Path(config), _words(settings)))
    return LabelledRun(result.run_dir)


def evaluate(
    run: Run, *, split: str | None = None, views: int = 3, report: bool = False, root: str | os.PathLike[str] = ""
) -> dict[str, Any]:
    """Measure the clusters of a run, for every head and the one chosen without labels; see docs/metrics.md.

    Args:
        run: or its folder.
        split: which clips; None: those trained on.
        views: evenly spaced windows of each clip that are averaged.
        report: also write a page with figures into the run's folder eval.
        root: where the media are now, if they have moved.
    """
    from selavi.commands.evaluate import EvaluateArguments
    from selavi.commands.evaluate import evaluate as run_evaluate

    opened = _opened(run)
    arguments = EvaluateArguments(
        runs=[opened.folder],
        split=split or opened.config.data.train_split,
        views=views,
        report=report,
        root=expand(os.fspath(root)),
    )
    return run_evaluate(arguments).runs[opened.folder]


def export(run: Run, **options: Any) -> LabelledRun:
    """Write the tables and the page of a run.

    Args:
        run: or its folder.
        options: those of the command `export`, by name: split="test", names="names.csv", media="copy", to=["cvat"].
    """
    from selavi.commands.export import ExportArguments
    from selavi.commands.export import export as run_export

    opened = _opened(run)
    if options.get("names") is not None:
        options["names"] = user_path(os.fspath(options["names"]))
    run_export(ExportArguments(opened.folder, **options))
    return opened


def assign(run: Run, paths: Iterable[str | os.PathLike[str]] | str, **options: Any) -> "pa.Table":
    """Label new files or folders with the clusters of a run: a row for each clip, as in LabelledRun.table.

    Args:
        run: or its folder.
        paths: files and folders.
        options: those of the command `assign`, by name: out="...", views=5, modalities=["video"].
    """
    from selavi.commands.assign import AssignArguments
    from selavi.commands.assign import assign as run_assign

    opened = _opened(run)
    listed = [paths] if isinstance(paths, str | os.PathLike) else list(paths)
    if options.get("out") is not None:
        options["out"] = user_path(os.fspath(options["out"]))
    result = run_assign(AssignArguments(opened.folder, [os.fspath(path) for path in listed], **options))
    if result.tables is None:
        raise UsageError(f"{result.num_missing} of {result.num_shards} shards in {result.out} are still to come")
    from selavi.guarded.parquet import read_parquet

    return read_parquet(result.tables[0])


def assign_scores(
    scores: "Tensor | np.ndarray",
    marginal: "Literal['uniform', 'zipf'] | Tensor | np.ndarray" = "uniform",
    *,
    sharpness: float = 20.0,
) -> "Labelling":
    """Balanced labels from anybody's scores: optimal transport with given cluster sizes.

    Args:
        scores: (N, K) log-probabilities.
        marginal: how large the clusters shall be: uniform, zipf, or (K,) their sizes.
        sharpness: exponent on the probabilities.
    """
    import torch

    from selavi.labelling.solver.marginals import make_marginal
    from selavi.labelling.solver.transport import assign as solve

    table = torch.as_tensor(scores)
    kind = marginal if isinstance(marginal, str) else torch.as_tensor(marginal)
    return solve(table, make_marginal(kind, table.shape[1]), sharpness=sharpness)


def _opened(run: Run) -> LabelledRun:
    return run if isinstance(run, LabelledRun) else LabelledRun(run)


def _words(settings: Settings | None) -> list[str]:
    """As a command line says it: text as it is, all else as YAML, which JSON is."""
    words = {
        name: os.fspath(value) if isinstance(value, os.PathLike) else value for name, value in (settings or {}).items()
    }
    return [f"{name}={value if isinstance(value, str) else json.dumps(value)}" for name, value in words.items()]
