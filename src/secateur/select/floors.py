"""Floors: what always stays of each group, however much a budget asks for.

floor(group) = max(1, ceil(n min_keep(group)), ceil(n (1 - at_most(group))))
"""

import fnmatch
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from math import ceil
from typing import Any, TypeAlias

from secateur.coupling import Group, Groups
from secateur.errors import RequestError, prefix_hint
from secateur.select.reading import read_share, read_shares

MinKeep: TypeAlias = float | str | Mapping[Any, float | str]
"""The share of each group that always stays, or shares by pattern."""

LEAST = 0.1
"""The share of each group that always stays unless something else is asked for."""

_ROUNDING = 1e-9
"""0.55 * 100 is a little more than 55."""


@dataclass(frozen=True)
class Floors:
    """The share of each group that always stays.

    Attributes:
        share: Of groups that no pattern fits.
        by_pattern: Of groups that a pattern fits; of several the largest.
        at_most: The share that may go at most, by pattern; of several the smallest.

    Example:
        >>> Floors.of({"stem": 0.5}, max_ratio=0.8)
        Floors(share=0.1, by_pattern={'stem': 0.5}, at_most={'*': 0.8})
    """

    share: float = LEAST
    by_pattern: Mapping[Any, float] = field(default_factory=dict)
    at_most: Mapping[Any, float] = field(default_factory=dict)

    @classmethod
    def of(cls, min_keep: "MinKeep | Floors", max_ratio: float | str = 1.0) -> "Floors":
        """Read what a user asks for.

        Args:
            min_keep: The share of each group that always stays, or shares by pattern.
            max_ratio: The share of each group that may go at most.

        Raises:
            RequestError: One of them is no share.
        """
        most = read_share("max_ratio", max_ratio, below_one=False)
        at_most = {"*": most} if most < 1 else {}
        if isinstance(min_keep, Floors):
            return min_keep.capped(at_most)
        if isinstance(min_keep, Mapping):
            return cls(LEAST, read_shares("min_keep", min_keep, below_one=False), at_most)
        return cls(read_share("min_keep", min_keep, below_one=False), {}, at_most)

    def capped(self, at_most: Mapping[Any, float]) -> "Floors":
        """These floors with further caps; where both cap a pattern the smaller counts."""
        both = {pattern: min(share, self.at_most.get(pattern, 1)) for pattern, share in at_most.items()}
        return Floors(self.share, self.by_pattern, {**self.at_most, **both})

    def of_group(self, group: Group) -> int:
        """How many channels of a group always stay, at least one."""
        named = [share for pattern, share in self.by_pattern.items() if group.matches(pattern)]
        capped = [1 - share for pattern, share in self.at_most.items() if group.matches(pattern)]
        stays = max([max(named, default=self.share), *capped])
        return min(max(1, ceil(stays * group.size - _ROUNDING)), group.size)

    def map(self, change: Callable[[float], float]) -> "Floors":
        """These floors with every share that stays changed.

        Example:
            >>> Floors(0.25, {}, {"stem": 0.75}).map(lambda share: share**0.5)
            Floors(share=0.5, by_pattern={}, at_most={'stem': 0.5})
        """
        return Floors(
            change(self.share),
            {pattern: change(share) for pattern, share in self.by_pattern.items()},
            {pattern: 1 - change(1 - share) for pattern, share in self.at_most.items()},
        )

    def fitting(self, groups: Iterable[Group]) -> "Floors":
        """These floors without the patterns that fit none of some groups."""
        held = list(groups)

        def fit(shares: Mapping[Any, float]) -> dict[Any, float]:
            return {
                pattern: share for pattern, share in shares.items() if any(g.matches(pattern) for g in held)
            }

        return Floors(self.share, fit(self.by_pattern), fit(self.at_most))


def require_fit(patterns: Iterable[str], word: str, groups: Groups, free: Collection[str]) -> None:
    """Refuse patterns that fit no group, or none that can be cut.

    Args:
        patterns: What the user named groups by.
        word: The word they stand after, for messages.
        groups: All groups.
        free: The names of those that can be cut.

    Raises:
        RequestError: Naming the pattern.
    """
    for pattern in patterns:
        fitting = [group for group in groups if group.matches(pattern)]
        if not fitting:
            near = [group.name for group in groups if fnmatch.fnmatch(group.name, f"*{pattern}*")]
            raise RequestError(
                f"{word} pattern '{pattern}' fits no group",
                [
                    *prefix_hint(groups.by_name, [pattern], "the model"),
                    f"groups: {', '.join((near or list(groups.by_name))[:8])}, ...",
                ],
                "give a group's name, or a pattern such as 'layer4.*'",
            )
        if not any(group.name in free for group in fitting):
            is_uneven = any((group.reason or "").startswith("uniform: no config") for group in fitting)
            lift = "leave uniform=True out" if is_uneven else "lift the protection, choose another criterion"
            raise RequestError(
                f"{word} pattern '{pattern}' fits no group that can be cut",
                [f"{group.name}: {group.reason or 'left alone'}" for group in fitting[:8]],
                f"{lift}, or leave the pattern out",
            )
