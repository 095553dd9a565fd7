"""Passes where the first ones did not run: other sizes, training mode, other calls and other paths."""

from collections.abc import Iterator
from dataclasses import replace
from itertools import chain
from typing import Any

from torch import nn

from secateur.capture.copies import copy_module
from secateur.capture.variants import Variant, variants_of
from secateur.coupling.situations import Situation
from secateur.coupling.training import trains_alike
from secateur.errors import CaptureError, PathError
from secateur.graph.keep import Kept
from secateur.proof.drawing import drawn_inputs
from secateur.proof.inputs import other_inputs, shapes_of, trains_otherwise
from secateur.proof.lockstep import EntangledError
from secateur.proof.models import Models
from secateur.proof.passes import Pass, Reference, run_pass


class Elsewhere:
    """Runs both models where the first pass did not.

    Args:
        models: Make the two models.
        reference: How the original is run.
        example_inputs: Inputs of both.
        sides: The two models as the first pass left them; let go of when they are not needed.
        limits: What could not be proven is added, as words.
        in_turn: Run one after the other, for models that hold a lock.
    """

    def __init__(
        self,
        models: Models,
        reference: Reference,
        example_inputs: Any,
        sides: tuple[nn.Module, nn.Module],
        limits: list[str],
        *,
        in_turn: bool,
    ) -> None:
        self.models, self.reference, self.example_inputs = models, reference, example_inputs
        self.first, self.limits, self.in_turn = sides, limits, in_turn

    def passes(self) -> Iterator[Pass]:
        """Passes on inputs of another size, in training mode if that differs, and on other paths."""
        graph, recorded = self.reference.graph, self.reference.recorded
        trained = None if recorded is None else recorded.trained
        sides = self.first
        del self.first
        can_train = trained is None or trained.failure is None
        trains = trains_otherwise(graph) and can_train
        if trained is not None:
            self.limits.extend(trained.limits())
        given = iter(()) if trained is None else self._drawn(iter((trained.inputs,)), as_given=True)
        if (
            recorded is not None
            and trained is not None
            and can_train
            and not trains
            and not trains_alike(recorded.graph, trained.graph)
        ):
            tries = chain(self._drawn(other_inputs(self.example_inputs, training=True)), given)
            yield from self._first(sides, tries, training=True)
        tries = chain(
            self._drawn(other_inputs(self.example_inputs, training=trains)), given if trains else ()
        )
        yield from self._first(sides, tries, training=trains)
        for variant in [*variants_of(self.models.original, self.example_inputs)][-1:]:
            yield from self._varied(sides, variant)
        del sides
        for situation, _ in () if recorded is None else recorded.situations:
            yield from self._in(situation)

    def _drawn(self, tries: Iterator[Any], *, as_given: bool = False) -> Iterator[Any]:
        """Inputs with random numbers, then perhaps those that they hold: boxes of targets have an order."""
        for inputs in tries:
            yield drawn_inputs(inputs, self.models.seed + 1, self.models.dtype)
            if as_given:
                yield drawn_inputs(inputs, None, self.models.dtype)

    def _first(
        self, sides: tuple[nn.Module, nn.Module], tries: Iterator[Any], *, training: bool
    ) -> Iterator[Pass]:
        """A pass on the first inputs that the original takes; says so if a model trains on none."""
        failure: Exception | None = None
        for inputs in tries:
            where = f"on inputs of {shapes_of(inputs)}" + " in training mode" * training
            for kind in dict.fromkeys((self.reference.graph.substrate, "real")):
                found, failure = self.reference.elsewhere(sides[0], inputs, training=training, substrate=kind)
                if found is None:
                    continue
                sides[0].train(training), sides[1].train(training)
                try:
                    yield from self._beside(found, sides, inputs, where, may_be_other=kind != "real")
                except PathError:  # numbers decide there
                    sides = self.models.sides()
                    continue
                return
        if training:
            self.limits.append(f"training mode is not proven: {failure}".partition("\n")[0][:200])

    def _varied(self, sides: tuple[nn.Module, nn.Module], variant: Variant) -> Iterator[Pass]:
        """A pass with models that are called otherwise; none where they cannot be."""
        try:
            prepared = variant.prepare(sides[0].eval()), variant.prepare(sides[1].eval())
        except CaptureError:
            return
        inputs = drawn_inputs(variant.inputs, self.models.seed + 1, self.models.dtype)
        found, _ = self.reference.elsewhere(prepared[0], inputs)
        if found is not None:
            yield from self._beside(found, prepared, inputs, f"with {variant.name}")

    def _in(self, situation: Situation) -> Iterator[Pass]:
        """A pass in a situation in which the original takes another path."""
        sides = self.models.sides()
        inputs = drawn_inputs(
            situation.inputs, self.models.seed if situation.is_drawn else None, self.models.dtype
        )
        options: dict[str, Any] = {"training": situation.training, "moment": situation.moment}
        found, failure = self.reference.elsewhere(sides[0], inputs, **options)
        for one in sides:
            one.train(situation.training)
        self.limits.append(f"its path is another one {situation.words}, which is proven, too")
        if found is None:
            text = f"not proven {situation.words}, where its path is another one: {failure}"
            self.limits[-1] = text.partition("\n")[0][:200]
        else:
            yield from self._beside(found, sides, inputs, situation.words)

    def _beside(
        self,
        found: Reference,
        sides: tuple[nn.Module, nn.Module],
        inputs: Any,
        where: str,
        *,
        may_be_other: bool = False,
    ) -> Iterator[Pass]:
        """A pass beside the first ones, remembered with its place.

        Raises:
            PathError: The original takes another path than in its record, and `may_be_other`.
        """
        try:
            done = run_pass(found, *sides, inputs, in_turn=self.in_turn)
        except (PathError, RuntimeError, EntangledError) as error:
            if may_be_other and isinstance(error, PathError):
                raise
            self.limits.append(f"not proven {where}: {error}".partition("\n")[0][:200])
            return
        is_odd = done.failure is not None and not done.has_crashed
        if is_odd and self._is_restless(sides[0], found, inputs):
            self.limits.append(f"not proven {where}: the model draws numbers of its own")
            return
        if done.failure is not None:
            cut = self.reference.suspects(None)  # another record may have other names for groups
            suspects = done.suspects if set(done.suspects) <= set(cut) else cut
            done = replace(done, failure=f"{where}: {done.failure}", suspects=suspects)
        yield done

    def _is_restless(self, model: nn.Module, reference: Reference, inputs: Any) -> bool:
        """Whether a model differs from itself: it draws by other means than PyTorch's operators."""
        twins = [copy_module(model) for _ in range(2)]
        control = Reference(reference.groups, Kept({}))
        done = run_pass(control, twins[0], twins[1], inputs, in_turn=self.in_turn)
        return done.failure is not None
