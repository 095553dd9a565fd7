"""Checkpoints too large for the memory: tensors read one at a time, from any number of safetensors files.

    folder/model-00001-of-00002.safetensors   some tensors
    folder/model-00002-of-00002.safetensors   the others
    folder/model.safetensors.index.json       which tensor lies in which file

That is the layout which transformers writes; one file needs no index. Reading maps a file into memory, so a
tensor costs its own pages while it is held and nothing afterwards. Writing needs the sizes first: a file
starts with a table of all its tensors (https://github.com/huggingface/safetensors, "Format").
"""

import contextlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, BinaryIO

from safetensors import SafetensorError, safe_open
from torch import Tensor

from secateur.errors import CheckpointError
from secateur.write.digests import DIGEST_BYTES, VALUES, digest_of, digests_of, raw, require_same, signed

SUFFIX = ".safetensors"
INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
_LONGEST_NAME = 255
"""Bytes; no file system takes more."""

_ITEM_BYTES = {
    **dict.fromkeys(("BOOL", "U8", "I8", "F8_E5M2", "F8_E4M3"), 1),
    **dict.fromkeys(("U16", "I16", "F16", "BF16"), 2),
    **dict.fromkeys(("U32", "I32", "F32"), 4),
    **dict.fromkeys(("U64", "I64", "F64", "C64"), 8),
}


@dataclass(frozen=True)
class StoredTensor:
    """A tensor as a file describes it.

    Attributes:
        name: Its name.
        dtype: Its element type in the words of the format, "BF16".
        shape: Its sizes.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]

    @property
    def item_bytes(self) -> int:
        """Bytes of one element."""
        return _ITEM_BYTES[self.dtype]

    @property
    def size_bytes(self) -> int:
        """Bytes of its values."""
        return prod(self.shape) * self.item_bytes


class Shards(Mapping[str, Tensor]):
    """The tensors of safetensors files by name; each is read when it is asked for, and held by nobody else.

    Make one with `open_shards`.

    Args:
        path: What was opened, for messages.
        stored: What each file holds, in the order of the files.
        plan_hashes: The hash of the plan that each file says it belongs to; None where it says none.
        digests: By name, what a tensor must be; those that are not named may be anything.
    """

    def __init__(
        self,
        path: Path,
        stored: Mapping[Path, Sequence[StoredTensor]],
        plan_hashes: frozenset[str | None],
        digests: Mapping[str, str],
    ) -> None:
        self.path = path
        self.plan_hashes = plan_hashes
        self._digests = dict(digests)
        self.stored = {one.name: one for held in stored.values() for one in held}
        self._file_of = {one.name: file for file, held in stored.items() for one in held}

    def __getitem__(self, name: str) -> Tensor:
        """Map one tensor into memory.

        Raises:
            KeyError: No file holds it.
            CheckpointError: Its file went away, was damaged or replaced by something else.
        """
        with opened(self._file_of[name]) as file:
            tensor: Tensor = file.get_tensor(name)
        digest = self._digests.pop(name, None)  # once is enough
        if digest is not None:
            require_same(self._file_of[name], {name: digest}, {name: tensor})
        return tensor

    def __iter__(self) -> Iterator[str]:
        return iter(self.stored)

    def __len__(self) -> int:
        return len(self.stored)

    @property
    def files(self) -> tuple[Path, ...]:
        """The files, in order."""
        return tuple(dict.fromkeys(self._file_of.values()))

    def __repr__(self) -> str:
        size = sum(one.size_bytes for one in self.stored.values())
        return f"{len(self)} tensors of {size:,} bytes in {len(self.files)} files of {self.path}"


@contextlib.contextmanager
def opened(path: Path) -> Iterator[Any]:
    """Open a safetensors file without executing anything.

    Raises:
        CheckpointError: The file is truncated or foreign.
    """
    try:
        with safe_open(path, framework="pt") as file:
            yield file
    except (SafetensorError, OSError, ValueError) as error:
        size = f"{path.stat().st_size:,} bytes" if path.is_file() else "gone"
        raise CheckpointError(
            f"cannot load {path}: {error}",
            [f"the file has {size}; it is truncated or no safetensors file"],
            "save it again",
        ) from error


def open_shards(path: Path | str, *, verify: bool = True) -> Shards:
    """Open a checkpoint without reading a value.

    Args:
        path: A folder with `model.safetensors.index.json` and its files, or with a single `.safetensors`
            file; or such a file; or an index.
        verify: Compare each tensor, when it is read, with the digest that a file of ours holds.

    Returns:
        Its tensors, by name.

    Raises:
        CheckpointError: A file is missing, truncated or foreign, or an index contradicts its files.

    Example:
        >>> import tempfile, torch
        >>> from safetensors.torch import save_file
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     save_file({"weight": torch.ones(2, 3)}, Path(folder, "model.safetensors"))
        ...     shards = open_shards(folder)
        ...     shards["weight"].sum(), shards.stored["weight"].size_bytes
        (tensor(6.), 24)
    """
    given = Path(path)
    source = _in_folder(given) if given.is_dir() else given
    if not source.is_file():
        raise CheckpointError(f"cannot load {source}: no such file", do="check the path")
    if source.name.endswith(".index.json"):
        placed = read_index(source)
        files = sorted(set(placed.values()))
    elif source.suffix == SUFFIX:
        placed, files = {}, [source]
    else:
        raise CheckpointError(
            f"cannot load {source}: it is neither a {SUFFIX} file nor an index of some",
            do="save the tensors with safetensors.torch.save_file",
        )
    hashes: set[str | None] = set()
    digests: dict[str, str] = {}
    together = _together(source) if placed and verify else {}
    stored: dict[Path, list[StoredTensor]] = {}
    for file in files:
        if not file.is_file():
            raise CheckpointError(
                f"cannot load {source}: it names {file.name}, which is not there", do="get the missing file"
            )
        with opened(file) as opened_file:
            metadata, names = opened_file.metadata() or {}, list(opened_file.keys())
            hashes.add(metadata.get("secateur_plan"))
            if verify:
                digests |= digests_of(file, metadata) or {}
            if together.get(file.name) not in (None, metadata.get(VALUES)):
                what = f"cannot load {source}: {file.name} was not written with it"
                raise CheckpointError(what, ["it is of another model, or was edited"], "save the model again")
            stored[file] = [_described(opened_file, name, file) for name in names]
    if placed:
        _require_index(source, placed, stored)
    return Shards(given, stored, frozenset(hashes), digests)


def _together(index: Path) -> dict[str, str]:
    """The digests of the files that were written with an index of ours, by their names; of others none."""
    told = json.loads(index.read_bytes()).get("metadata")
    found = told.get(VALUES) if isinstance(told, dict) else None
    return {str(name): str(value) for name, value in found.items()} if isinstance(found, dict) else {}


def _in_folder(folder: Path) -> Path:
    """The index of a folder, or its only safetensors file."""
    indices = sorted(folder.glob("*.safetensors.index.json"))
    singles = [file for file in sorted(folder.glob(f"*{SUFFIX}")) if not file.name.startswith(".")]
    for found in (folder / INDEX, folder / SINGLE):
        if found in (*indices, *singles):
            return found
    candidates = indices or singles
    if len(candidates) == 1:
        return candidates[0]
    names = ", ".join(file.name for file in candidates[:8]) or "no safetensors file"
    raise CheckpointError(
        f"cannot load {folder}: it holds {names} and no {INDEX}",
        do="pass one file, or a folder with an index",
    )


def read_index(index: Path) -> dict[str, Path]:
    """Read which file each tensor lies in; an index names files beside it and no others.

    Args:
        index: A `model.safetensors.index.json`. It may be a link, as in the cache of the Hugging Face Hub;
            the files may then be links to where it really lies.

    Returns:
        The file of each tensor, by name; it need not be there.

    Raises:
        CheckpointError: It is no index, or names a file of another folder, directly or by a link.
    """
    do = "save the checkpoint again"
    try:
        placed = json.loads(index.read_bytes())["weight_map"]
    except (ValueError, LookupError, TypeError, OSError, RecursionError) as error:
        raise CheckpointError(
            f"cannot load {index}: it is no index of tensors", [f"{type(error).__name__}: {error}"], do
        ) from error
    if not isinstance(placed, dict) or not placed:
        raise CheckpointError(f"cannot load {index}: its weight_map names no tensor", do=do)
    for file in placed.values():
        is_name = isinstance(file, str) and file.isprintable() and len(file.encode()) <= _LONGEST_NAME
        if not is_name or file in ("", "..") or Path(file).name != file:
            raise CheckpointError(
                f"cannot load {index}: it names {str(file)[:80]!r}, no file beside it", do=do
            )
    folders = (index.parent.resolve(), index.resolve().parent)
    for file in set(placed.values()):
        real = Path(index.parent, file).resolve()
        if real.parent not in folders:
            what = f"cannot load {index}: it names {file}, a link to {real} in another folder"
            raise CheckpointError(what, do="put the file itself there")
    return {name: index.parent / file for name, file in placed.items()}


def _require_index(
    index: Path, placed: Mapping[str, Path], stored: Mapping[Path, Sequence[StoredTensor]]
) -> None:
    """Refuse an index that names other tensors than its files hold."""
    held = {one.name: file for file, found in stored.items() for one in found}
    for name in [*placed, *held]:
        if placed.get(name) != held.get(name):
            there, here = (None if file is None else file.name for file in (placed.get(name), held.get(name)))
            raise CheckpointError(
                f"cannot load {index}: it places {name} in {there}, the files have it in {here}",
                do="save the checkpoint again",
            )


def _described(opened_file: Any, name: str, file: Path) -> StoredTensor:
    view = opened_file.get_slice(name)
    dtype = str(view.get_dtype())
    if dtype not in _ITEM_BYTES:
        raise CheckpointError(
            f"cannot load {file}: {name} has elements of type {dtype}",
            [f"known: {', '.join(_ITEM_BYTES)}"],
            "convert it first",
        )
    return StoredTensor(name, dtype, tuple(view.get_shape()))


def write_shard(
    file: Path, tensors: Sequence[StoredTensor], value: Callable[[str], Tensor], metadata: Mapping[str, str]
) -> str:
    """Write a safetensors file whose tensors are made one after the other, with their digests.

    Args:
        file: Where to write.
        tensors: What it will hold, in this order.
        value: Makes a tensor of the described size; called once for each, and what it returned is let go
            before the next call.
        metadata: Words that the file carries.

    Returns:
        The digest of all that the file holds.

    Raises:
        ValueError: A value has another size than described.

    Example:
        >>> import tempfile, torch
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = Path(folder, "model.safetensors")
        ...     scale = torch.tensor([1.0, 2.0])
        ...     _ = write_shard(path, [StoredTensor("scale", "F32", (2,))], lambda name: scale, {})
        ...     open_shards(path)["scale"]
        tensor([1., 2.])
    """
    # The header comes first and the digests are known last: zeros of their length keep the place for them.
    digests = dict.fromkeys((tensor.name for tensor in tensors), "00" * DIGEST_BYTES)
    with file.open("wb") as out:
        out.write(_header(tensors, signed(metadata, digests)))
        for tensor in tensors:
            digests[tensor.name] = _write_values(out, tensor, value(tensor.name))
        out.seek(0)
        told = signed(metadata, digests)
        out.write(_header(tensors, told))
    return told[VALUES]


def _write_values(out: BinaryIO, described: StoredTensor, tensor: Tensor) -> str:
    written = out.write(raw(tensor))
    if written != described.size_bytes:
        raise ValueError(f"{described.name} has {written} bytes, described are {described.size_bytes}")
    return digest_of(described.name, tensor)


def _header(tensors: Sequence[StoredTensor], metadata: Mapping[str, str]) -> bytes:
    """What stands before the values: the length of the table, and the table."""
    table: dict[str, Any] = {"__metadata__": dict(metadata)}
    end = 0
    for tensor in tensors:
        start, end = end, end + tensor.size_bytes
        shape = list(tensor.shape)
        table[tensor.name] = {"dtype": tensor.dtype, "shape": shape, "data_offsets": [start, end]}
    text = json.dumps(table, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # values start at a multiple of eight bytes
    return len(text).to_bytes(8, "little") + text
