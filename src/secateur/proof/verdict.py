"""What a check found."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Verdict:
    """What a check found.

    Attributes:
        relative_error: Largest difference between masked and cut output over the largest output, the worst of
            the real and the randomised parameters; infinite if the cut model does not run.
        tolerance: What it must stay below.
        renormalised_by: Operators that take statistics over a cut axis; there the reference takes them over
            the kept positions.
        nodes: Operators compared one by one by shape.
        failure: Why the check failed; None if it passed.
        limits: What could not be proven, with the reason; empty as a rule.

    Example:
        >>> print(Verdict(relative_error=3e-16, tolerance=1e-9, nodes=69))
        exact: masked == cut within 3e-16 (69 operators compared by shape)
    """

    relative_error: float
    tolerance: float
    renormalised_by: tuple[str, ...] = ()
    nodes: int = 0
    failure: str | None = None
    limits: tuple[str, ...] = ()

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
        text += f" ({self.nodes} operators compared by shape)"
        if self.renormalised_by:
            more = f" and {len(self.renormalised_by) - 1} more" if len(self.renormalised_by) > 1 else ""
            text += f"; {self.renormalised_by[0]}{more}"
        return "; ".join((text, *self.limits))
