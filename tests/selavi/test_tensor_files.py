import json
from pathlib import Path

import numpy as np
import pytest
import torch

from selavi.errors import UsageError
from selavi.tensor_files import read_tensors, write_tensors


def test_tensors_come_back_with_type_shape_and_text(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    tensors = {
        "weight": torch.randn(3, 4, generator=generator),
        "half": torch.randn(5, generator=generator).half(),
        "brain": torch.randn(2, 1, generator=generator).bfloat16(),
        "double": torch.randn(2, generator=generator).double(),
        "count": torch.tensor(7),
        "bytes": torch.arange(3, dtype=torch.uint8),
        "flags": torch.tensor([True, False, True]),
        "none": torch.ones(0, 2),
        "last": torch.randn(2, 3, 4, 5, generator=generator).contiguous(memory_format=torch.channels_last),
    }
    texts = {"source": "a \N{MULTIPLICATION SIGN} b", "ids": json.dumps(["\x1f", 'say "x"\n', "\N{SNOWMAN}"])}
    path = tmp_path / "x.safetensors"
    write_tensors(path, tensors, texts)
    again, metadata = read_tensors(path)
    assert metadata == texts
    assert again.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert again[name].dtype == tensor.dtype
        assert again[name].shape == tensor.shape
        assert torch.equal(again[name], tensor), name


def test_equal_content_gives_equal_bytes_that_others_may_read(tmp_path: Path) -> None:
    path, plain = tmp_path / "x.safetensors", tmp_path / "plain"
    plain.touch()
    written = set()
    for _ in range(10):  # the library alone would order the texts in another way each time
        write_tensors(path, {"x": torch.ones(2)}, {"d": "1", "c": "2", "b": "3", "a": "4"})
        written.add(path.read_bytes())
    assert len(written) == 1
    assert path.stat().st_mode == plain.stat().st_mode


def test_what_is_read_does_not_change_with_the_file(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    write_tensors(path, {"x": torch.ones(2)}, {})
    tensors, _ = read_tensors(path)
    path.write_bytes(path.read_bytes()[:-8] + b"\xff" * 8)
    assert tensors["x"].tolist() == [1, 1]


def test_a_file_of_an_earlier_version_is_read(tmp_path: Path) -> None:
    """As selavi wrote them before it used the library: largest elements first, spaces in the header."""
    header = b'{"__metadata__": {"digest": "d"}, "x": {"dtype": "I16", "shape": [2], "data_offsets": [0, 4]}}'
    path = tmp_path / "x.safetensors"
    path.write_bytes(len(header).to_bytes(8, "little") + header + b"\x01\x00\xff\xff")
    tensors, metadata = read_tensors(path)
    assert tensors["x"].tolist() == [1, -1]
    assert metadata == {"digest": "d"}


def entry(**changes: object) -> bytes:
    text = json.dumps({"x": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8], **changes}}).encode()
    return len(text).to_bytes(8, "little") + text


def with_texts(texts: object) -> bytes:
    text = json.dumps({"__metadata__": texts, "x": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}).encode()
    return len(text).to_bytes(8, "little") + text


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x00" * 8,
        b"PK\x03\x04 a zip file, such as those of torch.save",
        (10**15).to_bytes(8, "little") + b"{}",
        (200).to_bytes(8, "little") + b"{}",
        (2).to_bytes(8, "little") + b"[]",
        (5).to_bytes(8, "little") + b"\xff\xfe{}a",
        entry() + b"1234",
        entry() + b"0" * 12,
        entry(data_offsets=[4, 12]) + b"0" * 12,
        entry(data_offsets=[0, -8]) + b"0" * 8,
        entry(shape=[3]) + b"0" * 8,
        entry(shape=[-1, -2]) + b"0" * 8,
        entry(shape=None) + b"0" * 8,
        entry(dtype="F9") + b"0" * 8,
        (100000).to_bytes(8, "little") + b"[" * 100000,
        with_texts(["a", "b"]) + b"0" * 8,
        with_texts("text") + b"0" * 8,
        with_texts({"a": 1}) + b"0" * 8,
        with_texts({"a": None}) + b"0" * 8,
        with_texts({"selavi_checksum": "00000000"}) + b"0" * 8,
        entry(shape=[2**40, 2**40]) + b"0" * 8,
        entry(dtype=7) + b"0" * 8,
    ],
)
def test_a_damaged_file_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(content)
    with pytest.raises(UsageError, match=r"x\.safetensors is not a safetensors file, or it is damaged: \w"):
        read_tensors(path)


def test_a_flipped_bit_or_a_cut_is_a_message_or_changes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    tensors = {"video": torch.arange(60.0).reshape(4, 15), "count": torch.tensor(3)}
    write_tensors(path, tensors, {"digest": "d", "ids": json.dumps(["a", "b"])})
    whole = path.read_bytes()
    refused = 0
    for place in np.random.default_rng(17).integers(len(whole) * 8, size=200).tolist():
        damaged = bytearray(whole)
        damaged[place // 8] ^= 1 << place % 8
        path.write_bytes(damaged)
        try:
            again, metadata = read_tensors(path)
        except UsageError as error:
            assert str(path) in str(error)
            refused += 1
        else:
            assert metadata.get("digest") == "d" and torch.equal(again["video"], tensors["video"]), f"bit {place}"
    assert refused > 150
    for length in np.random.default_rng(17).integers(len(whole), size=50).tolist():
        path.write_bytes(whole[:length])
        with pytest.raises(UsageError, match=r"x\.safetensors is not a safetensors file, or it is damaged"):
            read_tensors(path)


def test_a_missing_file_and_a_folder_are_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"cannot read .*none\.safetensors: No such file or directory$"):
        read_tensors(tmp_path / "none.safetensors")
    with pytest.raises(UsageError, match=r"cannot read .*: Is a directory$"):
        read_tensors(tmp_path)


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    path, shared = tmp_path / "x.safetensors", torch.zeros(2)
    write_tensors(path, {"x": torch.ones(2)}, {})
    with pytest.raises(RuntimeError, match="share memory"):
        write_tensors(path, {"x": shared, "y": shared}, {})
    assert torch.equal(read_tensors(path)[0]["x"], torch.ones(2))
    assert [file.name for file in tmp_path.iterdir()] == ["x.safetensors"]
