"""Keep: exactly what a user asks for, the indices of each group that stay."""

import operator
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from secateur.coupling import Group, Groups
from secateur.coupling.protect import Protected
from secateur.errors import RequestError
from secateur.plans.parts import Why
from secateur.select.budget import Budget, Naming, budget
from secateur.select.choice import Selection
from secateur.select.reading import shown


@budget("keep")
@dataclass(frozen=True)
class Keep(Budget):
    """Instead of a budget exactly the indices to keep, by group name; other groups stay whole.

    Criterion, scope, floors and rounding do not count then.

    Attributes:
        keep: The indices, by group.
    """

    keep: Mapping[Any, Sequence[int]] = field(default_factory=dict)

    takes = Mapping[Protected, Sequence[int]] | None
    names_groups = True
    not_in_steps = "it names positions of the uncut model"

    @classmethod
    def read(cls, given: Any) -> "Keep":
        """Read positions by group."""
        if not isinstance(given, Mapping):
            raise RequestError(f"keep is {given!r}", do="map names of groups to indices")
        return cls(keep={name: _positions(shown(name), indices) for name, indices in given.items()})

    def named(self, names: Naming) -> "Keep":
        """These positions by name."""
        return replace(self, keep=names(self.keep, self.kind))

    @property
    def asks_for_nothing(self) -> bool:
        """All may stay if that is what was named."""
        return True

    @property
    def parts(self) -> Mapping[str, float]:
        """How many stay by group."""
        return {name: len(kept) for name, kept in self.keep.items()}

    @classmethod
    def words(cls, value: float | None, is_share: bool, parts: Mapping[str, float]) -> str:
        """How many stay by group."""
        return f"keep={{{', '.join(f'{name}: {kept:g}' for name, kept in parts.items())}}}"

    def exactly(self, groups: Groups) -> Selection:
        """The positions, if the groups allow them."""
        return select_exactly(groups, self.keep)


def _positions(name: str, given: Any) -> tuple[int, ...]:
    """Positions, as whole numbers of Python, NumPy or PyTorch."""
    do = "list positions as whole numbers, such as [0, 2, 5]; of a mask, mask.nonzero() lists them"
    if isinstance(given, (str, bytes, Mapping)) or not isinstance(given, Iterable):
        raise RequestError(f"keep['{name}'] is {given!r}", do=do)
    found: list[int] = []
    for index in given:
        is_truth = str(getattr(index, "dtype", type(index).__name__)).removeprefix("torch.") == "bool"
        try:
            found.append(operator.index(index))
        except (TypeError, ValueError, RuntimeError):
            is_truth = True
        if is_truth:
            raise RequestError(f"keep['{name}'] holds {index!r}", do=do)
    return tuple(found)


def select_exactly(groups: Groups, keep: Mapping[str, Sequence[int]]) -> Selection:
    """Take a choice of kept positions as it is, if the groups allow it.

    Args:
        groups: The groups of the model.
        keep: Indices to keep by group name, in any order; groups not named stay whole.

    Returns:
        The choice, with the reason of every group that may not be cut.

    Raises:
        RequestError: A group is unknown or protected, indices are none, doubled or not of the group, groups
            that must keep equal counts would not, or a kernel wants a multiple.

    Example:
        >>> import torch, secateur as sc
        >>> model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Linear(8, 2))
        >>> print(select_exactly(sc.couple(model, torch.zeros(1, 4)), {"0": [0, 5, 7]}))
        3 channels of 1 groups stay; 3 of 3 asked
    """
    chosen = {name: _indices(groups[name], indices) for name, indices in keep.items()}
    for names, reason in groups.ties:
        counts = {name: len(chosen.get(name, range(groups[name].size))) for name in names}
        if not chosen.keys().isdisjoint(names) and len(set(counts.values())) > 1:
            raise RequestError(
                f"keep would leave other counts in {', '.join(f'{n} ({c})' for n, c in counts.items())}",
                [f"they must stay equal: {reason}"],
                "keep equally many of each of them",
            )
    left = float(sum(map(len, chosen.values())))
    reasons = {group.name: group.reason for group in groups if group.reason}
    why = dict.fromkeys(chosen, Why(decided="asked"))
    return Selection(keep=chosen, reasons=reasons, floored=(), wanted=left, reached=left, why=why)


def _indices(group: Group, indices: Sequence[int]) -> tuple[int, ...]:
    found = tuple(sorted(indices))
    if group.reason is not None and found != tuple(range(group.size)):
        raise RequestError(
            f"keep names group {group.name}, which may not be cut",
            [group.reason],
            "leave it out, or keep all of it",
        )
    if not found or len(set(found)) != len(found) or found[0] < 0 or found[-1] >= group.size:
        shown = ", ".join(map(str, found[:3])) + (", ..." if len(found) > 3 else "")
        raise RequestError(
            f"keep names {len(found)} positions of group {group.name}, which has {group.size}",
            [f"got: {shown or 'none'} up to {found[-1] if found else '-'}"],
            f"name each once, at least one, from 0 to {group.size - 1}",
        )
    if len(found) % group.multiple and len(found) < group.size:
        what = f"keep leaves {len(found)} positions of group {group.name}"
        raise RequestError(what, do=f"keep a multiple of {group.multiple}, which its kernel wants")
    return found
