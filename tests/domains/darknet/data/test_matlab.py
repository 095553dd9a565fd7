"""Our reader of MAT-files against SciPy's writer and reader, and broken files."""

import io
import random
import struct
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.io import loadmat, savemat

from secateur.domains.darknet.data.matlab import read_variable


def mat(variables, compress=False):
    file = io.BytesIO()
    savemat(file, variables, do_compression=compress)
    return file.getvalue()


def cells(*parts):
    made = np.empty((1, len(parts)), dtype=object)
    for at, part in enumerate(parts):
        made[0, at] = part
    return made


def hand(offset=0.0, dtype=np.float64):
    return {name: np.array([[at + offset, 2 * at + offset]], dtype) for at, name in enumerate("abcd")}


TYPES = ("f8", "f4", "i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8")


@settings(max_examples=40)
@given(
    st.lists(st.floats(-1e3, 1e3), min_size=1, max_size=5),
    st.sampled_from(TYPES),
    st.booleans(),
    st.booleans(),
)
def test_numbers_are_what_scipy_reads(numbers, dtype, compress, other):
    array = np.array(numbers).astype(dtype)
    content = mat(({"other": cells(1, 2)} if other else {}) | {"x": array}, compress)
    expected = loadmat(io.BytesIO(content))["x"]
    assert np.array_equal(read_variable(content, "x"), expected.ravel(order="F").astype(float))


@pytest.mark.parametrize("compress", [False, True])
def test_cells_and_structs_are_lists_and_dicts(compress):
    content = mat({"boxes": cells(hand(), {**hand(0.5), "side": "L"})}, compress)
    one, two = read_variable(content, "boxes")
    assert [one[0][name].tolist() for name in "abcd"] == [[0, 0], [1, 2], [2, 4], [3, 6]]
    assert two[0]["d"].tolist() == [3.5, 6.5]
    assert two[0]["side"] is None


def test_the_other_order_of_bytes_is_read():
    def element(kind, data):
        return struct.pack(">2I", kind, len(data)) + data + bytes(-len(data) % 8)

    numbers = element(9, struct.pack(">2d", 1.5, 2.5))
    inner = element(6, struct.pack(">2I", 6, 0)) + element(5, struct.pack(">2i", 1, 2)) + element(1, b"x")
    content = b"MATLAB 5.0".ljust(124) + b"\x01\x00MI" + element(14, inner + numbers)
    assert read_variable(content, "x").tolist() == [1.5, 2.5]


def test_a_missing_variable_and_another_format_are_said():
    with pytest.raises(ValueError, match="no variable boxes"):
        read_variable(mat({"x": 1.0}), "boxes")
    with pytest.raises(ValueError, match="no MAT-file of level 5"):
        read_variable(b"\x89HDF\r\n\x1a\n" + bytes(200), "boxes")


@pytest.mark.parametrize("compress", [False, True])
def test_every_truncation_is_an_error(compress):
    content = mat({"boxes": cells(hand(), hand())}, compress)
    for length in range(len(content) - 8):
        with pytest.raises(ValueError, match=r"."):
            read_variable(content[:length], "boxes")


def test_a_bomb_is_refused_before_it_is_whole():
    packed = zlib.compress(bytes(2**27), 1)
    content = mat({})[:128] + struct.pack("<2I", 15, len(packed)) + packed
    with pytest.raises(ValueError, match="decompresses to more than 67,108,864 bytes"):
        read_variable(content, "boxes")


@pytest.mark.parametrize("compress", [False, True])
def test_broken_files_are_errors_and_nothing_else(compress):
    rng, content = random.Random(0), mat({"boxes": cells(hand(), hand())}, compress)
    failed = 0
    for _ in range(2000):
        broken = bytearray(content)
        for _ in range(rng.choice((1, 2, 8))):
            at = rng.randrange(126, len(broken) - 4)
            broken[at : at + 4] = struct.pack(
                "<I", rng.choice((0, 1, 14, 15, 2**31, 2**32 - 1, rng.randrange(2**32)))
            )
        try:
            read_variable(bytes(broken), "boxes")
        except ValueError:
            failed += 1
    assert failed > 500
