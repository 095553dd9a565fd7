"""The proof by shape of a model as it is used otherwise: a padded batch, another attention, training.

The integers that its code reads there, and not on the example, follow the cut as well; where they cannot, the
groups behind the first deviation are named.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property

from torch import nn

from secateur.capture import Trace, trace
from secateur.capture.shadow import shadow
from secateur.capture.variants import Variant
from secateur.coupling import Groups, Recorded
from secateur.coupling.training import without_noise
from secateur.cut import Followed, follow_integers, joined
from secateur.graph.keep import Kept
from secateur.graph.origin import Field
from secateur.plans.plan import Plan
from secateur.proof.regrouping import carried_over
from secateur.proof.shapes import Deviation, compare_records


@dataclass(frozen=True, eq=False)
class Served:
    """One other call of the original.

    Attributes:
        variant: What is different; None for the training mode.
        recorded: The original there.
    """

    variant: Variant | None
    recorded: Recorded

    @property
    def is_by_numbers(self) -> bool:
        """Whether numbers may decide what runs there, so that only the proof by number can judge it."""
        return self.recorded.graph.substrate == "real"

    @cached_property
    def trace(self) -> Trace | None:
        """Where its integers come from there; looked for when it is first needed."""
        return trace(self.recorded.model, self.recorded.inputs, self.recorded.graph)

    def compare(self, groups: Groups, kept: Kept, cut: nn.Module) -> tuple[Deviation | None, tuple[str, ...]]:
        """Compare what a cut model does there with what is predicted.

        Args:
            groups: The groups of the original on the example.
            kept: What stays of them.
            cut: The cut model; not changed.

        Returns:
            The first deviation, None if there is none or nothing can be predicted; and the groups behind it.
        """
        found = carried_over(groups, kept, self.recorded.graph)
        if found is None:
            return None, ()
        variant = self.variant
        graph, failure = self.recorded.record(cut if variant is None else variant.prepare(shadow(cut)))
        deviation = compare_records(*found, without_noise(graph), failure)
        if deviation is None:
            return None, ()
        names = found[0].name_of
        suspects = tuple(names[held] for held in deviation.suspects if held in names)
        where = "in training mode" if variant is None else f"with {variant.name}"
        return replace(deviation, what=f"{where} {deviation.what}"), suspects

    def follow(self, groups: Groups, kept: Kept, plan: Plan) -> Plan | None:
        """A plan in which the integers that are read there follow the cut, too.

        Args:
            groups: The groups of the original on the example.
            kept: What stays of them.
            plan: The plan; the numbers that it has stay.

        Returns:
            The new plan; None if there is nothing to add.
        """
        found = carried_over(groups, kept, self.recorded.graph)
        if found is None or self.trace is None:
            return None
        followed = follow_integers(*found, self.trace)
        fields = _unknown(followed.fields, plan)
        corrections = joined(plan.corrections, followed.corrections)
        is_more = fields or corrections != plan.corrections
        return plan.following(Followed(fields, corrections)) if is_more else None


def _unknown(fields: Mapping[Field, int], plan: Plan) -> dict[Field, int]:
    """The fields that a plan does not set yet."""
    return {
        held: number
        for held, number in fields.items()
        if plan.attributes.get(held.module, {})
        .keys()
        .isdisjoint((held.path[0], ".".join(map(str, held.path))))
    }
