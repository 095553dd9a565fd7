"""Checkpoints with one tensor an expert, read as the models hold them: one tensor for all experts of a layer.

    experts.0.gate_proj.weight [f, h]  experts.0.up_proj.weight [f, h]    ->  experts.gate_up_proj [e, 2 f, h]
    experts.0.down_proj.weight [h, f]                                     ->  experts.down_proj    [e, h, f]

That is how transformers saves the mixtures of experts that it computes with one grouped product (its
`conversion_mapping.py`). Families that call the parts `w1`, `w3` and `w2` also call the block around the
experts otherwise; what lies in it under the same name is renamed with it. Nothing is told by shapes alone:
what has no name here stays as the file has it.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from secateur.write.shards import Shards, StoredTensor

PARTS = {"gate_up_proj": (("gate_proj", "up_proj"), ("w1", "w3")), "down_proj": (("down_proj",), ("w2",))}
"""By the name of a model's tensor: what lies on top of each other in it, in the words of each family."""

_SUFFIX = ".weight"


@dataclass(frozen=True)
class _Joined:
    """A tensor of the model.

    Attributes:
        parts: For each expert the stored tensors that lie on top of each other in it.
    """

    parts: tuple[tuple[str, ...], ...]


def joined_experts(shards: Shards, shapes: Mapping[str, Sequence[int]]) -> Shards:
    """Show a checkpoint under the names of a model.

    Args:
        shards: The checkpoint.
        shapes: The shape of each tensor of the model.

    Returns:
        The checkpoint itself if there is nothing to join, else one that joins experts when they are read.

    Example:
        >>> import tempfile
        >>> from safetensors.torch import save_file
        >>> from secateur.write.shards import open_shards
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     held = {f"experts.{at}.down_proj.weight": torch.ones(2, 3) for at in range(4)}
        ...     save_file(held, f"{folder}/model.safetensors")
        ...     joined = joined_experts(open_shards(folder), {"experts.down_proj": (4, 2, 3)})
        ...     joined["experts.down_proj"].shape
        torch.Size([4, 2, 3])
    """
    missing = {name: tuple(shape) for name, shape in shapes.items() if name not in shards.stored}
    stacks = _stacks(shards.stored)
    joined: dict[str, _Joined] = {}
    renamed: dict[str, str] = {}
    for name, shape in missing.items():
        found = _find(name, shape, stacks, shards.stored)
        if found is not None:
            block, parts = found
            joined[name] = parts
            renamed |= _renamed(block, name.rpartition(".")[0], shards.stored, missing)
    return _View(shards, joined, renamed) if joined else shards


def _stacks(stored: Mapping[str, StoredTensor]) -> dict[str, dict[str, list[str]]]:
    """By the prefix of some experts and the name of a part: the tensor of each expert, in order."""
    numbered: dict[str, dict[str, dict[int, str]]] = defaultdict(lambda: defaultdict(dict))
    for name in stored:
        prefix, _, part = name.removesuffix(_SUFFIX).rpartition(".")
        prefix, _, number = prefix.rpartition(".")
        if name.endswith(_SUFFIX) and number.isdecimal() and prefix:
            numbered[prefix][part][int(number)] = name
    return {
        prefix: {
            part: [by_number[at] for at in range(len(by_number))]
            for part, by_number in parts.items()
            if by_number.keys() == set(range(len(by_number)))
        }
        for prefix, parts in numbered.items()
    }


def _find(
    name: str,
    shape: tuple[int, ...],
    stacks: Mapping[str, Mapping[str, Sequence[str]]],
    stored: Mapping[str, StoredTensor],
) -> tuple[str, _Joined] | None:
    """The stored tensors that a tensor of the model is made of, and the prefix of their experts."""
    prefix, _, own = name.rpartition(".")
    for block, parts in stacks.items():
        for words in PARTS.get(own, ()) if _is_same_place(block, prefix) else ():
            if not all(word in parts for word in words):
                continue
            experts = tuple(zip(*(parts[word] for word in words), strict=False))
            made = _Joined(experts)
            if len({len(parts[word]) for word in words}) == 1 and _shape(made, stored) == shape:
                return block, made
    return None


def _is_same_place(block: str, prefix: str) -> bool:
    """Whether two prefixes of experts are one, or differ in the name of the block around them alone."""
    one, two = block.split("."), prefix.split(".")
    is_renamed = [*one[:-2], *one[-1:]] == [*two[:-2], *two[-1:]] and len(one) == len(two) > 2
    return block == prefix or (is_renamed and not (one[-2].isdecimal() or two[-2].isdecimal()))


def _shape(joined: _Joined, stored: Mapping[str, StoredTensor]) -> tuple[int, ...] | None:
    """The shape of a joined tensor; None if its parts do not fit each other."""
    shapes = {tuple(stored[part].shape for part in parts) for parts in joined.parts}
    kinds = {stored[part].dtype for parts in joined.parts for part in parts}
    if len(shapes) != 1 or len(kinds) != 1:
        return None
    (of_one,) = shapes
    if any(len(shape) != 2 or shape[1] != of_one[0][1] for shape in of_one):
        return None
    return (len(joined.parts), sum(shape[0] for shape in of_one), of_one[0][1])


def _renamed(
    block: str, prefix: str, stored: Mapping[str, StoredTensor], missing: Mapping[str, tuple[int, ...]]
) -> dict[str, str]:
    """What lies beside the experts under its name in a renamed block: by the model's name the stored one."""
    there, here = block.rpartition(".")[0], prefix.rpartition(".")[0]
    found = {name: there + name.removeprefix(here) for name in missing if name.startswith(f"{here}.")}
    return {
        name: other
        for name, other in found.items()
        if there != here and other in stored and stored[other].shape == missing[name]
    }


class _View(Shards):
    """A checkpoint under the names of a model."""

    def __init__(self, shards: Shards, joined: Mapping[str, _Joined], renamed: Mapping[str, str]) -> None:
        self.path, self.plan_hashes = shards.path, shards.plan_hashes
        self._shards, self._joined, self._renamed = shards, joined, renamed
        used = {part for one in joined.values() for parts in one.parts for part in parts}
        self.stored = {
            name: one for name, one in shards.stored.items() if name not in used | set(renamed.values())
        }
        for name, source in renamed.items():
            self.stored[name] = replace(shards.stored[source], name=name)
        for name, one in joined.items():
            shape = _shape(one, shards.stored)
            assert shape is not None, "it was found so"
            self.stored[name] = StoredTensor(name, shards.stored[one.parts[0][0]].dtype, shape)

    def __getitem__(self, name: str) -> Tensor:
        """Read one tensor; joined experts are in the memory together."""
        if name in self._joined:
            return torch.stack(
                [torch.cat([self._shards[part] for part in parts]) for parts in self._joined[name].parts]
            )
        return self._shards[self._renamed.get(name, name)]

    @property
    def files(self) -> tuple[Path, ...]:
        """The files, in order."""
        return self._shards.files
