import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from selavi.config import Config, as_dict, save_config
from selavi.errors import UsageError
from selavi.runs.folder import RunFolder
from selavi.runs.manifest import SCHEMA
from selavi.runs.resume import check_same_settings, more_of, resume_point

Tiny = Callable[..., Config]
MANIFEST = SCHEMA.empty_table().replace_schema_metadata({"root": "/media"})


def checkpoint_of(config: Config) -> Path:
    path = RunFolder(config.run_dir).last_checkpoint
    path.parent.mkdir(parents=True)
    torch.save({"label_bank": {}}, path)
    return path


def test_a_new_run_starts(tiny: Tiny) -> None:
    for resume in ("never", "auto"):
        point = resume_point(tiny(f"resume={resume}"))
        assert (point.checkpoint, point.finished) == (None, False)


def test_never_refuses_a_folder_with_anything_in_it(tiny: Tiny) -> None:
    config = tiny()
    Path(config.run_dir).mkdir()
    assert resume_point(config).checkpoint is None  # an empty folder is fine
    (Path(config.run_dir) / "notes.txt").touch()
    with pytest.raises(UsageError, match=r"exists and is not empty; say resume=auto .*, or run_dir=\.\.\."):
        resume_point(config)
    assert resume_point(config, check=False).checkpoint is None  # other ranks: the first one has written already


def test_a_file_in_the_place_of_the_folder_is_refused(tiny: Tiny) -> None:
    for resume in ("never", "auto", "must"):
        config = tiny(f"resume={resume}")
        Path(config.run_dir).write_text("")
        with pytest.raises(UsageError, match="is a file"):
            resume_point(config)


@pytest.mark.parametrize("resume", ["auto", "must"])
def test_a_checkpoint_is_gone_on_from(tiny: Tiny, resume: str) -> None:
    config = tiny(f"resume={resume}")
    path = checkpoint_of(config)
    assert resume_point(config).checkpoint == path
    assert not resume_point(config).finished


def test_must_needs_a_checkpoint(tiny: Tiny) -> None:
    with pytest.raises(UsageError, match=r"resume=must, but there is no checkpoint .*last\.ckpt; say resume=auto"):
        resume_point(tiny("resume=must"))


def test_a_finished_run_is_finished(tiny: Tiny) -> None:
    config = tiny("resume=auto")
    checkpoint_of(config)
    (Path(config.run_dir) / "status.json").write_text("{}")
    assert resume_point(config).finished


def begun(tiny: Tiny, *overrides: str) -> Config:
    """A run whose folder has settings and a checkpoint."""
    config = tiny("resume=auto", *overrides)
    checkpoint_of(config)
    save_config(config, RunFolder(config.run_dir).settings)
    return config


def finish(config: Config, epochs: int) -> None:
    RunFolder(config.run_dir).status.write_text(json.dumps({"epochs": epochs}))


def test_added_epochs_belong_to_the_run_in_the_folder(tiny: Tiny) -> None:
    config = begun(tiny, "trainer.more_epochs=[3]")
    finish(config, 2)
    again = tiny("resume=auto")
    assert not resume_point(again).finished  # two of five epochs
    assert again.trainer.more_epochs == [3]
    finish(config, 5)
    assert resume_point(again).finished


def test_epochs_are_added_once(tiny: Tiny) -> None:
    """A repeated call goes on with what was added; after its end, or with another number, it adds."""
    folder = Path(begun(tiny, "trainer.max_epochs=2").run_dir)

    def add(epochs: int) -> list[int]:
        config = more_of(folder, epochs)
        assert (config.resume, config.run_dir) == ("must", str(folder))
        save_config(config, RunFolder(folder).settings)
        return config.trainer.parts

    assert add(3) == add(3) == [2, 3]
    finish(tiny(), 2)
    assert add(3) == [2, 3]
    assert add(1) == [2, 3, 1]
    finish(tiny(), 6)
    assert add(1) == [2, 3, 1, 1]


def test_settings_may_change_as_on_resume_when_epochs_are_added(tiny: Tiny) -> None:
    folder = Path(begun(tiny).run_dir)
    assert more_of(folder, 1, ["data.root=/moved"]).data.root == "/moved"
    with pytest.raises(UsageError, match="--more must be at least 1, got 0"):
        more_of(folder, 0)
    with pytest.raises(UsageError, match="is not a run folder"):
        more_of(folder.parent, 1)


def test_a_longer_plan_names_what_trains_longer(tiny: Tiny) -> None:
    saved = as_dict(tiny())
    check_same_settings(saved, tiny("data.num_workers=3", "trainer.more_epochs=[4]"))
    with pytest.raises(UsageError, match=r"max_epochs: 2 then, 9 now\).*train it longer: .* --more 7"):
        check_same_settings(saved, tiny("trainer.max_epochs=9"))
    with pytest.raises(UsageError, match=r"heads.kind: mlp then, linear now\); use the same ones, or another run_dir$"):
        check_same_settings(saved, tiny("heads.kind=linear"))


def test_a_damaged_status_is_refused(tiny: Tiny) -> None:
    config = begun(tiny)
    for text in ("{", "[]"):
        RunFolder(config.run_dir).status.write_text(text)
        with pytest.raises(UsageError, match=r"cannot read .*status\.json.*damaged"):
            resume_point(config)
