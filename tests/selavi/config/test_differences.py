from dataclasses import replace
from pathlib import Path

import pytest

from selavi.config import SETTINGS, Config, as_dict, chosen, differing, load_config, without_effect
from selavi.evaluation.compare import RECIPES

CONFIGS = Path(__file__).resolve().parents[3] / "configs"
KMEANS = ["labelling.method=kmeans", "labelling.source=own"]


def idle(*overrides: str, path: Path | None = None, command: str = "train") -> str:
    return without_effect(load_config(path, overrides), path, overrides, command)


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        ([*KMEANS, "labelling.sharpness=9"], "labelling.sharpness needs labelling.method=transport"),
        (
            [*KMEANS, "labelling.tol=0.1", "labelling.marginal=uniform"],
            "labelling.tol, labelling.marginal need labelling.method=transport",
        ),
        (
            [*KMEANS, "labelling.first=random", "labelling.memory_gb=1"],
            "labelling.memory_gb needs labelling.method=transport, given or none, or labelling.first=crafted",
        ),
        (
            ["labelling.first=random", "labelling.first_share=0.5"],
            "first_share needs labelling.first other than random",
        ),
        (
            ["labelling.source=own", "labelling.weights.video=2"],
            "weights needs modalities that vote together",
        ),
        (["modalities=[audio]", "labelling.align_modalities=false"], "needs modalities that vote together"),
        (["labelling.marginal=zipf", "labelling.gaussian_sd=0.2"], "gaussian_sd needs labelling.marginal=gaussian"),
        (
            ["labelling.marginal=uniform", "labelling.marginal_order=none"],
            "labelling.marginal=gaussian or zipf or list",
        ),
        (["heads.kind=linear", "heads.dropout=0.1"], "heads.dropout needs heads.kind=mlp"),
        (["data.shuffle_shards=3"], "data.shuffle_shards needs prepared shards of a URL as data.root"),
        (["optim.warmup_epochs=0", "optim.warmup_lr=1"], "optim.warmup_lr needs optim.warmup_epochs above 0"),
        (["finetune.gamma=0.5"], "finetune.gamma needs a fine-tuning"),
        (["modalities=[audio]", "video.size=64"], "video.size needs video or motion among the modalities"),
        (
            ["modalities=[video]", "audio.num_mels=64", "encoders.audio_width=8", "seed=3"],
            "audio.num_mels needs audio or statistics among the modalities; "
            "encoders.audio_width needs audio among the modalities",
        ),
        (
            ["heads.kind=linear", "heads.dropout=0.1", "finetune.gamma=0.5"],
            "heads.dropout needs heads.kind=mlp; finetune.gamma needs a fine-tuning",
        ),
    ],
)
def test_settings_without_effect_are_named_in_one_line(overrides: list[str], words: str) -> None:
    assert idle(*overrides).endswith(words)


@pytest.mark.parametrize(
    "overrides",
    [
        ["labelling.sharpness=9", "labelling.weights.video=2", "heads.dropout=0", "optim.warmup_lr=1"],
        ["data.root=s3://videos", "data.shuffle_shards=3"],
        [*KMEANS, "labelling.sharpness=20", "labelling.batch_size=2", "labelling.memory_gb=1"],
        ["modalities=[audio]", "video.size=112"],
    ],
)
def test_settings_with_an_effect_and_defaults_are_not_named(overrides: list[str]) -> None:
    assert idle(*overrides) == ""


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.yaml")), ids=lambda path: path.stem)
def test_shipped_files_and_recipes_are_silent(path: Path) -> None:
    if path.stem.startswith("finetune"):
        config = replace(load_config(path), modalities=["video"])
        assert without_effect(config, path, [], "finetune") == ""
        return
    if path.stem == "features":
        assert idle("modalities=[features]", path=path) == ""
        return
    recipes = RECIPES.values() if path.stem == "small" else ()
    for overrides in ([], ["modalities=[audio]"], *recipes):
        assert idle(*overrides, path=path) == ""


def test_a_file_is_named_for_what_it_says_itself(tmp_path: Path) -> None:
    """Not for what the command line takes from it, nor where it is a run's own, in which every setting stands."""
    path = tmp_path / "mine.yaml"
    path.write_text("modalities: [audio]\nvideo: {size: 64, num_frames: 30}\nheads: {dropout: 0.1}\n")
    assert idle(path=path) == "video.size needs video or motion among the modalities"
    assert idle("heads.kind=linear", path=path) == idle(path=path)
    path.rename(tmp_path / "config.resolved.yaml")
    assert idle(path=tmp_path / "config.resolved.yaml") == ""


EARLIER = [f"{key}={entry.earlier}" for key, entry in SETTINGS.items() if entry.is_younger]


def test_a_setting_that_changed_what_runs_do_is_read_as_before_in_older_runs(tmp_path: Path) -> None:
    saved = as_dict(Config())
    del saved["labelling"]["votes"], saved["labelling"]["first"], saved["labelling"]["first_learned"], saved["loss"]
    del saved["trainer"]["precision"], saved["trainer"]["compile"]
    assert differing(saved, as_dict(load_config(None, EARLIER))) == {}
    assert differing(saved, as_dict(Config()))["labelling.votes"] == "raw then, equal now"
    path = tmp_path / "config.resolved.yaml"
    path.write_text("seed: 3\n")
    assert load_config(path).labelling.votes == "raw" and load_config(path).loss.reduce == "mean"
    assert load_config(path, ["labelling.votes=equal"]).labelling.votes == "equal"
    path.write_text("labelling: {votes: equal}\n")
    assert load_config(path).labelling.votes == "equal"
    assert load_config(None, is_complete=True).labelling.votes == "raw"
    assert load_config(None).labelling.votes == "equal"


def test_a_setting_that_a_run_lacks_was_the_default() -> None:
    saved = as_dict(Config())
    del saved["labelling"]["fraction"], saved["finetune"]
    assert differing(saved, as_dict(Config())) == {}
    now = load_config(None, ["labelling.fraction=0.5", "data.num_workers=9", "labelling.weights.video=2"])
    assert differing(saved, as_dict(now)) == {
        "labelling.fraction": "1.0 then, 0.5 now",
        "labelling.weights.video": "1.0 then, 2.0 now",
    }


def test_what_was_chosen_leaves_out_defaults_and_speed() -> None:
    config = load_config(None, ["heads.kind=linear", "data.num_workers=9", "data.root=/videos", "run_dir=there"])
    now = chosen(as_dict(config))
    assert {key: value for key, value in now.items() if not SETTINGS[key].is_younger} == {
        "heads.kind": "linear",
        "data.root": "/videos",
    }
    # So that what was made before there was a setting keeps its digest, it counts as chosen where it changes things.
    assert now["labelling.votes"] == "equal"
    assert chosen(as_dict(load_config(None, EARLIER))) == {}
