import gzip
import struct
import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hypothesis_numpy

from secateur.domains.classification.idx import read_idx
from secateur.errors import CheckpointError, RequestError


def idx_bytes(array, kind=8):
    return bytes([0, 0, kind, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


@given(hypothesis_numpy.arrays(np.uint8, hypothesis_numpy.array_shapes(max_dims=4)), st.booleans())
def test_reading_gives_back_what_was_written(tmp_path_factory, array, compress):
    path = tmp_path_factory.mktemp("idx") / "array"
    content = idx_bytes(array)
    path.write_bytes(gzip.compress(content) if compress else content)
    assert np.array_equal(read_idx(path), array)


@pytest.mark.parametrize("compress", [False, True])
@pytest.mark.parametrize("length", [0, 3, 6, 20, 27])
def test_a_file_truncated_anywhere_is_refused(tmp_path, length, compress):
    content = idx_bytes(np.arange(16, dtype=np.uint8).reshape(4, 4))[:length]
    path = tmp_path / "images"
    path.write_bytes(gzip.compress(content) if compress else content)
    with pytest.raises(CheckpointError, match=r"images (is truncated|is no IDX file)"):
        read_idx(path)


def test_truncated_compression_is_refused(tmp_path):
    path = tmp_path / "images.gz"
    path.write_bytes(gzip.compress(idx_bytes(np.arange(100, dtype=np.uint8)))[:-12])
    with pytest.raises(CheckpointError, match="compressed data ends early"):
        read_idx(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\x89PNG\r\n\x1a\n", "no IDX file of unsigned bytes"),
        (idx_bytes(np.zeros(3, np.uint8), kind=0x0D), "no IDX file of unsigned bytes"),
        (idx_bytes(np.zeros(3, np.uint8)) + b"x", "has data left over"),
        (bytes([0, 0, 8, 3]) + b"\xff" * 12, "is truncated"),
    ],
)
def test_foreign_files_are_refused(tmp_path, content, message):
    path = tmp_path / "images"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=message):
        read_idx(path)


def test_a_missing_file_is_a_request_error(tmp_path):
    with pytest.raises(RequestError, match=r"cannot read .*nothing: No such file"):
        read_idx(tmp_path / "nothing")


def test_more_dims_than_images_have_are_refused(tmp_path):
    path = tmp_path / "images"
    path.write_bytes(bytes([0, 0, 8, 65]) + struct.pack(">65I", *[1] * 65) + b"x")
    with pytest.raises(CheckpointError, match="65 dims, allowed: 8"):
        read_idx(path)


@pytest.mark.parametrize("stated", [28 * 28, 2**31])
def test_a_bomb_is_refused_before_it_is_decompressed(tmp_path, stated):
    path = tmp_path / "images.gz"
    path.write_bytes(gzip.compress(bytes([0, 0, 8, 1]) + struct.pack(">I", stated) + bytes(2**27), 1))
    tracemalloc.start()
    with pytest.raises(CheckpointError, match=r"(has data left over|is too large)"):
        read_idx(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2**23


def test_several_compressed_parts_are_one_file(tmp_path):
    content = idx_bytes(np.arange(100, dtype=np.uint8))
    path = tmp_path / "images.gz"
    path.write_bytes(gzip.compress(content[:50]) + gzip.compress(content[50:]))
    assert read_idx(path).tolist() == list(range(100))
