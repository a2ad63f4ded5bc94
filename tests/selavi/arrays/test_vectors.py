"""Files of vectors, good and nasty."""

import io
import tarfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import save_file

from selavi.arrays import Vectors, open_vectors
from selavi.errors import UsageError

IDS = ["b", "a", "c", "d", "e"]
VALUES = np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32)


def write_ids(folder: Path, ids: list[str]) -> Path:
    path = folder / "ids.txt"
    path.write_text("".join(f"{one}\n" for one in ids))
    return path


def opened(path: Path, **options: object) -> Vectors:
    return open_vectors(path, cache_dir=path.parent / "cache", **options)  # type: ignore[arg-type]


def all_of(vectors: Vectors, ids: list[str] = IDS) -> np.ndarray:
    selected = vectors.select(pa.chunked_array([ids]))
    values, present = selected.read(np.arange(len(ids)), 0)
    assert (present == selected.present).all()
    return values


def write_npy(folder: Path, values: np.ndarray = VALUES) -> tuple[Path, dict[str, object]]:
    np.save(folder / "v.npy", values)
    return folder / "v.npy", {"ids": write_ids(folder, IDS)}


def write_npz(folder: Path) -> tuple[Path, dict[str, object]]:
    np.savez_compressed(folder / "v.npz", vectors=VALUES, ids=np.array(IDS))
    return folder / "v.npz", {}


def write_safetensors(folder: Path) -> tuple[Path, dict[str, object]]:
    save_file({"x": torch.from_numpy(VALUES), "bias": torch.zeros(3)}, folder / "v.safetensors")
    return folder / "v.safetensors", {"ids": write_ids(folder, IDS)}


def write_lists(folder: Path) -> tuple[Path, dict[str, object]]:
    table = pa.table({"id": IDS, "vector": list(VALUES), "size": range(5)})
    pq.write_table(table, folder / "v.parquet", row_group_size=2)
    return folder / "v.parquet", {}


def write_columns(folder: Path) -> tuple[Path, dict[str, object]]:
    pq.write_table(pa.table({"x": VALUES[:, 0], "y": VALUES[:, 1], "id": IDS, "z": VALUES[:, 2]}), folder / "v.parquet")
    return folder / "v.parquet", {}


def write_hdf5(folder: Path) -> tuple[Path, dict[str, object]]:
    h5py = pytest.importorskip("h5py", reason="HDF5 is read where h5py is installed")
    with h5py.File(folder / "v.h5", "w") as file:
        file["group/vectors"] = VALUES
        file["ids"] = IDS
        file["sizes"] = np.arange(5)
    return folder / "v.h5", {}


def add_to_tar(path: Path, members: dict[str, bytes]) -> None:
    with tarfile.open(path, "w") as archive:
        for name, content in members.items():
            about = tarfile.TarInfo(name)
            about.size = len(content)
            archive.addfile(about, io.BytesIO(content))


def as_npy(values: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, values)
    return file.getvalue()


def write_tars(folder: Path) -> tuple[Path, dict[str, object]]:
    shards = folder / "shards"
    shards.mkdir()
    for number, rows in enumerate((slice(0, 2), slice(2, 5))):
        samples = zip(IDS[rows], VALUES[rows], strict=True)
        members = {f"{name}.clip.npy": as_npy(row.astype("f2" if name == "z" else "f4")) for name, row in samples}
        others = {f"{name}.{kind}": as_npy(VALUES) for name in IDS[rows] for kind in ("txt", "other.npy")}
        add_to_tar(shards / f"{number:03}.tar", members | others)
    return shards, {"key": "clip"}


WRITERS = [write_npy, write_npz, write_safetensors, write_lists, write_columns, write_hdf5, write_tars]


def test_members_of_tar_files_are_samples_and_arrays_of_several_rows_their_views(tmp_path: Path) -> None:
    path = tmp_path / "v.tar"
    add_to_tar(path, {"train/dog/07.npy": as_npy(VALUES[:2]), "train/dog/7.npy": as_npy(VALUES[2])})
    vectors = opened(path, views=True)
    assert vectors.ids.to_pylist() == ["train/dog/07", "train/dog/7"] and vectors.num_views == 2
    add_to_tar(path, {"a.npy": as_npy(VALUES[0]), "b.npy": as_npy(VALUES[0, :2])})
    with pytest.raises(UsageError, match=r"must be alike, found \[\(2,\), \(3,\)\]"):
        opened(path)
    add_to_tar(path, {"a.x.npy": as_npy(VALUES[0]), "a.y.npy": as_npy(VALUES[0])})
    with pytest.raises(UsageError, match="2 that may be vectors \\(x, y\\): name one as the key"):
        opened(path)
    add_to_tar(path, {"a.npy": as_npy(np.zeros((2, 3, 4)))})
    with pytest.raises(UsageError, match=r"expected an array \(R, D\), found float64 \(2, 3, 4\)"):
        opened(path)
    add_to_tar(path, {"a.npy": as_npy(np.array([{}], object))})
    with pytest.raises(UsageError, match="expected numbers, found object"):
        opened(path)
    add_to_tar(path, {"a.npy": b"no array", "b.txt": b""})
    with pytest.raises(UsageError, match=r"is not a .tar file of .npy files, or it is damaged"):
        opened(path)
    add_to_tar(path, {"a.npy": as_npy(VALUES[0]), "b.npy": as_npy(VALUES[1])})
    path.write_bytes(path.read_bytes()[:700])
    with pytest.raises(UsageError, match=r"is not a .tar file of .npy files, or it is damaged"):
        opened(path)


@pytest.mark.parametrize("write", WRITERS)
def test_every_format_gives_the_vectors_by_id(tmp_path: Path, write: object) -> None:
    path, options = write(tmp_path)  # type: ignore[operator]
    vectors = opened(path, **options)
    assert vectors.ids.to_pylist() == sorted(IDS) and vectors.num_dims == 3 and vectors.num_views == 1
    np.testing.assert_array_equal(all_of(vectors), VALUES)
    again = opened(path, **options)  # from the mapped copy
    np.testing.assert_array_equal(all_of(again, IDS[::-1]), VALUES[::-1])


def test_a_copy_follows_its_file(tmp_path: Path) -> None:
    path, _ = write_lists(tmp_path)
    opened(path)
    pq.write_table(pa.table({"id": IDS, "vector": list(2 * VALUES)}), path)
    np.testing.assert_array_equal(all_of(opened(path)), 2 * VALUES)


@pytest.mark.parametrize(
    "values",
    [
        VALUES.astype(np.float16),
        VALUES.astype(np.float64),
        VALUES.astype(">f4"),
        np.asfortranarray(VALUES),
        VALUES[:, :1],
        np.arange(15).reshape(5, 3).astype(np.uint8),
        np.arange(15).reshape(5, 3),
    ],
    ids=["half", "double", "big-endian", "fortran", "one column", "bytes", "integers"],
)
def test_any_type_of_number_is_read(tmp_path: Path, values: np.ndarray) -> None:
    path, options = write_npy(tmp_path, values)
    read = all_of(opened(path, **options))
    assert read.dtype == np.float32
    np.testing.assert_allclose(read, values.astype(np.float32))


def test_bfloat16_is_read(tmp_path: Path) -> None:
    save_file({"x": torch.from_numpy(VALUES).bfloat16()}, tmp_path / "v.safetensors")
    read = all_of(opened(tmp_path / "v.safetensors", ids=write_ids(tmp_path, IDS)))
    np.testing.assert_array_equal(read, torch.from_numpy(VALUES).bfloat16().float().numpy())


def test_rows_that_are_not_finite_are_absent_and_zeros_are_told(tmp_path: Path) -> None:
    values = VALUES.astype(np.float64)
    values[0, 1], values[2, 0], values[3] = np.nan, 1e300, 0
    path, options = write_npy(tmp_path, values)
    vectors = opened(path, **options)
    assert vectors.ids.to_pylist() == ["a", "d", "e"]
    assert vectors.select(pa.chunked_array([IDS])).present.tolist() == [False, True, False, True, True]
    left_out, zeros = vectors.notes
    assert "2 of 5 rows are left out: 2 have numbers that are not finite" in left_out
    assert "1 of 3 vectors are all 0" in zeros
    assert all_of(vectors)[0].tolist() == [0, 0, 0]


def test_rows_of_one_id_are_its_views(tmp_path: Path) -> None:
    ids = ["b", "a", "b", "c", "b"]
    np.save(tmp_path / "v.npy", VALUES)
    names = write_ids(tmp_path, ids)
    with pytest.raises(UsageError, match=r"2 of 5 rows repeat an id, such as 'b'; say views=true"):
        opened(tmp_path / "v.npy", ids=names)
    vectors = opened(tmp_path / "v.npy", ids=names, views=True)
    assert vectors.ids.to_pylist() == ["a", "b", "c"] and vectors.num_views == 3
    clips = vectors.select(pa.chunked_array([["b", "x", "a"]]))
    for number, row in enumerate([0, 2, 4, 0]):
        values, present = clips.read(np.array([0, 1, 2]), number)
        assert present.tolist() == [True, False, True]
        np.testing.assert_array_equal(values[[0, 2]], VALUES[[row, 1]])
    drawn, _ = clips.read(np.zeros(3, int), np.array([0.0, 0.5, 0.999]))
    np.testing.assert_array_equal(drawn, VALUES[[0, 2, 4]])


def test_rows_without_ids_are_numbered(tmp_path: Path) -> None:
    np.save(tmp_path / "v.npy", VALUES)
    vectors = opened(tmp_path / "v.npy")
    assert vectors.ids.to_pylist() == ["0", "1", "2", "3", "4"]
    assert "the numbers of its rows are taken, 0 to 4" in vectors.notes[0]


def test_ids_keep_their_zeros(tmp_path: Path) -> None:
    np.save(tmp_path / "v.npy", VALUES)
    assert opened(tmp_path / "v.npy", ids=write_ids(tmp_path, ["007", "07", "7", "1e3", "1000"])).ids.to_pylist() == [
        *("007", "07", "1000", "1e3", "7")
    ]
    np.save(tmp_path / "ids.npy", np.arange(10, 15))
    assert opened(tmp_path / "v.npy", ids=tmp_path / "ids.npy").ids.to_pylist() == ["10", "11", "12", "13", "14"]


def write_bad(folder: Path, kind: str) -> Path:
    path = folder / "v.npy"
    if kind == "objects":
        np.save(path, np.array([{"a": 1}, None]), allow_pickle=True)
    elif kind == "strings":
        np.save(path, np.array([["a", "b"]]))
    elif kind == "one dimension":
        np.save(path, VALUES[:, 0])
    elif kind == "three dimensions":
        np.save(path, VALUES[None])
    elif kind == "empty":
        np.save(path, VALUES[:0])
    elif kind == "nan":
        np.save(path, np.full((5, 3), np.nan))
    elif kind == "truncated":
        np.save(path, VALUES)
        path.write_bytes(path.read_bytes()[:-9])
    elif kind == "pickle":
        torch.save(torch.zeros(3), path.with_suffix(".zip"))
        path.write_bytes(b"\x80\x04}.")
    elif kind == "torch":
        torch.save(torch.zeros(3), path)
    elif kind == "ragged":
        path = folder / "v.parquet"
        pq.write_table(pa.table({"id": ["a", "b"], "vector": [[1.0], [1.0, 2.0]]}), path)
    elif kind == "text only":
        path = folder / "v.parquet"
        pq.write_table(pa.table({"id": ["a", "b"], "name": ["x", "y"]}), path)
    elif kind == "two arrays":
        path = folder / "v.npz"
        np.savez(path, x=VALUES, y=VALUES)
    elif kind == "short tensor":
        path, _ = write_safetensors(folder)
        path.write_bytes(path.read_bytes()[:-20])
    return path


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("objects", "holds Python objects, which are never loaded"),
        ("strings", r"expected numbers, found <U1 \(1, 2\)"),
        ("one dimension", r"expected an array \(R, D\), found float32 \(5,\); one column is values\[:, None\]"),
        ("three dimensions", "one vector a row"),
        ("empty", r"found float32 \(0, 3\)"),
        ("nan", "none of its 5 rows can be used: 5 have numbers that are not finite"),
        ("truncated", "is not an array that numpy.save wrote"),
        ("pickle", "is no file of vectors: expected .npy or .npz"),
        ("torch", "is not an archive that numpy.savez wrote|has none that is an array of vectors"),
        ("ragged", r"vectors of one file must be alike, found \[1, 2\] numbers a row"),
        ("text only", "has none that is an array of vectors"),
        ("two arrays", r"has 2 that may be vectors \(x, y\): name one as the key"),
        ("short tensor", "is damaged|is not a safetensors file"),
        ("missing", "cannot read the vectors in"),
    ],
)
def test_what_is_no_file_of_vectors_is_refused(tmp_path: Path, kind: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        opened(write_bad(tmp_path, kind))
    assert not list(tmp_path.glob("cache/.*"))


def test_ids_must_match_the_rows(tmp_path: Path) -> None:
    np.save(tmp_path / "v.npy", VALUES)
    with pytest.raises(UsageError, match=r"has 5 rows, but there are 2 ids \(of .*ids.txt\)"):
        opened(tmp_path / "v.npy", ids=write_ids(tmp_path, ["a", "b"]))
    with pytest.raises(UsageError, match="has no 'z'; it has x, y"):
        np.savez(tmp_path / "v.npz", x=VALUES, y=VALUES)
        opened(tmp_path / "v.npz", key="z")
