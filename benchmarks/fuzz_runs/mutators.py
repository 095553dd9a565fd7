"""Mutators: from valid files to broken ones, each a function of a file and a source of random numbers.

Blind ones know bytes: flip, cut, repeat, splice. Structure-aware ones know the format, so that what they
break lies behind the first checks: a value of a JSON tree, a word of a line, the text of an XML element, the
header of a safetensors file, what a gzip file or a compressed element of a MAT-file holds.
"""

import gzip
import json
import random
import re
import struct
import zlib
from collections.abc import Callable, Sequence
from typing import Any

Mutator = Callable[[bytes, random.Random], bytes]

_INTEGERS = (
    0, 1, -1, 2, 7, 127, 255, 256, 65535, 2**31 - 1, 2**31, 2**32, 2**53, 10**12, 2**63, 2**64, 10**30,
    10**400,
)  # fmt: skip
_WORDS = (
    "", " ", "-", "0", "-1", "1e999", "-1e308", "nan", "inf", "1,2", "0x10", "²", "٣", "1_000", "a\0b", "é",
    "..", ".", "/", "~", "a" * 300, "/" + "d/" * 2000, "9" * 400, "9" * 5000, "=", "[", "#", "none", "true",
    "\ufeff", " " * 20_000, "(" * 3000,
)  # fmt: skip
_DEEP = 2000


def value(rng: random.Random) -> Any:
    """A value that a parser of JSON may not expect."""
    return rng.choice(
        (
            lambda: None, lambda: rng.choice((True, False)), lambda: rng.choice(_INTEGERS),
            lambda: float(rng.choice(("nan", "inf", "-inf", "1e308", "-0.0", "0.5"))),
            lambda: rng.choice(_WORDS), list, dict, lambda: [0] * 5, lambda: {"": None},
            lambda: "\ud800", lambda: [[]], lambda: [1.5, "x"],
        )
    )()  # fmt: skip


def blind(content: bytes, rng: random.Random) -> bytes:
    """Change some bytes, whatever they mean."""
    made = bytearray(content)
    for _ in range(rng.choice((1, 1, 1, 2, 4, 16))):
        at = rng.randrange(len(made) + 1)
        span = rng.choice((1, 1, 2, 4, 8, 64, 1024))
        kind = rng.randrange(7)
        if kind == 0 and made:
            made[at % len(made)] ^= 1 << rng.randrange(8)
        elif kind == 1:
            del made[at : at + span]
        elif kind == 2:
            made[at:at] = made[at : at + span] * rng.choice((1, 2, 50))
        elif kind == 3:
            made[at:at] = rng.randbytes(span)
        elif kind == 4:
            del made[at:]
        elif kind == 5:
            made[at : at + span] = rng.choice((b"\0", b"\xff", b" ", b"9")) * span
        else:
            made[at:at] = rng.choice(_WORDS).encode("utf-8", "surrogatepass")
    return bytes(made)


def integers(content: bytes, rng: random.Random) -> bytes:
    """Replace aligned integers of a binary file."""
    made = bytearray(content)
    for _ in range(rng.choice((1, 1, 2, 3))):
        width, order = rng.choice((1, 2, 4, 8)), rng.choice("<>")
        at = rng.randrange(max(min(len(made), rng.choice((64, 256, 10**6))) // width, 1)) * width
        number = rng.choice((*_INTEGERS, rng.randrange(2**32))) % 2 ** (8 * width)
        made[at : at + width] = struct.pack(f"{order}{'BHIQ'[(1, 2, 4, 8).index(width)]}", number)
    return bytes(made)


def tree(content: bytes, rng: random.Random) -> bytes:
    """Change values of a JSON file: replace, remove, repeat, rename, retype, nest."""
    try:
        root = [json.loads(content)]
    except (ValueError, RecursionError):
        return blind(content, rng)
    for _ in range(rng.choice((1, 1, 1, 2, 5))):
        holder, key = _somewhere(root, rng)
        _change(holder, key, rng)
    text = json.dumps(root[0] if root else None)
    if rng.random() < 0.02:
        text = text.replace("null", "[" * _DEEP + "]" * _DEEP, 1).replace("0", "9" * 5000, 1)
    return text.encode("utf-8", "surrogatepass")


def _somewhere(root: list[Any], rng: random.Random) -> tuple[Any, Any]:
    """A place in a tree: what holds it, and its key or index."""
    holder: Any = root
    key: Any = 0
    while True:
        held = holder[key]
        if not isinstance(held, (dict, list)) or not held or rng.random() < 0.15:
            return holder, key
        holder, key = held, rng.choice(list(held) if isinstance(held, dict) else range(len(held)))


def _change(holder: Any, key: Any, rng: random.Random) -> None:
    held, kind = holder[key], rng.randrange(6)
    if kind == 0:
        del holder[key]
        if not holder and isinstance(holder, list):
            holder.append(value(rng))
    elif kind == 1 and isinstance(holder, dict):
        holder[rng.choice(("", "x", str(key).upper(), "id"))] = holder.pop(key)
    elif kind == 2 and isinstance(held, (int, float)) and not isinstance(held, bool):
        as_float = float(min(max(held, -1e300), 1e300))
        holder[key] = rng.choice((held + 1, held - 1, -held, held * 10, str(held)[:400], as_float, [held]))
    elif kind == 3 and isinstance(held, list) and held:
        holder[key] = held * rng.choice((0, 2, 3))
    elif kind == 4:
        holder[key] = [held] if rng.random() < 0.5 else {"x": held}
    else:
        holder[key] = value(rng)


def rows(content: bytes, rng: random.Random) -> bytes:
    """Change one line of a file of JSON lines, or their order."""
    lines = content.split(b"\n")
    at = rng.randrange(len(lines))
    if rng.random() < 0.2:
        lines.insert(at, lines.pop(rng.randrange(len(lines))))
    else:
        lines[at] = tree(lines[at], rng)
    return b"\n".join(lines)


def words(content: bytes, rng: random.Random) -> bytes:
    """Change words of a text file: replace, remove, repeat, and the same with lines."""
    lines = content.decode("utf-8", "surrogateescape").split("\n")
    for _ in range(rng.choice((1, 1, 2, 4))):
        at, kind = rng.randrange(len(lines)), rng.randrange(6)
        parts = re.split(r"([\s=,]+)", lines[at])
        if kind == 0 and len(lines) > 1:
            del lines[at]
        elif kind == 1:
            lines.insert(rng.randrange(len(lines) + 1), lines[at])
        elif kind == 2:
            lines[at] = lines[at] + rng.choice(_WORDS) * rng.choice((1, 1, 40))
        elif kind == 3:
            lines[at] = re.sub(r"\d+", lambda _: str(rng.choice(_INTEGERS)), lines[at])
        else:
            parts[rng.randrange(len(parts))] = rng.choice((*_WORDS, str(rng.choice(_INTEGERS))))
            lines[at] = "".join(parts)
    return "\n".join(lines).encode("utf-8", "surrogateescape")


def xml(content: bytes, rng: random.Random) -> bytes:
    """Change the text of XML elements, or the elements."""
    text = content.decode("utf-8", "surrogateescape")
    parts = re.split(r"(<[^>]*>)", text)
    at = rng.randrange(len(parts))
    kind = rng.randrange(5)
    if kind == 0:
        del parts[at]
    elif kind == 1:
        parts.insert(rng.randrange(len(parts)), parts[at])
    elif kind == 2:
        parts.insert(0, rng.choice((
            '<?xml version="1.0" encoding="utf-7"?>', '<?xml version="1.0" encoding="nonsense"?>',
            '<!DOCTYPE a [<!ENTITY x "y"><!ENTITY z "&x;&x;&x;&x;&x;&x;">]>', "<a>" * _DEEP, "\ufeff",
        )))  # fmt: skip
    elif kind == 3:
        parts[at] = re.sub(r"\d+", lambda _: str(rng.choice(_INTEGERS)), parts[at])
    else:
        parts[at] = rng.choice(_WORDS).replace("\0", "&#0;")
    return "".join(parts).encode("utf-8", "surrogatepass")


def tensors(content: bytes, rng: random.Random) -> bytes:
    """Change the header of a safetensors file, its length, or the JSON within its metadata."""
    if len(content) < 8:
        return blind(content, rng)
    size = int.from_bytes(content[:8], "little")
    header, values = content[8 : 8 + size], content[8 + size :]
    if rng.random() < 0.3:
        try:
            table = json.loads(header)
            told = table["__metadata__"]
            key = rng.choice(sorted(told))
            told[key] = tree(told[key].encode(), rng).decode("utf-8", "replace")
            header = json.dumps(table).encode()
        except (ValueError, KeyError, IndexError, TypeError):
            header = tree(header, rng)
    elif rng.random() < 0.3:
        header = re.sub(rb'"([FIUB][A-Z]?\d+)"', lambda _: b'"%s"' % rng.choice(_DTYPES), header, count=1)
    else:
        header = tree(header, rng)
    length = len(header) if rng.random() < 0.95 else rng.choice(_INTEGERS) % 2**64
    return length.to_bytes(8, "little") + header + values


_DTYPES = tuple(b"F32 I32 U32 F16 BF16 F64 I64 U64 BOOL U8 I16 F8_E4M3 C64 F4 X".split())


def gzipped(inner: Mutator) -> Mutator:
    """Change what a gzip file holds, make a bomb of it, or change the file itself."""

    def mutate(content: bytes, rng: random.Random) -> bytes:
        if not content.startswith(b"\x1f\x8b"):
            return inner(content, rng)
        held = gzip.decompress(content)
        kind = rng.random()
        if kind < 0.03:  # half a gigabyte of zeros takes half a megabyte
            return gzip.compress(held[:8] + bytes(rng.choice((2**20, 2**29))), 1)
        if kind < 0.1:
            return content + gzip.compress(held)
        return gzip.compress(inner(held, rng)) if kind < 0.7 else blind(content, rng)

    return mutate


def matlab(content: bytes, rng: random.Random) -> bytes:
    """Change the elements of a MAT-file, also those that are compressed."""
    if rng.random() < 0.3 or len(content) < 136:
        return integers(content, rng)
    kind, size = struct.unpack_from("<2I", content, 128)
    if kind != 15:
        return content[:128] + integers(content[128:], rng)
    held = zlib.decompress(content[136 : 136 + size])
    made = bytes(2**28) if rng.random() < 0.01 else (integers if rng.random() < 0.7 else blind)(held, rng)
    packed = zlib.compress(made, 1)
    return content[:128] + struct.pack("<2I", 15, len(packed)) + packed


def mutated(content: bytes, aware: Sequence[Mutator], rng: random.Random) -> bytes:
    """Break a file in one of its ways; one in three is blind."""
    return blind(content, rng) if rng.random() < 1 / 3 else rng.choice(aware)(content, rng)
