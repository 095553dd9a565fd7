"""The IDX format of MNIST and its successors, plain or compressed with gzip.

    2 zero bytes | 1 byte: type (8 = unsigned byte) | 1 byte: number of dims d | d big-endian uint32: sizes |
    data

References:
    LeCun, Cortes and Burges, "The MNIST database", section "File formats". http://yann.lecun.com/exdb/mnist/
"""

import math
import struct
import zlib
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from secateur.errors import CheckpointError, RequestError

_UNSIGNED_BYTE = 8
_MOST_DIMS = 8
_MOST_BYTES = 2**30
"""What a compressed file may become: a gigabyte of zeros takes a megabyte."""


def read_idx(path: Path) -> UInt8[np.ndarray, "..."]:
    r"""Read an IDX file of unsigned bytes.

    Args:
        path: The file; it is decompressed if it starts as gzip files do, whatever its name.

    Returns:
        The array with the shape that the header states.

    Raises:
        RequestError: The file is missing or cannot be read.
        CheckpointError: The file is truncated, has data left over, is no IDX file of unsigned bytes, or
            decompresses to more than its header states or a gigabyte.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = Path(folder, "labels-idx1-ubyte")
        ...     _ = path.write_bytes(b"\0\0\x08\x01" + struct.pack(">I", 3) + bytes([7, 2, 1]))
        ...     read_idx(path)
        array([7, 2, 1], dtype=uint8)
    """
    content = _read(path)
    is_packed = content.startswith(b"\x1f\x8b")
    shape = _shape(path, _inflated(path, content, 4 + 4 * _MOST_DIMS) if is_packed else content)
    offset, expected = 4 + 4 * len(shape), math.prod(shape)
    do = "delete it and get the file again"
    if is_packed:
        if expected > _MOST_BYTES:
            detail = f"its header states {expected:,} bytes, of a compressed file {_MOST_BYTES:,} are read"
            raise CheckpointError(f"{path} is too large", [detail], "decompress it, if it is what you want")
        content = _inflated(path, content, offset + expected + 1)
    found = len(content) - offset
    if found != expected:
        problem = "is truncated" if found < expected else "has data left over"
        more = " or more" if is_packed and found > expected else ""
        stated = f"{' x '.join(map(str, shape))} = {expected:,} bytes"
        detail = f"its header states {stated}, it holds {found:,}{more}"
        raise CheckpointError(f"{path} {problem}", [detail], do)
    return np.frombuffer(content, np.uint8, offset=offset).reshape(shape)


def _shape(path: Path, content: bytes) -> tuple[int, ...]:
    """What the header says."""
    do = "delete it and get the file again"
    if len(content) < 4 or content[:2] != b"\0\0" or content[2] != _UNSIGNED_BYTE or content[3] == 0:
        start = (
            f"it starts with {content[:4].hex(' ') or 'nothing'}, expected 00 00 08 and the number of dims"
        )
        raise CheckpointError(f"{path} is no IDX file of unsigned bytes", [start], do)
    dims = content[3]
    if dims > _MOST_DIMS:
        detail = f"it has {dims} dims, allowed: {_MOST_DIMS}"
        raise CheckpointError(f"{path} is no IDX file of images or labels", [detail], do)
    if len(content) < 4 + 4 * dims:
        raise CheckpointError(f"{path} is truncated inside its header", [f"it has {len(content)} bytes"], do)
    return struct.unpack_from(f">{dims}I", content, 4)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        reason = error.strerror or str(error)
        raise RequestError(f"cannot read {path}: {reason}", do="check the data folder") from error


def _inflated(path: Path, content: bytes, most: int) -> bytes:
    """Decompress up to so many bytes; if there are fewer, the compressed data must end as it should."""
    inflater, made, left = zlib.decompressobj(wbits=31), b"", content
    try:
        while left and len(made) < most:  # a gzip file may be several one after the other
            made += inflater.decompress(left, most - len(made))
            if not inflater.eof:
                break
            left = inflater.unused_data.lstrip(b"\0")
            inflater = zlib.decompressobj(wbits=31) if left else inflater
    except zlib.error as error:
        detail = f"its compressed data ends early or is damaged: {error}"
        raise CheckpointError(f"{path} is truncated", [detail], "delete it and get the file again") from error
    if len(made) < most and not inflater.eof:
        detail = "its compressed data ends early or is damaged"
        raise CheckpointError(f"{path} is truncated", [detail], "delete it and get the file again")
    return made
