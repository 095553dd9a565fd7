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

    Raises:
        RequestError: It is neither.
    """

    value: float
    is_total: bool = False

    def __post_init__(self) -> None:
        name = "sparsity" if self.is_total else "amount"
        is_number = isinstance(self.value, numbers.Real) and not isinstance(self.value, bool)
        if not is_number or self.value < 0 or (not self.is_count and not self.value <= 1):
            raise RequestError(
                f"{name} is {self.value!r}",
                ["a share lies in [0, 1], a count is an integer of at least 0"],
                "pass a share such as 0.2 or a count such as 20",
            )

    @property
    def is_count(self) -> bool:
        """Whether it is a count rather than a share."""
        return isinstance(self.value, numbers.Integral)

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
        wanted = int(self.value) if self.is_count else round(self.value * (units if self.is_total else alive))
        if self.is_total:
            return max(wanted - (units - alive), 0)
        if wanted > alive:
            raise RequestError(
                f"amount is {wanted:,}, {alive:,} are left to mask", do="pass a smaller count, or a share"
            )
        return wanted


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
    is_total = amount is None
    asked = sparsity if amount is None else amount
    if not isinstance(asked, Mapping):
        assert asked is not None, "one of the two is given"
        return [Amount(asked, is_total)] * len(names)
    found = dict.fromkeys(names, Amount(0))
    for pattern, value in asked.items():
        fitting = [name for name in names if _fits(name, pattern)]
        if not fitting:
            raise RequestError(
                f"'{pattern}' in amount fits no chosen tensor", [f"chosen: {', '.join(names[:8])}"], "mend it"
            )
        found.update(dict.fromkeys(fitting, Amount(value, is_total)))
    return [found[name] for name in names]


def _fits(name: str, pattern: str) -> bool:
    return fnmatch.fnmatchcase(name, pattern) or fnmatch.fnmatchcase(name.rpartition(".")[0], pattern)
