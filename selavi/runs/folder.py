"""The run folder: the name of every file that users keep.  Nothing is read or written here."""

from pathlib import Path

from selavi.config import RESOLVED


class RunFolder:
    """Where the files of a run lie; docs/ARCHITECTURE.md says what they hold.

    Args:
        path: the folder.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        self.given_settings = self.path / "config.yaml"
        self.settings = self.path / RESOLVED
        self.environment = self.path / "env.json"
        self.changes = self.path / "changes.json"
        self.manifest = self.path / "manifest.parquet"
        self.metrics = self.path / "metrics.csv"
        self.logger_runs = self.path / "loggers.json"
        self.wandb = self.path / "wandb"
        self.mlflow = self.path / "mlflow.db"
        self.last_checkpoint = self.path / "checkpoints" / "last.ckpt"
        self.previous_checkpoint = self.previous_of(self.last_checkpoint)
        self.best_checkpoint = self.path / "checkpoints" / "best.ckpt"
        self.status = self.path / "status.json"
        self.bad_clips = self.path / "bad_clips.csv"
        self.skipped_batches = self.path / "skipped_batches.csv"
        self.pulse = self.path / ".pulse"
        self.lock = self.path / ".lock"
        self.evaluation = self.path / "eval"
        self.export = self.path / "export"
        self.hub = self.path / "hub"
        self.clusters = self.path / "clusters.parquet"
        self.clusters_csv = self.path / "clusters.csv"
        self.names = self.path / "names.csv"
        self.answers = self.path / "answers.csv"
        self.refined = self.path / "refined.csv"
        self.questions = self.path / "questions.csv"
        self.views = self.path / "views"
        self.lessons = self.path / "lessons.csv"
        self.gallery = self.path / "gallery"
        self.handover = self.path / "handover"
        self.assigned_sets = self.path / "assigned"

    @property
    def mlflow_address(self) -> str:
        """The name that MLflow has for mlflow.db."""
        path = str(self.mlflow).replace("%", "%25").replace("?", "%3F")  # it takes all other letters as they are
        return f"sqlite:///{path}"

    def written_in_training(self) -> list[Path]:
        """The files that only the process that trains writes."""
        states = [self.last_checkpoint, self.best_checkpoint, self.status]
        origins = [self.given_settings, self.settings, self.environment, self.manifest]
        return [*states, *origins, self.logger_runs]

    @staticmethod
    def previous_of(checkpoint: Path) -> Path:
        """Where the checkpoint before the last one is kept."""
        return checkpoint.with_name("previous.ckpt")

    def labels(self, split: str) -> Path:
        """Labels of the clips of a split."""
        return self.path / "labels" / f"{split}.parquet"

    def figures(self, split: str) -> Path:
        """Figures of the clusters of a split."""
        return self.evaluation / f"metrics_{split}.json"

    def report(self, split: str) -> Path:
        """The report's page; its pictures lie in the folder of the same name without the suffix."""
        return self.evaluation / f"report_{split}.html"

    def features(self, split: str) -> Path:
        """Features of the clips of a split."""
        return self.evaluation / "features" / f"{split}.safetensors"

    def finetuning(self, split: str) -> Path:
        """Figures of a fine-tuning that was tested on a split."""
        return self.evaluation / f"finetune_{split}.json"

    def probes(self, data: str, split: str) -> Path:
        """Figures of probes on a split of the run's own clips (`data` empty) or of others."""
        return self.evaluation / "_".join(filter(None, ("probe", data, f"{split}.json")))

    def poison(self, step: int) -> Path:
        """The batch of a step whose gradient was not finite."""
        return self.path / "poison" / f"step-{step}.json"

    def evidence(self, split: str, head: int, maps: str = "evidence") -> Path:
        """Maps of a kind, for the clusters of a head, of the clips of a split."""
        return self.path / maps / f"{split}-h{head}.parquet"

    def localisation(self, split: str, head: int, maps: str = "evidence") -> Path:
        """How well those maps agree with boxes that people drew."""
        of_kind = "" if maps == "evidence" else f"-{maps}"
        return self.path / "localise" / f"{split}-h{head}{of_kind}.json"

    def boxes(self, split: str, head: int) -> Path:
        """What maps point at, of the kind that was asked for last: a box a clip and moment."""
        return self.path / "localise" / f"{split}-h{head}.parquet"

    @property
    def boxes_handover(self) -> Path:
        """Those boxes and their pictures, for other tools."""
        return self.path / "localise" / "handover"

    def assigned(self, name: str) -> Path:
        """Labels of new clips."""
        return self.assigned_sets / name
