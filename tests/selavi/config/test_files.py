from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from selavi.config import Config, as_dict, find_config, load_config, save_config
from selavi.errors import UsageError

CONFIGS = Path(__file__).resolve().parents[3] / "configs"


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["heads.num_heds=3"], "unknown setting heads.num_heds; did you mean heads.num_heads?"),
        (["num_heads=3"], "unknown setting num_heads; did you mean heads.num_heads?"),
        (["num_heds=3"], "did you mean heads.num_heads?"),
        (["heads.lr=3"], "unknown setting heads.lr; did you mean optim.lr?"),
        (["batch_size=3"], "did you mean labelling.batch_size or optim.batch_size?"),
        (["heads.qqqqqq=3"], "unknown setting heads.qqqqqq; heads has num_heads, num_clusters, kind, dropout"),
        (["qqqqqq.x=3"], "unknown setting qqqqqq; a configuration has seed, run_dir, "),
        (["=3"], "unknown setting (no name)"),
        (["heads.num_heads"], "expected section.key=value, got 'heads.num_heads'"),
        (["heads.num_heads=many"], "'many' of type 'str' could not be converted to Integer (setting heads.num_heads)"),
        (["heads.num_heads=1.5"], "could not be converted to Integer (setting heads.num_heads)"),
        (["heads.num_heads=true"], "could not be converted to Integer (setting heads.num_heads)"),
        (["heads.num_heads=null"], "(setting heads.num_heads)"),
        (["trainer.sync_batchnorm=2"], "trainer.sync_batchnorm must be true or false, got 2"),
        (["heads=3"], "heads must be a section of settings such as heads.num_heads, got 3"),
        (["heads.num_clusters=[2]"], "heads.num_clusters"),
        (["trainer.more_epochs=3"], "trainer.more_epochs must be a list such as [a, b], got 3"),
        (["labelling.weights=[1]"], "labelling.weights must be a mapping such as {a: 1, b: 2}, got [1]"),
        (["video.crop_fraction=[0.5]"], "video.crop_fraction must be a list of 2 numbers, got [0.5]"),
        (["video.crop_fraction=[a,1]"], "video.crop_fraction must be a list of 2 numbers"),
        (["heads.kind=deep"], "Invalid value 'deep', expected one of ['mlp', 'linear'] (setting heads.kind)"),
        (["seed=${oops}"], "Interpolation key 'oops' not found (setting seed)"),
        (["data.root=\udcff"], "data.root='\\udcff' is not UTF-8; rename the file or folder"),
        (
            ["modalities=[smell]"],
            "modalities must be some of video, audio, features, image, motion, statistics, each once, got ['smell']",
        ),
        (["modalities=[]"], "modalities must be"),
        (["modalities=[video,video]"], "modalities must be"),
        (["seed=1", "optim.lr=nan"], "optim.lr must be above 0, got nan"),
        (["optim.lr=.inf"], "optim.lr must be a finite number, got inf"),
        (["labelling.zipf_exponent=.inf"], "labelling.zipf_exponent must be a finite number, got inf"),
        (["heads.num_clusters=1"], "heads.num_clusters must be at least 2 (one cluster would hold every clip), got 1"),
        (["labelling.marginal=[0.5,0.5]"], "a list of heads.num_clusters = 309 shares, got 2 shares"),
        (["labelling.marginal=[a,b]"], "labelling.marginal must be a list of positive shares, got ['a', 'b']"),
        (["labelling.marginal=[.inf,1]"], "labelling.marginal must be a list of positive shares"),
        (
            ["labelling.marginal=normal"],
            "labelling.marginal must be one of ('uniform', 'gaussian', 'zipf', 'estimated') or a list",
        ),
        (["labelling.weights.video=0"], "leave a modality out with modalities=[...]"),
        (["labelling.weights.smell=1"], "a weight for each of ('video', 'audio')"),
        (["labelling.head_groups=11"], "labelling.head_groups must be at most heads.num_heads = 10, got 11"),
        (["audio.window_s=1"], "above 0 and at most num_fft / sample_rate = 0.0427 s, got 1.0"),
        (["video.crop_fraction=[0.9,0.8]"], "0 < low <= high <= 1"),
        (["data.clip_s=0"], "data.clip_s must be 0.04 to 600 seconds, got 0.0"),
        (["data.max_bad_fraction=1.5"], "data.max_bad_fraction must be in [0, 1], got 1.5"),
        (["optim.batch_size=1"], "optim.batch_size must be at least 2 (batch norm), got 1"),
        (["trainer.max_epochs=0"], "trainer.max_epochs must be at least 1, got 0"),
        (["trainer.gradient_clip_val=-1"], "trainer.gradient_clip_val must be above 0"),
        (["encoders.video_depth=34"], "encoders.video_depth"),
        (["encoders.audio_width=7"], "encoders.audio_width must be at least 8, got 7"),
        (["encoders.video_width=3"], "encoders.video_width must be at least 4, got 3"),
    ],
    ids=lambda value: value[-1] if isinstance(value, list) else "",
)
def test_a_wrong_setting_is_refused(overrides: list[str], message: str) -> None:
    with pytest.raises(UsageError) as caught:
        load_config(None, overrides)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("- heads\n- optim\n", "expected `section:` and `key: value` lines, found a list or text"),
        ("a: [\n", "is not valid YAML"),
        ("heads:\n  num_heads: 3\n  num_heads: 4\n", "found duplicate key num_heads"),
        ("just text\n", "unknown setting just text"),
        ("heads:\n", "heads must be a section of settings such as heads.num_heads, got None"),
        ("heads: [1, 2]\n", "heads must be a section of settings"),
        ("heads.num_heads: 3\n", "in a file the part before the dot is a section: `heads:`"),
        ("heads: {num_heds: 3}\n", "did you mean heads.num_heads?"),
        ("optim: {lr: .nan}\n", "optim.lr must be above 0, got nan"),
        ("run_dir: ${oops}\n", "Interpolation key 'oops' not found (setting run_dir)"),
        ("data:\n  root:\n", "(setting data.root)"),
    ],
)
def test_a_wrong_file_is_refused(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "wrong.yaml"
    path.write_text(text)
    with pytest.raises(UsageError) as caught:
        load_config(path)
    assert message in str(caught.value)


def test_a_file_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot read the configuration"):
        load_config(tmp_path / "none.yaml")
    with pytest.raises(UsageError, match="cannot read the configuration"):
        load_config(tmp_path)
    binary = tmp_path / "binary.yaml"
    binary.write_bytes(b"\xff\xfe\x00\x81" * 8)
    with pytest.raises(UsageError, match="not valid YAML"):
        load_config(binary)


def test_the_command_line_goes_before_the_file_and_the_file_before_the_defaults(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("heads: {num_heads: 3, num_clusters: 7}\n")
    config = load_config(path, ["heads.num_heads=4", "labelling.weights={video: 2}"])
    assert (config.heads.num_heads, config.heads.num_clusters, config.heads.kind) == (4, 7, "mlp")
    assert config.labelling.weights == {"video": 2.0, "audio": 1.0}
    assert config.run_dir == "runs/mine"
    assert load_config(path, ["run_dir=elsewhere"]).run_dir == "elsewhere"


def test_modalities_have_one_order() -> None:
    assert load_config(None, ["modalities=[audio,video]"]).modalities == ["video", "audio"]


def test_what_is_saved_is_read_back(tmp_path: Path) -> None:
    overrides = ["labelling.marginal=[0.7,0.3]", "heads.num_clusters=2", "modalities=[audio]", "seed=9"]
    config = load_config(None, [*overrides, "video.crop_fraction=[0.5,1.0]", "trainer.devices=2", "run_dir=a b"])
    save_config(config, tmp_path / "saved.yaml")
    assert load_config(tmp_path / "saved.yaml") == config
    assert as_dict(config)["labelling"]["marginal"] == [0.7, 0.3]


ODD = [
    "/data/my #1 set",
    "1e3",
    "007",
    "1_000",
    "a: b",
    "{x}",
    "[y]",
    "a${b}",
    "a${b",
    r"\${b}",
    "${",
    "null",
    "on",
    "~x",
]
ODD += [
    "2024-01-31",
    ".nan",
    "0x1f",
    "'x'",
    '"x"',
    "a=b",
    " x ",
    "???",
    "*x",
    "&x",
    "!x",
    "- x",
    "? x",
    "#",
    "%",
    "@x",
    "`",
]
ODD += ["\u2028", "\x85", "\ufeff", "cafe\u0301", "${data.root}", "${oc.env:HOME}", "\\", "a\\", "!!int 3", "yes", "-"]
text_values = st.sampled_from(ODD) | st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0\n\r"))
text_values = text_values.filter(lambda text: text.strip() and not text.startswith("~/") and text != "~")
TEXT_KEYS = (
    "run_dir",
    "data.root",
    "data.list",
    "data.cache_dir",
    "data.train_split",
    "encoders.init",
    "finetune.group",
)


def setting(config: Config, key: str) -> object:
    section, _, name = key.rpartition(".")
    return getattr(getattr(config, section) if section else config, name)


@settings(deadline=None, max_examples=8)
@given(values=st.fixed_dictionaries(dict.fromkeys(TEXT_KEYS, text_values)))
def test_text_arrives_as_it_is_written_and_survives_the_run_folder(
    tmp_path_factory: pytest.TempPathFactory, values: dict[str, str]
) -> None:
    config = load_config(None, [f"{key}={text}" for key, text in values.items()])
    path = tmp_path_factory.mktemp("run") / "config.resolved.yaml"
    save_config(config, path)
    again = load_config(path)
    assert {key: setting(config, key) for key in TEXT_KEYS} == values
    assert again == config
    assert load_config(path, [f"{key}={text}" for key, text in values.items()]) == config
    stored = as_dict(config)
    assert (stored["run_dir"], stored["data"]["root"]) == (values["run_dir"], values["data.root"])


@pytest.mark.parametrize("text", ["007", "1e3", "on", "2024-01-31", "1_000", "0x1f", ".inf", "'null'", "12:30:45"])
def test_a_file_names_folders_without_quotes(tmp_path: Path, text: str) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(f"run_dir: {text}\ndata:\n  root: {text}\n  cache_dir: ${{data.root}}/cache\n")
    config, written = load_config(path), text.strip("'")
    assert (config.run_dir, config.data.root, config.data.cache_dir) == (written, written, f"{written}/cache")
    moved = load_config(path, ["data.root=/a${b}"])
    assert (moved.data.root, moved.data.cache_dir) == ("/a${b}", "/a${b}/cache")


def test_other_settings_are_still_yaml() -> None:
    config = load_config(None, ["seed=0x10", "optim.lr=1e-3", "trainer.gradient_clip_val=null", "data.demo=true"])
    assert (config.seed, config.optim.lr, config.trainer.gradient_clip_val, config.data.demo) == (16, 0.001, None, True)
    assert load_config(None, ["data.list=", "run_dir="]).run_dir == "runs/run"


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_shipped_configuration_loads(path: Path) -> None:
    config = load_config(path)
    assert config.run_dir == f"runs/{path.stem}"


def test_a_shipped_configuration_is_found_by_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    demo = CONFIGS / "demo.yaml"
    for name in ("demo", "demo.yaml", "configs/demo.yaml"):
        assert find_config(Path(name), CONFIGS) == demo
    (tmp_path / "demo.yaml").touch()
    assert find_config(Path("demo.yaml"), CONFIGS) == Path("demo.yaml")
    with pytest.raises(UsageError, match=r"no configuration file dmo; .*: .*demo.*small"):
        find_config(Path("dmo"), CONFIGS)


def test_the_defaults_are_the_published_run() -> None:
    config = Config()
    assert (config.heads.num_heads, config.heads.num_clusters, config.heads.dropout) == (10, 309, 0.3)
    assert (config.video.num_frames, config.video.size, config.data.clip_s) == (30, 112, 1.0)
    assert (config.audio.num_mels, config.audio.num_fft, config.audio.sample_rate) == (257, 1024, 24000)
    assert (config.optim.lr, config.optim.momentum, config.optim.weight_decay) == (0.01, 0.9, 1e-5)
    assert (config.labelling.num_labellings, config.labelling.power, config.labelling.sharpness) == (100, 1.5, 20.0)
    assert (config.trainer.max_epochs, config.labelling.head_groups, config.labelling.marginal) == (200, 2, "gaussian")


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["modalities=[video]", "labelling.source=cross"], "must be joint or own with one modality"),
        (["modalities=[audio]", "labelling.source=concat"], "must be joint or own with one modality"),
        (
            ["labelling.method=kmeans"],
            "labelling.source must be concat .*, own, cross or a modality with labelling.method=kmeans",
        ),
        (["labelling.method=kmeans", "labelling.source=own", "labelling.fraction=0.5"], "fraction must be 1 with"),
        (["labelling.method=kmeans", "labelling.source=own", "labelling.size_strength=2"], "size_strength must be 0"),
    ],
)
def test_labels_that_mean_nothing_are_refused(overrides: list[str], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        load_config(None, overrides)


@pytest.mark.parametrize(
    "text",
    [
        "data: {root: '${oc.env:SECRET}'}",
        "data: {root: '/videos/${oc.env:SECRET}/x'}",
        "data: {root: '${data.${oc.env:SECRET}}'}",
        "data: {root: '\\\\${oc.env:SECRET}'}",
        "data: {train_split: &split '${oc.decode:${oc.env:SECRET}}', list: *split}",
        "labelling: {weights: {video: '${oc.env:SECRET}'}}",
        "'${oc.env:SECRET}': 1",
        "seed: ${oc.create:[1]}",
    ],
)
def test_nothing_in_a_file_refers_to_the_outside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv("SECRET", "hunter2")
    path = tmp_path / "theirs.yaml"
    path.write_text(text)
    with pytest.raises(UsageError, match="refers to something outside of the file, which is refused") as raised:
        load_config(path)
    assert str(path) in str(raised.value) and "hunter2" not in str(raised.value)


def test_the_environment_is_not_read_from_the_command_line_either(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SECRET", "5")
    with pytest.raises(UsageError, match="refers to something outside"):
        load_config(None, ["seed=${oc.env:SECRET}"])
    path = tmp_path / "mine.yaml"
    path.write_text("data: {root: '\\${oc.env:SECRET}'}\n")
    assert load_config(path, ["run_dir=${oc.env:SECRET}"]).data.root == "${oc.env:SECRET}"


@pytest.mark.parametrize("key", ["seed", "heads.num_clusters", "optim.batch_size", "trainer.more_epochs"])
@pytest.mark.parametrize("digits", ["1" + "0" * 26, "-1" + "0" * 26, str(2**63), "9" * 400, "9" * 5000])
def test_numbers_that_fit_into_no_tensor_are_refused(key: str, digits: str) -> None:
    with pytest.raises(UsageError):
        load_config(None, [f"{key}=[{digits}]" if key.endswith("epochs") else f"{key}={digits}"])


def test_a_seed_takes_64_bits() -> None:
    assert load_config(None, [f"seed={2**63 - 1}"]).seed == 2**63 - 1
    with pytest.raises(UsageError, match=r"seed must be between -2\^63 and 2\^63, got 100000000000000000000000000"):
        load_config(None, [f"seed={10**26}"])


@pytest.mark.parametrize(
    "text",
    [
        "[" * 5000,
        "{a: " * 5000,
        "a: &a [*a]",
        "a: &a [x,x,x,x,x,x,x,x,x]\n"
        + "".join(f"{chr(98 + i)}: &{chr(98 + i)} [{','.join(['*' + chr(97 + i)] * 9)}]\n" for i in range(9)),
        "!!python/object/apply:os.system ['true']",
        "data: {? [1, 2] : 3}",
        "seed: '${'",
        "seed: ${seed}",
        "\0",
    ],
    ids=["deep list", "deep mapping", "itself", "multiplies", "python", "key", "open", "own", "zero"],
)
def test_hostile_yaml_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "theirs.yaml"
    path.write_text(text)
    with pytest.raises(UsageError):
        load_config(path)
