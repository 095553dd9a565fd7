"""What a check found."""

from dataclasses import dataclass, field
from typing import Literal

from secateur.graph.node import Node


@dataclass(frozen=True)
class Verdict:
    """What a check found.

    Attributes:
        relative_error: Largest difference between a result of the masked original and of the cut model,
            over the scale of its channel, at the operator that comes nearest to its tolerance; infinite if
            the cut model does not run.
        tolerance: What it must stay below there.
        renormalised_by: Operators that take statistics over a cut axis; there the reference takes them over
            the kept positions.
        nodes: Operators compared one by one by shape.
        failure: Why the check failed; None if it passed.
        limits: What could not be proven, or only loosely, with the reason; empty as a rule.
        compared: Operators whose results were compared number by number; the others make no real numbers.
        node: The first operator that differs; None if none does.
        suspects: The cut groups on which it depends.

    Example:
        >>> print(Verdict(relative_error=3e-16, tolerance=1e-9, nodes=69, compared=69))
        exact: masked == cut within 3e-16 (69 of 69 operators compared by number)
    """

    relative_error: float
    tolerance: float
    renormalised_by: tuple[str, ...] = ()
    nodes: int = 0
    failure: str | None = None
    limits: tuple[str, ...] = ()
    compared: int = 0
    node: Node | None = field(default=None, repr=False, compare=False)
    suspects: tuple[str, ...] = ()

    @property
    def exact(self) -> bool:
        """The cut model computes what the masked one does."""
        return self.passed and not self.renormalised_by

    @property
    def renormalised(self) -> bool:
        """It does, with statistics taken over the kept positions."""
        return self.passed and bool(self.renormalised_by)

    @property
    def passed(self) -> bool:
        """Exact or renormalised."""
        return self.failure is None

    @property
    def error(self) -> str | None:
        """Why the check failed; None if it passed."""
        return self.failure

    @property
    def status(self) -> Literal["exact", "renormalised", "failed"]:
        """One word: "exact", "renormalised" or "failed"."""
        if not self.passed:
            return "failed"
        return "renormalised" if self.renormalised_by else "exact"

    def __str__(self) -> str:
        if self.failure:
            return f"failed: {self.failure}"
        text = f"{self.status}: masked == cut within {self.relative_error:.1g}"
        text += f" ({self.compared} of {self.nodes} operators compared by number)"
        if self.renormalised_by:
            more = f" and {len(self.renormalised_by) - 1} more" if len(self.renormalised_by) > 1 else ""
            text += f"; {self.renormalised_by[0]}{more}"
        return "; ".join((text, *self.limits))
