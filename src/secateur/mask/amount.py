"""How much is masked: a share or a count of what is left, or a sparsity to reach."""

import fnmatch
import numbers
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from secateur.errors import RequestError


@dataclass(frozen=True)
class Amount:
    """How many more units to mask.

    Attributes:
        value: A share in [0, 1] or a count.
        is_total: The share or count includes what is masked already; else it is of what is left, as in
            `torch.nn.utils.prune`.
    """

    value: float
    is_total: bool = False

    def count(self, units: int, alive: int) -> int:
        """How many of the units that are alive go.

        Raises:
            RequestError: More than there are.

        Example:
            >>> Amount(0.2).count(100, 50), Amount(7).count(100, 50)
            (10, 7)
            >>> Amount(0.8, is_total=True).count(100, 50)
            30
        """
        if self.is_total:
            wanted = self.value if isinstance(self.value, numbers.Integral) else round(self.value * units)
            return max(int(wanted) - (units - alive), 0)
        found = self.value if isinstance(self.value, numbers.Integral) else round(self.value * alive)
        if found > alive:
            raise RequestError(
                f"amount is {int(found):,}, {alive:,} are left to mask", do="pass a smaller count, or a share"
            )
        return int(found)


def read_amounts(
    amount: float | Mapping[str, float] | None,
    sparsity: float | Mapping[str, float] | None,
    names: Sequence[str],
) -> list[Amount]:
    """Read what was asked for, for each tensor.

    Args:
        amount: Share or count of what is left; or by name pattern, the last that fits counting. Tensors that
            fit none stay as they are.
        sparsity: Instead: share or count of all, what is masked already included.
        names: The tensors.

    Raises:
        RequestError: Both or none are given, a share is outside of [0, 1], or a pattern fits nothing.
    """
    if (amount is None) == (sparsity is None):
        given = "neither amount nor sparsity is" if amount is None else "both amount and sparsity are"
        raise RequestError(f"{given} given", do="pass one of them, such as amount=0.2")
    asked = amount if sparsity is None else sparsity
    is_total = sparsity is not None
    if not isinstance(asked, Mapping):
        assert asked is not None, "one of the two is given"
        return [_checked(asked, is_total)] * len(names)
    for pattern in asked:
        if not any(_fits(name, pattern) for name in names):
            raise RequestError(
                f"'{pattern}' in amount fits no chosen tensor", [f"chosen: {', '.join(names[:8])}"], "mend it"
            )
    found = []
    for name in names:
        fitting = [value for pattern, value in asked.items() if _fits(name, pattern)]
        found.append(_checked(fitting[-1], is_total) if fitting else Amount(0))
    return found


def _fits(name: str, pattern: str) -> bool:
    return fnmatch.fnmatchcase(name, pattern) or fnmatch.fnmatchcase(name.rpartition(".")[0], pattern)


def _checked(value: float, is_total: bool) -> Amount:
    name = "sparsity" if is_total else "amount"
    if not isinstance(value, numbers.Real) or isinstance(value, bool):
        raise RequestError(f"{name} is {value!r}", do="pass a share such as 0.2 or a count such as 20")
    if value < 0 or (not isinstance(value, numbers.Integral) and not value <= 1):
        raise RequestError(
            f"{name} is {value}",
            ["a share lies in [0, 1], a count is an integer of at least 0"],
            "pass a share such as 0.2 or a count such as 20",
        )
    return Amount(value, is_total)
