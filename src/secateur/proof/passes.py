"""One pass of a proof: the masked original and the cut model in step, compared at every operator."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from secateur.capture import Step
from secateur.capture.inputs import output_tensors
from secateur.capture.recording import Moment
from secateur.coupling import Groups, Recorded
from secateur.errors import PathError
from secateur.graph.keep import Kept
from secateur.graph.node import Graph, Node
from secateur.proof.comparison import TOLERANCES, Comparison, Difference, measure
from secateur.proof.draws import is_random
from secateur.proof.lockstep import Side, run_in_step, run_in_turn
from secateur.proof.masking import Masker
from secateur.proof.regrouping import regroup
from secateur.proof.shapes import suspects_of


@dataclass(frozen=True, eq=False)
class Reference:
    """How the original is run so that it computes what a cut model does.

    Attributes:
        groups: Its groups.
        kept: What stays of them.
        rest: The record that the cut model follows; None for the original's own.
        on_step: Computes an operator of the original; None for the masked one.
        foreign: The memory of the user's own model, of which both run copies.
        recorded: The original with its other paths; None if those do not count.
    """

    groups: Groups
    kept: Kept
    rest: Graph | None = None
    on_step: Callable[[Step], Any] | None = None
    foreign: Mapping[int, str] = field(default_factory=dict)
    recorded: Recorded | None = None
    masker: Masker = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "masker", Masker(self.groups, self.kept))

    @property
    def graph(self) -> Graph:
        """The record of the original."""
        return self.groups.graph

    def suspects(self, node: Node | None) -> tuple[str, ...]:
        """The cut groups on which an operator depends, all of them if it is not known."""
        axes = self.kept.changed if node is None else suspects_of(self.groups, node, self.kept)
        return tuple(self.groups.name_of[held] for held in axes if held in self.groups.name_of)

    def again(self, model: nn.Module, inputs: Any) -> "Reference | None":
        """The same for a record on other numbers; None where that cannot be."""
        if self.on_step is not None or self.graph.substrate != "real":
            return None
        self.masker.mask_parameters(model)
        found, _ = regroup(model, inputs, self.groups, self.kept)
        return None if found is None else Reference(*found, foreign=self.foreign)

    def elsewhere(
        self,
        model: nn.Module,
        inputs: Any,
        *,
        training: bool = False,
        moment: Moment | None = None,
        substrate: str = "real",
    ) -> "tuple[Reference | None, Exception | None]":
        """The same for inputs of another size, for training mode or other luck, and why it cannot be had."""
        options: dict[str, Any] = {"training": training, "moment": moment, "substrate": substrate}
        found, failure = regroup(model, inputs, self.groups, self.kept, **options)
        return (None if found is None else Reference(*found, foreign=self.foreign)), failure


@dataclass(frozen=True, eq=False)
class Pass:
    """What one run in step showed.

    Attributes:
        comparison: What was compared.
        failure: What is wrong, as words; None if nothing is.
        node: The first operator that is.
        suspects: The cut groups on which it depends.
        outputs: What could not be compared of the model's outputs, as words.
        has_crashed: The cut model raised an error of its own.
    """

    comparison: Comparison
    failure: str | None = None
    node: Node | None = None
    suspects: tuple[str, ...] = ()
    outputs: tuple[str, ...] = ()
    has_crashed: bool = False


def run_pass(
    reference: Reference, model: nn.Module, cut: nn.Module, inputs: Any, *, in_turn: bool = False
) -> Pass:
    """Run both models in step and compare them.

    Args:
        reference: How the original is run.
        model: The original, in the mode and the precision to run in; it is masked and run.
        cut: What the plan made of it, likewise; it is run.
        inputs: Inputs of both.
        in_turn: Run one after the other, for models that hold a lock.

    Raises:
        PathError: The original takes another path than in its record.
        EntangledError: The models wait for each other; they have to run in turn.
    """
    on_step = reference.on_step
    if on_step is None:
        reference.masker.mask_parameters(model)
        on_step = reference.masker

    def computed(step: Step) -> Any:
        return step.run() if is_random(step) else on_step(step)

    comparison = Comparison(reference.masker, computed, reference.foreign)
    sides = Side(model, reference.graph), Side(cut, reference.rest or reference.graph)
    ran = (run_in_turn if in_turn else run_in_step)(sides[0], computed, sides[1], comparison, inputs)
    if comparison.difference is not None:
        node = comparison.difference.node
        return Pass(comparison, _differs(comparison.difference), node, reference.suspects(node))
    if ran.failure is not None:
        has_crashed, suspects = not isinstance(ran.failure, PathError), reference.suspects(ran.node)
        return Pass(comparison, _fails(ran.failure), ran.node, suspects, has_crashed=has_crashed)
    state = reference.graph.state
    outputs = output_tensors(ran.expected, state), output_tensors(ran.got, state)
    failure, limits = compare_outputs(
        *outputs, None if _knows_outputs(reference, comparison) else _loosest(comparison)
    )
    return Pass(comparison, failure, None, reference.suspects(None) if failure else (), limits)


def _differs(found: Difference) -> str:
    return (
        f"masked and cut numbers differ by {found.error:.2g}, first at {found.node}; "
        f"allowed is {found.tolerance:.0e}"
    )


def _fails(failure: Exception) -> str:
    text = str(failure).partition("\n")[0]
    if isinstance(failure, PathError):
        return f"the cut model takes another path than the original: {text.partition(': ')[2] or text}"
    return f"the cut model does not run: {text}"


def _knows_outputs(reference: Reference, comparison: Comparison) -> bool:
    """Whether all that the model returns was compared where it was made, and is returned in its place."""
    if reference.on_step is not None:
        return False  # without some layers a model may return what others make
    nodes = reference.graph.nodes
    made = {ref.value for node in nodes if node.index in comparison.compared for ref in node.outputs if ref}
    return made.issuperset(reference.graph.outputs)


def _loosest(comparison: Comparison) -> float:
    return TOLERANCES[8 if comparison.loose is None else comparison.loose[1]]


def compare_outputs(
    expected: list[Tensor], got: list[Tensor], tolerance: float | None
) -> tuple[str | None, tuple[str, ...]]:
    """Compare what the models return.

    Args:
        expected: The outputs of the reference.
        got: The outputs of the cut model.
        tolerance: For real numbers; None where they were compared before.

    Returns:
        What is wrong, None if nothing is; and what could not be compared.
    """
    if [one.shape for one in expected] != [two.shape for two in got]:
        return "the cut model returns other shapes than the masked one", ()
    limits = []
    for at, (one, two) in enumerate(zip(expected, got, strict=True)):
        if not one.numel():
            limits.append(f"output {at} is empty on these inputs")
        elif one.is_complex() or not one.is_floating_point():
            if not one.is_complex() and not torch.equal(one, two):
                return f"output {at}, of whole numbers, differs", ()
        elif tolerance is not None and not measure(one, two, max(one.dim() - 1, 0)).error <= tolerance:
            return f"output {at} differs", ()
        elif not bool(one.isfinite().any()):
            limits.append(f"output {at} holds no finite number on these inputs")
    return None, tuple(limits)
