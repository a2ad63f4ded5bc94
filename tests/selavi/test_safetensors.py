import json
from pathlib import Path

import pytest
import torch

from selavi.errors import UsageError
from selavi.safetensors import read_tensors, write_tensors


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
    path = tmp_path / "x.safetensors"
    write_tensors(path, tensors, {"source": "a \N{MULTIPLICATION SIGN} b"})
    found, metadata = read_tensors(path)
    assert metadata == {"source": "a \N{MULTIPLICATION SIGN} b"}
    assert found.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert found[name].dtype == tensor.dtype
        assert found[name].shape == tensor.shape
        assert torch.equal(found[name], tensor), name


def test_the_bytes_are_those_of_the_format(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    write_tensors(path, {"b": torch.tensor([1, 2], dtype=torch.uint8), "a": torch.tensor([[1.0, -2.0]])}, {})
    content = path.read_bytes()
    length = int.from_bytes(content[:8], "little")
    assert length % 8 == 0
    assert json.loads(content[8 : 8 + length]) == {
        "__metadata__": {},
        "a": {"dtype": "F32", "shape": [1, 2], "data_offsets": [0, 8]},
        "b": {"dtype": "U8", "shape": [2], "data_offsets": [8, 10]},
    }
    assert content[8 + length :] == b"\x00\x00\x80\x3f\x00\x00\x00\xc0\x01\x02"


def test_a_file_by_hand_is_read(tmp_path: Path) -> None:
    header = b'{"x":{"dtype":"I16","shape":[2],"data_offsets":[0,4]}}'
    path = tmp_path / "x.safetensors"
    path.write_bytes(len(header).to_bytes(8, "little") + header + b"\x01\x00\xff\xff")
    tensors, metadata = read_tensors(path)
    assert tensors["x"].tolist() == [1, -1]
    assert metadata == {}


def entry(**changes: object) -> bytes:
    text = json.dumps({"x": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8], **changes}}).encode()
    return len(text).to_bytes(8, "little") + text


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "header of 0 bytes|Expecting value"),
        (b"\x00" * 8, "Expecting value"),
        ((10**15).to_bytes(8, "little") + b"{}", "header of 1000000000000000 bytes in a file of 10"),
        ((200).to_bytes(8, "little") + b"{}", "header of 200 bytes in a file of 10"),
        ((2).to_bytes(8, "little") + b"[]", "its header is no JSON object"),
        ((5).to_bytes(8, "little") + b"\xff\xfe{}a", "codec|JSON|Extra"),
        (entry() + b"1234", "its tensors have 8 bytes, the file holds 4"),
        (entry() + b"0" * 12, "its tensors have 8 bytes, the file holds 12"),
        (entry(data_offsets=[4, 12]) + b"0" * 12, "lies at 4 to 12, expected it to begin at 0"),
        (entry(data_offsets=[0, -8]) + b"0" * 8, "lies at 0 to -8"),
        (entry(data_offsets=[0]) + b"0" * 8, "unpack"),
        (entry(shape=[3]) + b"0" * 8, r"shape \[3\] does not have 8 bytes"),
        (entry(shape=[-1, -2]) + b"0" * 8, r"shape \[-1, -2\] does not have 8 bytes"),
        (entry(shape=[2.0]) + b"0" * 8, "does not have 8 bytes"),
        (entry(shape="ab") + b"0" * 8, "does not have 8 bytes"),
        (entry(shape=None) + b"0" * 8, "NoneType"),
        (entry(dtype="F8") + b"0" * 8, "has the type F8, expected one of F64, F32"),
        (entry(dtype=["F32"]) + b"0" * 8, "list"),
        (b"[" * 100000, "header of"),
        ((100000).to_bytes(8, "little") + b"[" * 100000, "recursion|Expecting|JSON"),
    ],
)
def test_a_damaged_file_is_refused(tmp_path: Path, content: bytes, reason: str) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(content)
    with pytest.raises(UsageError, match=rf"x\.safetensors is not a safetensors file, or it is damaged: .*({reason})"):
        read_tensors(path)


def test_overlapping_tensors_are_refused(tmp_path: Path) -> None:
    each = {"dtype": "U8", "shape": [4]}
    text = json.dumps({"x": {**each, "data_offsets": [0, 4]}, "y": {**each, "data_offsets": [2, 6]}}).encode()
    path = tmp_path / "x.safetensors"
    path.write_bytes(len(text).to_bytes(8, "little") + text + b"0" * 6)
    with pytest.raises(UsageError, match="tensor y lies at 2 to 6, expected it to begin at 4"):
        read_tensors(path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"cannot read .*none\.safetensors: No such file"):
        read_tensors(tmp_path / "none.safetensors")


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    write_tensors(path, {"x": torch.ones(2)}, {})
    with pytest.raises(KeyError):
        write_tensors(path, {"x": torch.ones(2, dtype=torch.complex64)}, {})
    assert torch.equal(read_tensors(path)[0]["x"], torch.ones(2))
    assert [file.name for file in tmp_path.iterdir()] == ["x.safetensors"]
