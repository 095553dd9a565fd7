"""The IDX format of MNIST and its successors, plain or compressed with gzip.

    2 zero bytes | 1 byte: type (8 = unsigned byte) | 1 byte: number of dims d | d big-endian uint32: sizes |
    data

References:
    LeCun, Cortes and Burges, "The MNIST database", section "File formats". http://yann.lecun.com/exdb/mnist/
"""

import gzip
import math
import struct
import zlib
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from secateur.errors import CheckpointError, RequestError

_UNSIGNED_BYTE = 8


def read_idx(path: Path) -> UInt8[np.ndarray, "..."]:
    r"""Read an IDX file of unsigned bytes.

    Args:
        path: The file; it is decompressed if it starts as gzip files do, whatever its name.

    Returns:
        The array with the shape that the header states.

    Raises:
        RequestError: The file is missing or cannot be read.
        CheckpointError: The file is truncated, has data left over, or is no IDX file of unsigned bytes.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = Path(folder, "labels-idx1-ubyte")
        ...     _ = path.write_bytes(b"\0\0\x08\x01" + struct.pack(">I", 3) + bytes([7, 2, 1]))
        ...     read_idx(path)
        array([7, 2, 1], dtype=uint8)
    """
    content = _read(path)
    do = "delete it and get the file again"
    if len(content) < 4 or content[:2] != b"\0\0" or content[2] != _UNSIGNED_BYTE or content[3] == 0:
        start = (
            f"it starts with {content[:4].hex(' ') or 'nothing'}, expected 00 00 08 and the number of dims"
        )
        raise CheckpointError(f"{path} is no IDX file of unsigned bytes", [start], do)
    dims = content[3]
    offset = 4 + 4 * dims
    if len(content) < offset:
        raise CheckpointError(f"{path} is truncated inside its header", [f"it has {len(content)} bytes"], do)
    shape = struct.unpack(f">{dims}I", content[4:offset])
    expected, found = math.prod(shape), len(content) - offset
    if found != expected:
        problem = "is truncated" if found < expected else "has data left over"
        detail = f"its header states {' x '.join(map(str, shape))} = {expected:,} bytes, it holds {found:,}"
        raise CheckpointError(f"{path} {problem}", [detail], do)
    return np.frombuffer(content, np.uint8, offset=offset).reshape(shape)


def _read(path: Path) -> bytes:
    try:
        content = path.read_bytes()
    except OSError as error:
        reason = error.strerror or str(error)
        raise RequestError(f"cannot read {path}: {reason}", do="check the data folder") from error
    if not content.startswith(b"\x1f\x8b"):
        return content
    try:
        return gzip.decompress(content)
    except (EOFError, OSError, zlib.error) as error:
        detail = f"its compressed data ends early or is damaged: {error}"
        raise CheckpointError(f"{path} is truncated", [detail], "delete it and get the file again") from error
