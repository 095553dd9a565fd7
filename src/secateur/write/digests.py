"""Digests: a file of tensors says what they were when it was written, and is believed no further.

    secateur_digests   BLAKE2b of each tensor: its name, element type, shape and values
    secateur_values    BLAKE2b of all of these, and of everything else that the file says of itself

Both stand in the metadata of the safetensors file. A flipped bit, an edited element type, offsets that
changed places or a tensor that is missing are found when the file is read. A file that holds neither was
written by another program or an older version, and is taken as it is.

References:
    Aumasson et al., "BLAKE2: simpler, smaller, fast as MD5", ACNS 2013. https://www.blake2.net
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

import torch
from pydantic import TypeAdapter, ValidationError
from torch import Tensor

from secateur.errors import CheckpointError

DIGESTS, VALUES = "secateur_digests", "secateur_values"
DIGEST_BYTES = 16

_TABLE = TypeAdapter(dict[str, str])


def digest_of(name: str, tensor: Tensor) -> str:
    """Digest one tensor: name, element type, shape and values.

    Example:
        >>> one = torch.zeros(2, 3)
        >>> digest_of("weight", one) == digest_of("weight", one.clone())
        True
        >>> digest_of("weight", one) in [digest_of("weight", one.view(3, 2)), digest_of("bias", one)]
        False
    """
    digest = hashlib.blake2b(digest_size=DIGEST_BYTES)
    digest.update(json.dumps([name, str(tensor.dtype), list(tensor.shape)]).encode())
    digest.update(raw(tensor))
    return digest.hexdigest()


def signed(metadata: Mapping[str, str], digests: Mapping[str, str]) -> dict[str, str]:
    """Add the digests of tensors to what a file says of itself.

    Args:
        metadata: The words of the file.
        digests: By the name of each tensor.

    Example:
        >>> sorted(signed({"format": "pt"}, {"weight": "00ff"}))
        ['format', 'secateur_digests', 'secateur_values']
    """
    told = {**metadata, DIGESTS: json.dumps(dict(sorted(digests.items())))}
    return {**told, VALUES: _over(told)}


def digests_of(file: Path, metadata: Mapping[str, str]) -> dict[str, str] | None:
    """Read the digests that a file holds of its tensors; None where it holds none.

    Raises:
        CheckpointError: They do not belong to what else the file says of itself.
    """
    told = dict(metadata)
    total, table = told.pop(VALUES, None), told.get(DIGESTS)
    if total is None and table is None:
        return None
    try:
        if total is None or table is None or _over(told) != total:
            raise ValueError("what it says of itself was changed")
        return _TABLE.validate_json(table)
    except (ValidationError, ValueError) as error:
        raise _not_as_saved(file, "its header is not what was saved", []) from error


def require_same(file: Path, digests: Mapping[str, str] | None, tensors: Mapping[str, Tensor]) -> None:
    """Refuse tensors that are not those that were saved.

    Args:
        file: Where they were read from, for messages.
        digests: What `digests_of` found; None allows everything.
        tensors: All tensors of the file.

    Raises:
        CheckpointError: Naming the first that differs.
    """
    if digests is None:
        return
    missing = [f"{name} is missing" for name in digests if name not in tensors]
    added = [f"{name} was not saved with it" for name in tensors if name not in digests]
    other = [
        f"{name} is not what was saved"
        for name, tensor in tensors.items()
        if name in digests and digest_of(name, tensor) != digests[name]
    ]
    found = [*missing, *added, *other]
    if found:
        raise _not_as_saved(file, f"{len(found)} of its {len(digests)} tensors are not those saved", found)


def _not_as_saved(file: Path, what: str, context: list[str]) -> CheckpointError:
    return CheckpointError(
        f"cannot load {file}: {what}",
        ["the file was damaged or edited after it was written", *context],
        "save it again, or get it again; verify=False takes a model as it is",
    )


def _over(told: Mapping[str, str]) -> str:
    text = json.dumps(dict(sorted(told.items()))).encode()
    return hashlib.blake2b(text, digest_size=DIGEST_BYTES).hexdigest()


def raw(tensor: Tensor) -> memoryview | bytes:
    """The values of a tensor, row-major, without a copy where they lie so already."""
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    return flat.view(torch.uint8).numpy().data if flat.numel() else b""
