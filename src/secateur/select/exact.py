"""Exactly what a user asks for: the indices to keep of each group, instead of a budget."""

from collections.abc import Mapping, Sequence

from secateur.coupling import Group, Groups
from secateur.errors import RequestError
from secateur.select.rank import Selection

__all__ = ["select_exactly"]


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
    return Selection(keep=chosen, reasons=reasons, floored=(), wanted=left, reached=left)


def _indices(group: Group, indices: Sequence[int]) -> tuple[int, ...]:
    found = tuple(sorted(int(index) for index in indices))
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
