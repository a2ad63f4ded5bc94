"""A folder for the Hugging Face Hub: what is in it, and that it is the same network when it is read back."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml

import selavi
from selavi import __version__
from selavi.config import Config
from selavi.encoders.r2plus1d import R2Plus1D
from selavi.errors import UsageError
from selavi.pretrained import ClusterModel, example_clips, load, load_encoders, write_hub
from selavi.pretrained.hub import read_facts
from selavi.training.module import SelaviModule
from tools import cluster_eval, convert


@pytest.fixture(scope="module")
def hub(finished_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `convert --to hub` writes of a run that was measured."""
    run = shutil.copytree(finished_run, tmp_path_factory.mktemp("measured") / "run")
    assert cluster_eval.main([str(run), "--split", "test", "--views", "1"]) == 0
    assert convert.main([str(run), "--to", "hub"]) == 0
    return run / "hub"


def test_it_is_the_same_network(hub: Path) -> None:
    loaded, again = load(hub.parent), load(hub)
    assert again.source == loaded.source
    assert torch.equal(again.rule.potentials, loaded.rule.potentials)  # type: ignore[arg-type]
    assert replace(again.config, data=loaded.config.data, run_dir=loaded.config.run_dir) == loaded.config
    clips = example_clips(again.config, 2)
    for one, other in zip(ClusterModel(loaded)(*clips), ClusterModel(again)(*clips), strict=True):
        assert torch.equal(one, other)
    assert torch.equal(selavi.load(str(hub)).rule.potentials, loaded.rule.potentials)  # type: ignore[arg-type]
    assert torch.equal(load(hub / "model.safetensors").rule.potentials, loaded.rule.potentials)  # type: ignore[arg-type]


def test_it_holds_what_the_hub_expects(hub: Path) -> None:
    assert {path.name for path in hub.iterdir()} == {"model.safetensors", "config.json", "README.md"}
    settings = json.loads((hub / "config.json").read_text())
    assert settings["model_type"] == settings["library_name"] == "selavi"
    assert settings["selavi_version"] == __version__
    assert settings["num_features"].keys() == {"video", "audio"}
    assert settings["selavi"]["heads"]["num_clusters"] == settings["num_clusters"] == 8


def test_the_card_says_what_it_is_and_leaves_the_licence_to_the_user(hub: Path) -> None:
    card = (hub / "README.md").read_text()
    _, head, text = card.split("---\n", 2)
    front = yaml.safe_load(head)
    assert front["library_name"] == "selavi" and "video" in front["tags"]
    assert "license" not in front and "# license: apache-2.0" in head
    assert "\n# Run run of selavi" in text
    assert "32 recordings (" in text and "2 epochs" in text
    scores = json.loads((hub.parent / "eval" / "metrics_test.json").read_text())["chosen"]
    row = next(line for line in text.splitlines() if line.startswith("| test |"))
    assert row.split(" | ")[1:3] == [str(scores["n"]), f"{scores['nmi']:.3f}"]


def test_the_lines_of_the_card_run(hub: Path, tmp_path: Path) -> None:
    code = (hub / "README.md").read_text().split("```python\n")[1].split("```")[0]
    names: dict[str, object] = {}
    exec(code.replace("path/of/this/folder", str(hub)), names)
    assert len(names["outputs"]) == 3  # type: ignore[arg-type]


def test_no_path_is_in_it(hub: Path, demo_set: Path) -> None:
    for path in hub.iterdir():
        content = path.read_bytes()
        for private in (demo_set, hub.parent, hub.parent.parent):
            assert str(private).encode() not in content, path.name


def test_encoders_start_from_it(hub: Path, tiny: Callable[..., Config]) -> None:
    config = tiny()
    model = SelaviModule(config, ["a", "b"], 1).model
    assert load_encoders(model, config, hub) == ["video", "audio"]
    for name, value in load(hub).model.encoders.state_dict().items():
        assert torch.equal(value, model.encoders.state_dict()[name])


def test_weights_of_others_go_there_too(tmp_path: Path) -> None:
    torch.save(R2Plus1D(4, 10).state_dict(), tmp_path / "x.pth")
    loaded = load(tmp_path / "x.pth")
    write_hub(loaded, tmp_path / "hub")
    again = load(tmp_path / "hub")
    assert again.rule is None and again.config.modalities == ["video"]
    assert torch.equal(again.model.encoders["video"].stem[0].weight, loaded.model.encoders["video"].stem[0].weight)
    card = (tmp_path / "hub" / "README.md").read_text()
    assert "Training" not in card and "Clusters:" not in card


def test_clips_without_labels_give_no_scores(hub: Path, tmp_path: Path) -> None:
    run = shutil.copytree(hub.parent, tmp_path / "run")
    path = run / "eval" / "metrics_test.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"labelled": False}))
    assert read_facts(run).scores == {}
    path.write_text('{"labelled": true}')
    with pytest.raises(
        UsageError, match=r"metrics_test\.json is not as selavi wrote it \(KeyError\('chosen'\)\); .* measure the run"
    ):
        read_facts(run)


@pytest.mark.parametrize("name", ["model.safetensors", "config.json"])
def test_an_incomplete_folder_is_refused(hub: Path, tmp_path: Path, name: str) -> None:
    folder = shutil.copytree(hub, tmp_path / "hub")
    (folder / name).unlink()
    with pytest.raises(UsageError, match=f"hub lacks {name}; `selavi convert --to hub` writes it"):
        load(folder)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("config.json", "{", r"cannot read .*config.json: Expecting property name"),
        ("config.json", "[]", r"cannot read .*config.json: expected a mapping"),
        ("config.json", '{"model_type": "bert"}', r"config.json is not as selavi wrote it \(KeyError"),
        ("config.json", '{"selavi": 3}', r"config.json is not as selavi wrote it \(AttributeError"),
        ("config.json", '{"selavi": {"heads": {"num_clusters": "many"}}}', "many"),
        ("config.json", '{"selavi": {"heads": {"num_clusters": 9}}}', "do not fit the settings"),
        ("model.safetensors", "not tensors", "model.safetensors is not a safetensors file, or it is damaged"),
    ],
)
def test_a_damaged_folder_is_refused(hub: Path, tmp_path: Path, name: str, content: str, message: str) -> None:
    folder = shutil.copytree(hub, tmp_path / "hub")
    (folder / name).write_text(content)
    with pytest.raises(UsageError, match=message):
        load(folder)


def test_texts_and_odd_values_of_settings_survive(tiny: Callable[..., Config], tmp_path: Path) -> None:
    config = tiny("labelling.weights={video: 1, audio: 3}", "audio.standardise=none", "heads.num_clusters=8")
    write_hub(load_fresh(config), tmp_path / "hub")
    again = load(tmp_path / "hub").config
    assert again.labelling == config.labelling and again.audio == config.audio and again.video == config.video


def load_fresh(config: Config):  # type: ignore[no-untyped-def]
    from selavi.pretrained import Pretrained

    module = SelaviModule(config, ["a", "b"], 1)
    return Pretrained(module.model.eval(), module.augment, config, module.label_bank.rule, "a test", "")
