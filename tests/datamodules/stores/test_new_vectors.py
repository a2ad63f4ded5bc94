"""Files of new vectors, by the modality that they belong to."""

from pathlib import Path

import numpy as np
import pytest

from datamodules.stores.new_vectors import by_name, open_new_files, require_files
from selavi.config import Config, load_config
from selavi.errors import UsageError


@pytest.fixture
def config(tmp_path: Path) -> Config:
    """A run on two files, of 3 and 4 numbers a vector, that are not there any more."""
    words = ["modalities={audio: audio, one: features, two: features}", f"data.cache_dir={tmp_path}"]
    words += [f"{name}.{key}" for name, dims in (("one", 3), ("two", 4)) for key in ("file=gone", f"num_dims={dims}")]
    return load_config(None, [*words, "one.ids=gone.txt"])


def test_a_file_for_each_name(tmp_path: Path) -> None:
    path = tmp_path / "a=b.npy"
    plain = tmp_path / "c.npy"
    for file in (path, plain):
        file.write_bytes(b"x")
    assert by_name([f"one={path}"], "file", ["one", "two"]) == {"one": str(path)}
    assert by_name([str(plain)], "file", ["one"]) == {"one": str(plain)}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["three={}"], "expected NAME=FILE with a modality of vectors of the run: one, two"),
        (["{}"], "expected NAME=FILE"),
        (["one={}", "one={}"], "one is there twice"),
        (["one={}x"], "is no file"),
    ],
)
def test_words_that_name_no_file_are_refused(tmp_path: Path, words: list[str], message: str) -> None:
    path = tmp_path / "a.npy"
    path.write_bytes(b"x")
    with pytest.raises(UsageError, match=message):
        by_name([word.format(path) for word in words], "file", ["one", "two"])


def test_every_modality_that_counts_needs_a_file(config: Config) -> None:
    require_files(config, ["audio", "one"], {"one": "new.npy"})
    with pytest.raises(UsageError, match=r"expected --file two=FILE.*leave it out with --modalities audio one"):
        require_files(config, ["audio", "one", "two"], {"one": "new.npy"})


def test_new_files_have_ids_of_their_own_and_the_numbers_that_were_trained_on(config: Config, tmp_path: Path) -> None:
    np.save(tmp_path / "new.npy", np.ones((5, 3)))
    opened = open_new_files(config, {"one": f"{tmp_path}/new.npy"}, {})
    assert list(opened) == ["one"] and opened["one"].ids.to_pylist() == ["0", "1", "2", "3", "4"]
    assert config.section("one").file == "gone"
    with pytest.raises(UsageError, match=r"has 3 numbers a vector, but two.num_dims=4"):
        open_new_files(config, {"two": f"{tmp_path}/new.npy"}, {})
