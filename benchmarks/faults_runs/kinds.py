"""The kinds of wrong cut: each lists the faults that one tensor or number of a right cut can be given."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from math import prod, sqrt
from random import Random
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from secateur.cut.slicing import set_field
from secateur.graph.axes import Expr, Product, Sum, leaves, resolve
from secateur.graph.keep import count, positions

Plant = Callable[[nn.Module, nn.Module], nn.Module]
"""From the uncut model and its right cut to the wrong cut; may change the right one."""

FACTOR = 1.01
"""By how much a tensor of the kind "scaled" is too large."""

_UNREAD = {"in_features", "out_features", "in_channels", "out_channels", "num_features", "embedding_dim"}
"""Sizes that `torch.nn` writes down and no forward reads."""

_TRAINING = {"p", "momentum", "drop_prob", "dropout", "drop", "attn_drop", "layerdrop", "activation_dropout"}
"""Numbers that count in training only."""


@dataclass(frozen=True)
class Fault:
    """One wrong cut.

    Attributes:
        kind: A name from `KINDS`.
        where: The tensor and its dim, or the number.
        what: What is wrong there, in words.
        plant: Makes the wrong cut.
        tensor: The tensor that is wrong; empty where a number is.
    """

    kind: str
    where: str
    what: str
    plant: Plant
    tensor: str = ""


@dataclass(frozen=True)
class Cut:
    """A model that was cut rightly.

    Attributes:
        model: The uncut model.
        cut: The cut one.
        groups: The groups of the uncut model.
        plan: What was kept.
    """

    model: nn.Module
    cut: nn.Module
    groups: Any
    plan: Any

    @cached_property
    def members(self) -> list[tuple[str, int, np.ndarray, int]]:
        """Of each dim that was cut: tensor, dim, kept positions, size before."""
        return [
            (name, dim, np.flatnonzero(mask), len(mask))
            for name in self.plan.tensors
            for dim, mask in enumerate(self.plan.masks(name))
            if not mask.all()
        ]

    @cached_property
    def counts(self) -> dict[Any, int]:
        """What is left of each axis."""
        return {self.groups[group.name].axis: len(group.keep) for group in self.plan.groups}


def tensors_of(model: nn.Module) -> dict[str, Tensor]:
    """All parameters and buffers by name, tied ones by each name."""
    named: dict[str, Tensor] = dict(model.named_parameters(remove_duplicate=False))
    named.update(model.named_buffers(remove_duplicate=False))
    return named


def write(cut: nn.Module, name: str, values: Tensor) -> nn.Module:
    """Put values into a tensor of a model, in place."""
    with torch.no_grad():
        held = tensors_of(cut)[name]
        held.copy_(values.to(held.dtype))
    return cut


def _reindexed(right: Cut, kind: str, member: tuple[str, int, Any, int], wrong: Any, what: str) -> Fault:
    """A member that holds other positions of the uncut tensor than those that were kept."""
    name, dim = member[:2]
    kept = [np.flatnonzero(mask) for mask in right.plan.masks(name)]
    kept[dim] = np.asarray(wrong)

    def plant(model: nn.Module, cut: nn.Module) -> nn.Module:
        taken = tensors_of(model)[name].detach()
        for at, index in enumerate(kept):
            taken = taken.index_select(at, torch.from_numpy(index))
        return write(cut, name, taken)

    return Fault(kind, f"{name}[{dim}]", what, plant, name)


def swap(right: Cut, rng: Random) -> Iterator[Fault]:
    """Two kept positions of one member have changed places."""
    for member in right.members:
        kept = member[2].copy()
        if len(kept) > 1:
            one, two = sorted(rng.sample(range(len(kept)), 2))
            kept[[one, two]] = kept[[two, one]]
            yield _reindexed(right, "swap", member, kept, f"positions {one} and {two} swapped")


def shift(right: Cut, rng: Random) -> Iterator[Fault]:
    """The slice of one member is off by one."""
    for member in right.members:
        _, _, kept, size = member
        wrong = np.minimum(kept + 1, size - 1) if kept[-1] + 1 < size or kept[0] == 0 else kept - 1
        yield _reindexed(right, "shift", member, wrong, "kept positions off by one")


def other(right: Cut, rng: Random) -> Iterator[Fault]:
    """One member lost another channel than the rest of its group."""
    for member in right.members:
        _, _, kept, size = member
        wrong = kept.copy()
        at = rng.randrange(len(kept))
        wrong[at] = rng.choice(np.setdiff1d(np.arange(size), kept).tolist())
        yield _reindexed(right, "other", member, wrong, f"position {at} holds {wrong[at]}, not {kept[at]}")


def heads(right: Cut, rng: Random) -> Iterator[Fault]:
    """Two blocks of a product of axes, heads, have changed places in one member."""
    for member in right.members:
        name, dim, kept, _ = member
        for start, outer, inner in _blocks(right.groups.dims(name)[dim], right.counts):
            one, two = sorted(rng.sample(range(outer), 2))
            order = np.arange(outer * inner).reshape(outer, inner)
            order[[one, two]] = order[[two, one]]
            wrong = kept.copy()
            wrong[start : start + outer * inner] = kept[start + order.reshape(-1)]
            yield _reindexed(right, "heads", member, wrong, f"blocks {one} and {two} of {outer} swapped")


def together(right: Cut, rng: Random) -> Iterator[Fault]:
    """Two kept positions of a whole group have changed places in all of its members."""
    for group in right.plan.groups:
        if 1 < len(group.keep) < group.size:
            one, two = sorted(rng.sample(group.keep, 2))
            held = right.groups[group.name].axis
            orders = {}
            for name in right.plan.tensors:
                exprs = right.groups.dims(name)
                if any(leaf is held for expr in exprs for leaf in leaves(expr)):
                    orders[name] = [_exchanged(expr, held, one, two) for expr in exprs]

            def plant(model: nn.Module, cut: nn.Module, orders: Any = orders) -> nn.Module:
                for name, order in orders.items():
                    taken = tensors_of(model)[name].detach()
                    for at, mask in enumerate(right.plan.masks(name)):
                        taken = taken.index_select(at, torch.from_numpy(order[at][mask]))
                    write(cut, name, taken)
                return cut

            yield Fault(
                "together", group.name, f"positions {one} and {two} swapped", plant, next(iter(orders))
            )


def _exchanged(expr: Expr, held: Any, one: int, two: int) -> Any:
    """The positions of a dim in which two positions of one of its axes have changed places."""
    order, places = np.arange(expr.size), positions(expr, held)
    order[places[one]], order[places[two]] = places[two], places[one]
    return order


def _blocks(expr: Expr, counts: dict[Any, int], start: int = 0) -> Iterator[tuple[int, int, int]]:
    """Of every product in a dim after the cut: where it begins, how many blocks, how large each."""
    expr = resolve(expr)
    if isinstance(expr, Sum):
        for term in expr.terms:
            yield from _blocks(term, counts, start)
            start += count(term, counts)
    elif isinstance(expr, Product) and expr.factors:
        outer, *rest = (count(factor, counts) for factor in expr.factors)
        if outer > 1 and prod(rest) > 1:
            yield start, outer, prod(rest)


def first(right: Cut, rng: Random) -> Iterator[Fault]:
    """A buffer was forgotten: it holds the first positions, not the kept ones."""
    buffers = {name for name, _ in right.model.named_buffers(remove_duplicate=False)}
    for member in right.members:
        name, _, kept, _ = member
        if name in buffers and kept[-1] >= len(kept):
            yield _reindexed(
                right, "first", member, np.arange(len(kept)), "the first positions, not the kept"
            )


def bias(right: Cut, rng: Random) -> Iterator[Fault]:
    """A vector was taken from another layer."""
    vectors = [(name, held) for name, held in right.cut.named_parameters() if held.dim() == 1]
    for name, held in vectors:
        same = [two for two, other_held in vectors if two != name and other_held.shape == held.shape]
        if same:
            chosen = rng.choice(same)

            def plant(model: nn.Module, cut: nn.Module, name: str = name, chosen: str = chosen) -> nn.Module:
                return write(cut, name, tensors_of(cut)[chosen].detach().clone())

            yield Fault("bias", name, f"holds what {chosen} holds", plant, name)


def scaled(right: Cut, rng: Random) -> Iterator[Fault]:
    """A tensor holds the kept positions, all one percent too large."""
    tensors = tensors_of(right.cut)
    for name in right.plan.tensors:
        if tensors[name].is_floating_point():

            def plant(model: nn.Module, cut: nn.Module, name: str = name) -> nn.Module:
                return write(cut, name, tensors_of(cut)[name].detach() * FACTOR)

            yield Fault("scaled", name, f"values times {FACTOR}", plant, name)


def zeroed(right: Cut, rng: Random) -> Iterator[Fault]:
    """A kept position of one member holds zeros."""
    for name, dim, kept, _ in right.members:
        at = rng.randrange(len(kept))

        def plant(
            model: nn.Module, cut: nn.Module, name: str = name, dim: int = dim, at: int = at
        ) -> nn.Module:
            values = tensors_of(cut)[name].detach().clone()
            return write(cut, name, values.index_fill_(dim, torch.tensor([at]), 0))

        yield Fault("zeroed", f"{name}[{dim}]", f"position {at} is zero", plant, name)


def integer(right: Cut, rng: Random) -> Iterator[Fault]:
    """An integer of the model's Python did not follow the cut, or followed to a wrong number."""
    followed = right.plan.attributes
    for module, sizes in followed.items():
        for path in sizes:
            now = _field(right.cut, module, path)
            was = _field(right.model, module, path)
            if type(now) is int and path not in _UNREAD:
                for wrong in dict.fromkeys((was, now + 1, now * 2, max(now // 2, 1))):
                    if wrong != now:
                        yield _numbered("integer", module, path, now, wrong)
    for module, held in right.cut.named_modules():
        for path, now in vars(held).items():
            if type(now) is int and now > 0 and path not in _UNREAD and path not in followed.get(module, {}):
                yield _numbered("integer", module, path, now, rng.choice((now + 1, now * 2)))


def number(right: Cut, rng: Random) -> Iterator[Fault]:
    """A number of the model's Python follows the width though it must not: a scale, an epsilon."""
    for module, held in right.cut.named_modules():
        for path, now in vars(held).items():
            if type(now) is float and now not in (0.0, float("inf")) and path not in _TRAINING:
                yield _numbered("number", module, path, now, now * sqrt(2))


def _field(model: nn.Module, module: str, path: str) -> Any:
    held: Any = model.get_submodule(module)
    for name in path.split("."):
        held = held[int(name)] if isinstance(held, (tuple, list)) else getattr(held, name, None)
    return held


def _numbered(kind: str, module: str, path: str, now: float, wrong: float) -> Fault:
    def plant(model: nn.Module, cut: nn.Module) -> nn.Module:
        set_field(cut.get_submodule(module), path.split("."), wrong)
        return cut

    return Fault(kind, f"{module}.{path}".lstrip("."), f"{wrong:.4g} instead of {now:.4g}", plant)


def correction(right: Cut, rng: Random) -> Iterator[Fault]:
    """The corrections of one module's code were dropped."""
    for module, changes in right.plan.corrections.items():
        left = {name: held for name, held in right.plan.corrections.items() if name != module}
        plan = right.plan.model_copy(update={"corrections": left})

        def plant(model: nn.Module, cut: nn.Module, plan: Any = plan) -> nn.Module:
            return plan.apply(model)

        yield Fault("correction", module, f"{len(changes)} corrections dropped", plant)


KINDS: dict[str, Callable[[Cut, Random], Iterator[Fault]]] = {
    "swap": swap,
    "shift": shift,
    "other": other,
    "heads": heads,
    "together": together,
    "first": first,
    "bias": bias,
    "scaled": scaled,
    "zeroed": zeroed,
    "integer": integer,
    "number": number,
    "correction": correction,
}
"""Every kind of fault by its name."""

OF_NUMBERS = ("integer", "number", "correction")
"""Kinds that change no tensor: the wrong cut may not run, or read no such number, and then is no fault."""


def wrong_cuts(right: Cut, kind: str, network: str) -> list[Fault]:
    """The faults of one kind in an order that depends on the network's name alone."""
    rng = Random(f"{network}/{kind}")
    found = list(KINDS[kind](right, rng))
    rng.shuffle(found)
    return found
