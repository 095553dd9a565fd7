"""Trials: random inputs of several sizes, with what the model makes of them.

A file into which a size was baked is right on the size that it was written with, and wrong on others. So it
is compared at two: that of the example, and one with another batch, image or length, if the model takes it.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from secateur.capture.inputs import as_call, cast_type, cloned
from secateur.capture.switches import as_written
from secateur.errors import CaptureError
from secateur.exports.format import Open
from secateur.exports.fresh import flatten

Sizes = Mapping[int, Mapping[int, int]]
"""New sizes by the number of a tensor among the flattened inputs and its dim."""

Places = tuple[tuple[int, int], ...]
"""Dims of tensors, as in `Open`."""

_OTHER_BATCH = 3


@dataclass(frozen=True, eq=False)
class Trial:
    """Inputs and what the model makes of them.

    Attributes:
        name: Their sizes, for people: "batch 3, 40x40".
        inputs: Of the form of the example.
        expected: The flattened tensors of the output.
    """

    name: str
    inputs: Any
    expected: tuple[Tensor, ...]


class Trials:
    """What a model makes of random inputs of the sizes that it takes.

    Args:
        model: A copy in eval mode that may be run: it is not exported afterwards.
        example_inputs: A tensor, a tuple of positional inputs or a dict of keyword inputs.
        seed: For the random inputs.

    Attributes:
        open: The sizes that may differ, and do not fail the model when they all do.

    Raises:
        CaptureError: The model does not run on the example, or computes no finite number.

    Example:
        >>> _ = torch.manual_seed(0)
        >>> trials = Trials(nn.Conv2d(3, 4, 3).eval(), torch.zeros(1, 3, 16, 16))
        >>> list(trials.open), [trial.name for trial in trials.of(trials.open)]
        (['batch', 'size'], ['batch 1, 16x16', 'batch 3, 32x48'])
    """

    def __init__(self, model: nn.Module, example_inputs: Any, seed: int = 0) -> None:
        self._model, self._example_inputs, self._seed = model, example_inputs, seed
        self._failure = ""
        self._first = self._run({})
        if self._first is None:
            raise CaptureError(
                f"the model does not run on its example inputs: {self._failure}",
                do="pass inputs that model(*inputs) accepts in eval mode",
            )
        places: dict[str, Places] = {}
        self._sizes: dict[str, Sizes] = {}
        for role, where, candidates in _roles(example_inputs):
            found = next((sizes for sizes in candidates if self._run(sizes) is not None), None)
            if found is not None and role not in places:
                places[role], self._sizes[role] = where, found
        everything = list(places)
        without_batch = [role for role in everything if role != "batch"]
        chosen = next(
            (roles for roles in (everything, without_batch, ["batch"]) if roles and self._changed(roles)), []
        )
        self.open: Open = {role: places[role] for role in chosen}

    def of(self, roles: Iterable[str]) -> list[Trial]:
        """Trials at the sizes of the example, and with some sizes changed at once.

        Args:
            roles: Names of sizes of `open`; without one, other numbers of the same sizes come second.
        """
        assert self._first is not None
        roles = list(roles)
        other = self._changed(roles) if roles else self._run({}, again=True)
        return [self._first, *([other] if other is not None else [])]

    def _changed(self, roles: Iterable[str]) -> Trial | None:
        sizes: dict[int, dict[int, int]] = {}
        for role in roles:
            for at, dims in self._sizes.get(role, {}).items():
                sizes.setdefault(at, {}).update(dims)
        return self._run(sizes)

    def _run(self, sizes: Sizes, *, again: bool = False) -> Trial | None:
        """The outputs on random numbers, else on those of the example; None if the model runs on neither."""
        other = resized(self._example_inputs, sizes)
        generator = torch.Generator().manual_seed(self._seed + again)
        random = pytree.tree_map(lambda leaf: _drawn(leaf, generator), other)
        for inputs in (random, other):
            try:
                expected = computed(self._model, inputs)
            except Exception as error:  # noqa: BLE001 - a model may raise anything on a size it does not take
                self._failure = f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0][:200]}"
                continue
            if any(_has_numbers(one) for one in expected):
                return Trial(describe(inputs) + ", again" * again, inputs, expected)
            self._failure = "its outputs hold no finite number"
        return None


def computed(run: Callable[..., Any], inputs: Any) -> tuple[Tensor, ...]:
    """The flattened tensors of what a model makes of inputs, or what was read back of it; all are copies."""
    args, kwargs = as_call(cloned(inputs))
    with torch.no_grad(), torch.random.fork_rng([]), as_written():
        return tuple(one.detach().clone() for one in flatten(run(*args, **kwargs)))


def resized(example_inputs: Any, sizes: Sizes, *, at_least: bool = False) -> Any:
    """Inputs with other sizes: cut off, or filled up with what they begin with.

    Args:
        example_inputs: Of a model.
        sizes: The new ones.
        at_least: Leave sizes that are larger.

    Example:
        >>> resized((torch.arange(3), 1), {0: {0: 5}})[0].tolist()
        [0, 1, 2, 0, 1]
    """
    leaves, form = pytree.tree_flatten(example_inputs)
    tensors = [at for at, leaf in enumerate(leaves) if isinstance(leaf, Tensor)]
    for number, dims in sizes.items():
        leaf = leaves[tensors[number]]
        for dim, size in dims.items():
            size = max(size, leaf.shape[dim]) if at_least else size
            if leaf.shape[dim] != size:
                leaf = leaf.index_select(dim, torch.arange(size, device=leaf.device) % leaf.shape[dim])
        leaves[tensors[number]] = leaf
    return pytree.tree_unflatten(leaves, form)


def describe(inputs: Any) -> str:
    """The sizes of inputs for people.

    Example:
        >>> describe({"ids": torch.zeros(2, 7, dtype=torch.long)}), describe(torch.zeros(2, 3, 8, 9))
        ('batch 2, length 7', 'batch 2, 8x9')
    """
    leaves = [leaf for leaf in pytree.tree_leaves(inputs) if isinstance(leaf, Tensor) and leaf.dim()]
    words = [f"batch {leaves[0].shape[0]}"] if leaves else ["no batch"]
    for leaf in leaves:
        if leaf.is_floating_point() and leaf.dim() > 3:
            words.append(f"{leaf.shape[-2]}x{leaf.shape[-1]}")
        elif leaf.dim() == 3 or (leaf.dim() == 2 and not leaf.is_floating_point()):
            words.append(f"length {leaf.shape[2] if leaf.shape[1] < leaf.shape[-1] else leaf.shape[1]}")
    return ", ".join(dict.fromkeys(words))


def _roles(example_inputs: Any) -> Iterator[tuple[str, Places, list[Sizes]]]:
    """Sizes that a model may take other ones of: a name, the dims, and new sizes to try in turn."""
    leaves = [leaf for leaf in pytree.tree_leaves(example_inputs) if isinstance(leaf, Tensor)]
    batch = next(leaf.shape[0] for leaf in leaves if leaf.dim()) if any(leaf.dim() for leaf in leaves) else 0
    if batch:
        places = tuple((at, 0) for at, leaf in enumerate(leaves) if leaf.dim() and leaf.shape[0] == batch)
        yield "batch", places, [_all(places, _OTHER_BATCH if batch != _OTHER_BATCH else 2)]
    images = [at for at, leaf in enumerate(leaves) if leaf.is_floating_point() and leaf.dim() in (4, 5)]
    if images:
        places = tuple((at, leaves[at].dim() + dim) for at in images for dim in (-2, -1))
        yield "size", places, [_new_sides(leaves, images, new) for new in (_oblong, _other_side, _doubled)]
    for dim in (1, 2):
        held = [leaf.shape[dim] for leaf in leaves if _has_length(leaf, dim)]
        for length in held[:1]:
            places = tuple(
                (at, other)
                for at, leaf in enumerate(leaves)
                for other in range(1, leaf.dim())
                if at not in images and leaf.shape[other] == length and (other == dim or leaf.dim() > 3)
            )
            yield (
                "length",
                places,
                [_all(places, new) for new in (length + 3, length - 3, length // 2, 2 * length) if new > 1],
            )


def _has_length(leaf: Tensor, dim: int) -> bool:
    """Whether a dim of a tensor may be the length of a sequence: tokens, or vectors before or behind it."""
    if leaf.is_floating_point():
        return leaf.dim() == 3
    return leaf.dim() == 2 and dim == 1


def _all(places: Places, size: int) -> dict[int, dict[int, int]]:
    found: dict[int, dict[int, int]] = {}
    for at, dim in places:
        found.setdefault(at, {})[dim] = size
    return found


def _new_sides(leaves: Sequence[Tensor], images: Iterable[int], new: Callable[[int, int], int]) -> Sizes:
    return {
        at: {leaves[at].dim() + dim: new(leaves[at].shape[dim], dim) for dim in (-2, -1)} for at in images
    }


_SMALL = 64


def _other_side(side: int, dim: int = -2) -> int:
    """About a quarter, in steps of 32 that networks with strides take; small sides grow instead."""
    if side > _SMALL:
        return max(_SMALL, side // 4 // 32 * 32)
    return side + 32 if side > 32 else 2 * side


def _oblong(side: int, dim: int) -> int:
    """Likewise, with the two sides unlike each other."""
    return _other_side(side) + (min(32, side) if dim == -1 else 0)


def _doubled(side: int, dim: int) -> int:
    return 2 * side


def _drawn(leaf: Any, generator: torch.Generator) -> Any:
    """Random numbers like those of a tensor: real ones normal, or in its range if that begins at zero.

    Others (token ids, masks) are picked from those that the example has.
    """
    if not isinstance(leaf, Tensor) or not leaf.numel():
        return leaf
    if leaf.is_complex() or leaf.is_floating_point():
        kind = cast_type(leaf, torch.float64)
        normal = torch.randn(leaf.shape, generator=generator, dtype=kind)
        if leaf.is_floating_point() and float(leaf.min()) >= 0 and float(leaf.min()) < float(leaf.max()):
            normal = torch.rand(leaf.shape, generator=generator, dtype=kind) * float(leaf.max())
        return normal.to(leaf.dtype)
    picked = torch.randint(leaf.numel(), leaf.shape, generator=generator)
    return leaf.flatten()[picked]


def _has_numbers(tensor: Tensor) -> bool:
    if not (tensor.is_floating_point() or tensor.is_complex()):
        return bool(tensor.numel())
    return bool(tensor.isfinite().any())
