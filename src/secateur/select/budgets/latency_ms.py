"""Latency: the milliseconds of a forward pass, timed on this machine (`secateur.timing`)."""

from collections.abc import Mapping
from dataclasses import replace
from typing import ClassVar

from secateur.costs.budgeted import Gauge
from secateur.select.blocks import choose_by_latency
from secateur.select.budget import Budget, budget
from secateur.select.choice import Choice
from secateur.select.scope import scopes
from secateur.select.widths import Widths


@budget("latency_ms")
class LatencyMs(Budget):
    """Milliseconds that a forward pass on the example inputs may take on this machine, as measured.

    A number is milliseconds, also below 1; "50%" is a share.
    """

    unit = "ms"
    factors: ClassVar[Mapping[str, float]] = {"ms": 1}
    example = " or '2.5 ms'"
    meaning = "milliseconds, or a share such as '50%'"
    numbers_are_shares = False
    not_in_steps = (
        "a latency varies from one measurement to the next, so no share of it can be said to be gone"
    )
    is_timed = True

    def leaving(self, stays: float, whole: float) -> Budget:
        """A share: milliseconds by the clock vary from one minute to the next more than what a cut saves."""
        return replace(self, value=stays / whole, is_share=True)

    @classmethod
    def show(cls, amount: float) -> str:
        """Milliseconds, to four digits."""
        return f"{amount:.4g}"

    @classmethod
    def words(cls, value: float | None, is_share: bool, parts: Mapping[str, float]) -> str:
        """A share with its sign, as a number alone is milliseconds."""
        text = super().words(value, is_share, parts)
        return text.replace(f"={value:g}", f"={100 * value:g}%", 1) if is_share and value else text

    def choose(self, widths: Widths, scope: str, gauge: Gauge | None) -> Choice:
        """Choose the width of each layer by what it saves in time."""
        assert gauge is not None, "a latency is predicted by a gauge"
        whole = widths.cost([0] * len(widths.units)) if gauge.whole_ms is None else gauge.whole_ms
        return choose_by_latency(widths, whole, self.target(whole), scopes[scope], gauge.block)
