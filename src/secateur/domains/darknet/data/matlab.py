"""MATLAB's MAT-files of level 5 (versions 5 to 7): numbers, cells and structs, and nothing else.

    file      128 bytes of header, then elements
    element   type, size, data, padding to 8 bytes; a compressed one holds another element
    matrix    an element of elements: class, dims, name, then its numbers, cells or fields

Every size is compared with what is left before anything is read by it, and what a file may decompress to is
bounded, so that a broken file is an error. SciPy's reader of the same format crashes on some.

References:
    The MathWorks, "MAT-File Format", version 5, chapter 1.
    https://www.mathworks.com/help/pdf_doc/matlab/matfile_format.pdf
"""

import struct
import zlib
from collections.abc import Iterator
from math import prod
from typing import Any

import numpy as np

_HEADER_BYTES = 128
_MOST_BYTES = 64 * 2**20
"""What the elements of a file may hold, decompressed, all together."""
_MOST_DEPTH = 8

_MATRIX, _COMPRESSED = 14, 15
_CELL, _STRUCT, _NUMBERS = 1, 2, range(6, 16)
_NOTHING = (0, memoryview(b""))
_TYPES = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8", 12: "i8", 13: "u8"}


def read_variable(content: bytes, name: str) -> Any:
    """Read one variable of a MAT-file.

    Args:
        content: The file.
        name: The variable.

    Returns:
        A flat float64 array of numbers; a list of the parts of a cell; a list of dicts, one for each element
        of a struct; None for text, objects and whatever else there is.

    Raises:
        ValueError: It is no such file, it is damaged, or it has no such variable.
    """
    order = {b"IM": "<", b"MI": ">"}.get(content[_HEADER_BYTES - 2 : _HEADER_BYTES])
    if order is None:
        raise ValueError("it is no MAT-file of level 5")
    left = _MOST_BYTES
    for kind, data in _elements(memoryview(content)[_HEADER_BYTES:], order):
        inner = data
        if kind == _COMPRESSED:
            inner = memoryview(_decompressed(data, left))
            left -= len(inner)
            kind, inner = next(_elements(inner, order), (0, inner))
        if kind == _MATRIX and _name(inner, order) == name:
            return _matrix(inner, order, 0)
    raise ValueError(f"it has no variable {name}")


def _decompressed(data: memoryview, most: int) -> bytes:
    inflater = zlib.decompressobj()
    try:
        made = inflater.decompress(data, max(most, 1))
    except zlib.error as error:
        raise ValueError(f"its compressed data is damaged: {error}") from error
    if inflater.unconsumed_tail:
        raise ValueError(f"it decompresses to more than {_MOST_BYTES:,} bytes")
    return made


def _elements(view: memoryview, order: str) -> Iterator[tuple[int, memoryview]]:
    """The type and data of one element after the other."""
    at = 0
    while at < len(view):
        if len(view) - at < 8:
            raise ValueError("it ends within an element")
        first, size = struct.unpack_from(f"{order}2I", view, at)
        is_small = first >> 16 != 0
        kind, size = (first & 0xFFFF, first >> 16) if is_small else (first, size)
        start = at + (4 if is_small else 8)
        if size > (4 if is_small else len(view) - start):
            raise ValueError("an element is larger than what is left")
        yield kind, view[start : start + size]
        at = at + 8 if is_small else start + size + (-size % 8 if kind != _COMPRESSED else 0)


def _head(view: memoryview, order: str) -> tuple[int, tuple[int, ...], str, Iterator[tuple[int, memoryview]]]:
    """The class, dims and name of a matrix, and the elements that follow."""
    elements = _elements(view, order)
    flags, dims, name = (next(elements, _NOTHING)[1] for _ in range(3))
    if len(flags) < 4 or len(dims) % 4:
        raise ValueError("a matrix has no class or no dims")
    kind = struct.unpack_from(f"{order}I", flags)[0] & 0xFF
    sizes = struct.unpack(f"{order}{len(dims) // 4}i", dims)
    if any(size < 0 for size in sizes):
        raise ValueError("a matrix has a negative size")
    return kind, sizes, bytes(name).decode("latin-1"), elements


def _name(view: memoryview, order: str) -> str:
    return _head(view, order)[2] if len(view) else ""


def _matrix(view: memoryview, order: str, depth: int) -> Any:
    if depth > _MOST_DEPTH:
        raise ValueError(f"it is nested more than {_MOST_DEPTH} deep")
    if not len(view):
        return None
    kind, sizes, _, elements = _head(view, order)
    count = prod(sizes)
    if kind in _NUMBERS:
        return _numbers(next(elements, _NOTHING), order, count)
    if kind not in (_CELL, _STRUCT):
        return None
    if count * 8 > len(view):
        raise ValueError(f"it announces {count:,} parts and has {len(view):,} bytes")
    if kind == _CELL:
        return [_part(elements, order, depth) for _ in range(count)]
    length, words = (next(elements, _NOTHING)[1] for _ in range(2))
    names = _field_names(length, words, order)
    return [{name: _part(elements, order, depth) for name in names} for _ in range(count)]


def _part(elements: Iterator[tuple[int, memoryview]], order: str, depth: int) -> Any:
    kind, data = next(elements, _NOTHING)
    if kind != _MATRIX:
        raise ValueError("a cell or a field is missing")
    return _matrix(data, order, depth + 1)


def _field_names(length: memoryview, names: memoryview, order: str) -> list[str]:
    width = struct.unpack(f"{order}i", length)[0] if len(length) == 4 else 0
    if width < 1 or len(names) % width:
        raise ValueError("the names of a struct's fields are damaged")
    words = (bytes(names[at : at + width]) for at in range(0, len(names), width))
    return [word.partition(b"\0")[0].decode("latin-1") for word in words]


def _numbers(element: tuple[int, memoryview], order: str, count: int) -> np.ndarray:
    kind, data = element
    if kind not in _TYPES:
        raise ValueError(f"numbers of the unknown type {kind}")
    dtype = np.dtype(order + _TYPES[kind])
    if len(data) != count * dtype.itemsize:
        raise ValueError(f"{count:,} numbers are announced, {len(data):,} bytes are there")
    return np.frombuffer(data, dtype).astype(np.float64)
