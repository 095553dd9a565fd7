"""Does a plan that was read contradict itself? What its text says is checked before anything is made of it.

A dim of a tensor is an expression over groups; its size follows from theirs, and must be the one that the
plan says the tensor has. So a number that was edited or damaged is found where it stands, and no group can
ask for more memory than the tensors that hold it.
"""

from collections.abc import Iterator, Mapping
from math import prod
from typing import Protocol

from secateur.errors import CheckpointError
from secateur.plans.parts import Factors, PlanGroup, Spec

_LARGEST = 2**31
"""No dim of a tensor has as many positions."""


class _Parts(Protocol):
    """What of a plan is compared; see `Plan`."""

    @property
    def shapes(self) -> Mapping[str, tuple[int, ...]]: ...
    @property
    def groups(self) -> tuple[PlanGroup, ...]: ...
    @property
    def tensors(self) -> Mapping[str, tuple[Spec, ...]]: ...
    @property
    def attributes(self) -> Mapping[str, Mapping[str, Spec | tuple[Spec, ...]]]: ...
    @property
    def previous(self) -> "_Parts | None": ...
    @property
    def dropped(self) -> tuple[str, ...]: ...


def require_consistent(plan: _Parts, origin: str) -> None:
    """Refuse a plan whose parts do not fit together.

    Args:
        plan: What was read.
        origin: Where from, for messages.

    Raises:
        CheckpointError: Naming the first part that does not fit.
    """
    found = next(_misfits(plan), None)
    if found is not None:
        what, do = found
        raise CheckpointError(f"cannot read {origin}: {what}", do=do)
    if plan.previous is not None:
        require_consistent(plan.previous, origin)


def size_of(spec: Spec, sizes: Mapping[str, int]) -> int:
    """The size of an expression over groups.

    Args:
        spec: The expression.
        sizes: By group.

    Raises:
        KeyError: A group is unknown.

    Example:
        >>> size_of(Factors(product=("heads", 49)), {"heads": 2})
        98
    """
    if isinstance(spec, int):
        return spec
    if isinstance(spec, str):
        return sizes[spec]
    if isinstance(spec, Factors):
        return prod(size_of(part, sizes) for part in spec.product)
    return sum(size_of(part, sizes) for part in spec.sum)


def _misfits(plan: _Parts) -> Iterator[tuple[str, str]]:
    do = "it was edited or damaged; save the model again"
    dims = [size for shape in plan.shapes.values() for size in shape]
    largest = max(dims, default=0)
    if not all(0 <= size < _LARGEST for size in dims):
        yield f"a tensor has a dim of {largest if largest >= _LARGEST else min(dims)} positions", do
    for group in plan.groups:
        keep = group.keep
        if not keep or list(keep) != sorted(set(keep)) or keep[-1] >= group.size:
            kept = f"{list(keep[:3])}...{list(keep[-3:])}"
            what = f"group {group.name} has {group.size} channels and keeps {kept}"
            yield what, "keep must be ascending, without repeats, and not empty"
        if group.size > largest:
            yield f"group {group.name} has {group.size} channels, the largest dim of a tensor {largest}", do
    sizes = {group.name: group.size for group in plan.groups}
    if len(sizes) < len(plan.groups):
        yield "two groups have one name", do
    try:
        yield from _wrong_sizes(plan, sizes, do)
    except KeyError as error:
        yield f"it speaks of group {error}, which it does not have", do


def _wrong_sizes(plan: _Parts, sizes: Mapping[str, int], do: str) -> Iterator[tuple[str, str]]:
    for name, specs in plan.tensors.items():
        made = tuple(size_of(spec, sizes) for spec in specs)
        if made != plan.shapes.get(name):
            yield f"{name} is {list(plan.shapes.get(name, ()))}, its expressions make {list(made)}", do
    for module, attributes in plan.attributes.items():
        for name, spec in attributes.items():
            made = tuple(size_of(one, sizes) for one in (spec if isinstance(spec, tuple) else (spec,)))
            if not all(0 <= size < _LARGEST**2 for size in made):
                yield f"{module}.{name} is {list(made)}", do
    previous = plan.previous
    if previous is None or previous.dropped:
        return
    kept = {group.name: len(group.keep) for group in previous.groups}
    for name, specs in previous.tensors.items():
        left = tuple(size_of(spec, kept) for spec in specs)
        if name in plan.shapes and left != plan.shapes[name]:
            now = list(plan.shapes[name])
            yield f"the plan before leaves {list(left)} of {name}, this one cuts {now}", do
