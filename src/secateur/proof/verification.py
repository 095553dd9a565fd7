"""Verify: the proof by numbers for a plan.

    random parameters, random inputs, float64:   masked original  =  cut model,   at every operator
    real parameters:                             what was kept    =  the original's, bit by bit

Random parameters show what real ones hide (default initialisation hides wrong cuts at 1e-6), and once every
operator is compared, one pass with them says all that one with the real ones would: only their values differ,
and those are compared as they are.
"""

import contextlib
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from itertools import chain
from typing import Any, Protocol, TypeAlias

import numpy as np
import torch
from torch import Tensor, nn

from secateur.capture.copies import copy_module
from secateur.capture.foreign import memory_of
from secateur.capture.reach import reach
from secateur.capture.variants import Variant, variants_of
from secateur.coupling import Groups, Recorded
from secateur.coupling.situations import Situation
from secateur.coupling.training import trains_alike
from secateur.errors import CaptureError, CheckError, PathError, SecateurError
from secateur.graph.keep import Kept
from secateur.plans.plan import Plan
from secateur.proof.comparison import TOLERANCE, TOLERANCES
from secateur.proof.drawing import HELD, STYLES, drawn_inputs, precise, randomised
from secateur.proof.elsewhere import other_inputs, shapes_of, trains_otherwise
from secateur.proof.lockstep import EntangledError, FailedError
from secateur.proof.passes import Pass, Reference, run_pass
from secateur.proof.smaller import on_smaller
from secateur.proof.verdict import Verdict

Make: TypeAlias = Callable[[], nn.Module]
"""Makes a model anew; the user of what it makes may change it."""


class CutMaker(Protocol):
    """What makes the other model of a proof: a plan, for one."""

    def apply(self, model: nn.Module) -> nn.Module:
        """Make it of a copy of the original, whatever that holds."""

    def renamed(self, name: str) -> str | None:
        """The name there of a tensor of the original; None if it is gone."""


_DRAWS = 2
"""How many times numbers are drawn while some operator shows one number only."""


def kept_by(plan: Plan, groups: Groups) -> Kept:
    """What stays of the axis of each group in a plan."""
    return Kept(
        {groups[group.name].axis: np.isin(np.arange(group.size), group.keep) for group in plan.groups}
    )


def verify(
    model: nn.Module,
    cut: nn.Module,
    example_inputs: Any,
    groups: Groups,
    plan: Plan,
    seed: int = 0,
    recorded: Recorded | None = None,
) -> Verdict:
    """Prove by numbers that a cut model computes what the masked original does.

    Args:
        model: The original.
        cut: What the plan made of it.
        example_inputs: Inputs of both.
        groups: The groups of the original.
        plan: What was kept.
        seed: For the random inputs and parameters.
        recorded: The original with its training mode and its other paths; None if those do not count.

    Raises:
        PathError: On real tensors the original takes another path than in its record of fake ones.
    """
    kept = kept_by(plan, groups)
    renormalised = {
        group.renormalised for group in groups if group.axis in kept.changed and group.renormalised
    }
    reference = Reference(groups, kept, foreign=memory_of(model), recorded=recorded)
    differences = tuple(sorted(renormalised))
    quick = None if recorded is None else _on_smaller(model, cut, plan, reference, recorded, seed)
    if quick is not None and quick.passed and not quick.limits:
        return replace(quick, renormalised_by=differences)
    verdict = Proof(model, plan, reference, example_inputs, seed).verdict(cut, differences)
    if quick is None or quick.passed or not verdict.passed:
        return verdict
    suspects = reference.suspects(None)
    return replace(quick, failure=f"on smaller images: {quick.failure}", suspects=suspects, node=None)


def _on_smaller(
    model: nn.Module, cut: nn.Module, plan: Plan, reference: Reference, recorded: Recorded, seed: int
) -> Verdict | None:
    """The proof on smaller images; None where the model does not do the same with them, or it is none."""
    found = on_smaller(reference, recorded)
    if found is None:
        return None
    try:
        return Proof(model, plan, *found, seed).verdict(cut)
    except Exception:  # noqa: BLE001 - a model may raise anything; the proof on the example says what
        return None


class Proof:
    """The proof of one plan.

    Args:
        model: The original; not changed.
        plan: What makes the cut model.
        reference: How the original is run.
        example_inputs: Inputs of both.
        seed: For the random inputs and parameters.
        styles: How parameters are drawn, until one is defined; none for the real ones only.
    """

    def __init__(
        self,
        model: nn.Module,
        plan: CutMaker,
        reference: Reference,
        example_inputs: Any,
        seed: int,
        styles: tuple[str, ...] = STYLES,
    ) -> None:
        self.model, self.plan, self.reference, self.styles = model, plan, reference, styles
        self.example_inputs, self.seed = example_inputs, seed
        self.dtype: torch.dtype | None = torch.float64
        self.in_turn = reach(model).is_shared
        self.held = HELD[0]
        self.limits: list[str] = []
        self.passes: list[Pass] = []
        self.sides: tuple[nn.Module, nn.Module] | None = None

    def verdict(self, cut: nn.Module, differences: tuple[str, ...] = ()) -> Verdict:
        """Run the proof.

        Args:
            cut: What the plan made of the model.
            differences: Where the reference computes otherwise than the original, as words.

        Raises:
            PathError: On real tensors the original takes another path than in its record of fake ones.
        """
        wrong, is_known = self.wrong_tensors(cut)
        for done in self.each_pass(cut, is_same=is_known and not wrong):
            if done.failure is not None:
                break
        else:
            if wrong:  # no draw showed it, but that the cut holds the wrong numbers is plain
                failure = f"{wrong[0]} of the cut model does not hold what was kept of the original's"
                self.passes.append(replace(self.passes[-1], failure=failure))
        return self._sum_up(differences)

    def each_pass(self, cut: nn.Module, *, is_same: bool) -> Iterator[Pass]:
        """Make passes until nothing hides; each is remembered."""
        for style in self.styles:
            try:
                yield self._drawn_pass(style)
            except (PathError, FailedError) as error:
                if not self._may_be_by_numbers(error):
                    raise
                self.limits.append(f"not proven with randomised parameters: {error}".partition("\n")[0])
                is_same = False
                break
            if not self.passes[-1].comparison.undefined:
                break
        else:
            if self.styles and self.dtype == torch.float64:  # such as what overflows in a mask of float64
                self.dtype = torch.float32
                self.limits.append("proven in float32, as it computes NaN in float64")
                yield self._pass(self._random(self.seed), self.seed)
        for again in range(1, _DRAWS if self.passes else 0):
            if not self._silent():
                break
            with contextlib.suppress(PathError):
                seed = self.seed + again
                yield self._pass(self._random(seed), seed)
        for again in range(1 if self.styles else _DRAWS):
            if not (is_same and self.styles):
                try:
                    yield self._pass(partial(copy_module, self.model), self.seed + again, cut)
                except FailedError as error:
                    raise CheckError(
                        f"the original does not run for the proof: {error}".partition("\n")[0],
                        [f"it ran in eval mode, without gradients, in {_word(self.dtype)}"],
                        "pass check=False if you trust the cut, or example inputs that it runs on",
                    ) from error
        if self.styles and self.reference.on_step is None:
            yield from self._elsewhere()

    def _drawn_pass(self, style: str) -> Pass:
        """A pass with random parameters; where the model does not run with them, with less that is random."""
        dtype, limits = self.dtype, list(self.limits)
        for held in HELD[HELD.index(self.held) :]:
            self.held, self.dtype, self.limits = held, dtype, list(limits)
            try:
                done = self._pass(self._random(self.seed, style), self.seed)
            except (PathError, FailedError) as error:
                if held == HELD[-1] or not self._may_be_by_numbers(error):
                    raise
                continue
            if held != HELD[0]:
                self.limits.append(
                    f"proven with the {held} that the model holds as they are: it does not run with others"
                )
            return done
        raise AssertionError("the last is not passed over")

    def _may_be_by_numbers(self, error: Exception) -> bool:
        """Whether the original may have failed for the numbers that were drawn, as it runs with its own."""
        return isinstance(error, FailedError) or self.reference.graph.substrate == "real"

    def _elsewhere(self) -> Iterator[Pass]:
        """Passes on inputs of another size, in training mode if that differs, and on other paths."""
        assert self.sides is not None, "a pass was made"
        graph, recorded = self.reference.graph, self.reference.recorded
        trained = None if recorded is None else recorded.trained
        sides, self.sides = self.sides, None
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
        for variant in [*variants_of(self.model, self.example_inputs)][-1:]:
            yield from self._varied(sides, variant)
        del sides
        for situation, _ in () if recorded is None else recorded.situations:
            yield from self._in(situation)

    def _drawn(self, tries: Iterator[Any], *, as_given: bool = False) -> Iterator[Any]:
        """Inputs with random numbers, then perhaps those that they hold: boxes of targets have an order."""
        for inputs in tries:
            yield drawn_inputs(inputs, self.seed + 1, self.dtype)
            if as_given:
                yield drawn_inputs(inputs, None, self.dtype)

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
                    sides = self._sides_anew()
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
        inputs = drawn_inputs(variant.inputs, self.seed + 1, self.dtype)
        found, _ = self.reference.elsewhere(prepared[0], inputs)
        if found is not None:
            yield from self._beside(found, prepared, inputs, f"with {variant.name}")

    def _in(self, situation: Situation) -> Iterator[Pass]:
        """A pass in a situation in which the original takes another path."""
        sides = self._sides_anew()
        inputs = drawn_inputs(situation.inputs, self.seed if situation.is_drawn else None, self.dtype)
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

    def _sides_anew(self) -> tuple[nn.Module, nn.Module]:
        """The original with random parameters, and what the plan makes of it."""
        model = self._made(self._random(self.seed))
        return model, self.plan.apply(model).eval()

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
        self.passes.append(done)
        yield self.passes[-1]

    def _is_restless(self, model: nn.Module, reference: Reference, inputs: Any) -> bool:
        """Whether a model differs from itself: it draws by other means than PyTorch's operators."""
        twins = [copy_module(model) for _ in range(2)]
        control = Reference(reference.groups, Kept({}))
        done = run_pass(control, twins[0], twins[1], inputs, in_turn=self.in_turn)
        return done.failure is not None

    def _silent(self) -> frozenset[int]:
        """The operators that showed one number only in every pass."""
        found = [frozenset(done.comparison.silent) for done in self.passes]
        return frozenset.intersection(*found) if found else frozenset()

    def _pass(self, make: Make, seed: int, cut: nn.Module | None = None) -> Pass:
        """Compare on random inputs; where those lead the model on another path, on the example itself.

        Args:
            make: Makes an original anew.
            seed: For the inputs.
            cut: What the plan made of it; None to apply the plan to what was made.

        Raises:
            PathError: The model takes another path than in its record, on the example itself too.
        """
        try:
            done = self._run_once(make, seed, cut)
        except Exception as error:  # noqa: BLE001 - a model that looks at its type may raise anything
            done = self._lowered(make, seed, cut, error)
        self.passes.append(done)
        return done

    def _lowered(self, make: Make, seed: int, cut: nn.Module | None, error: Exception) -> Pass:
        """The same in float32, then in the precision of the model's tensors, for what fails in a higher one.

        Raises:
            Exception: The error itself, where all fail.
        """
        before = self.dtype
        for self.dtype in _LOWER[before] if _is_of_precision(error) else ():
            try:
                done = self._run_once(make, seed, cut)
            except Exception as again:  # as above
                if not _is_of_precision(again):
                    raise
                continue
            why = "it takes another path there" if isinstance(error, PathError) else error
            text = f"proven in {_word(self.dtype)}, as in {_word(before)}: {why}"
            self.limits.append(text.partition("\n")[0][:200])
            return done
        self.dtype = before
        raise error

    def _run_once(self, make: Make, seed: int, cut: nn.Module | None) -> Pass:
        try:
            return self._on(make, drawn_inputs(self.example_inputs, seed, self.dtype), cut)
        except PathError:
            return self._on(make, drawn_inputs(self.example_inputs, None, self.dtype), cut)

    def _random(self, seed: int, style: str = "signed") -> Make:
        """Makes the original with random parameters, in the precision that holds when it is called."""
        return lambda: randomised(
            self.model, seed, style, None if self.dtype is None else torch.float64, self.held
        )

    def _on(self, make: Make, inputs: Any, cut: nn.Module | None) -> Pass:
        try:
            return self._compare(make, inputs, self.reference, cut)
        except PathError as error:
            missed = error.with_traceback(None)  # which holds on to the models
        again = self.reference.again(self._made(make), inputs)
        if again is None:
            raise missed
        return self._compare(make, inputs, again, cut)

    def _compare(self, make: Make, inputs: Any, reference: Reference, cut: nn.Module | None) -> Pass:
        model = self._made(make)
        second = self.plan.apply(model).eval() if cut is None else self._made(partial(copy_module, cut))
        try:
            done = run_pass(reference, model, second, inputs, in_turn=self.in_turn)
        except EntangledError:
            self.in_turn = True
            return self._compare(make, inputs, reference, cut)
        self.sides = model, second
        return done

    def _made(self, make: Make) -> nn.Module:
        return precise(make(), self.dtype).eval()

    def wrong_tensors(self, cut: nn.Module) -> tuple[list[str], bool]:
        """The tensors of the cut model that do not hold the kept positions of the original's, bit by bit.

        Also whether the original has all of them.
        """
        masker, groups = self.reference.masker, self.reference.groups
        named = {**dict(self.model.named_parameters()), **dict(self.model.named_buffers())}
        origin = {self.plan.renamed(name): name for name in groups.graph.tensors}
        wrong, is_known = [], True
        for own, held in (*cut.named_parameters(), *cut.named_buffers()):
            name = origin.get(own, own)
            value = groups.graph.tensors.get(name)
            if value is None or name not in named:
                is_known = False
                continue
            kept = masker.kept_of(value, named[name].detach())
            if kept.shape != held.shape or kept.dtype != held.dtype or not _same_bits(kept, held.detach()):
                wrong.append(name)
        return wrong, is_known

    def _sum_up(self, differences: tuple[str, ...]) -> Verdict:
        failed = next((done for done in self.passes if done.failure is not None), None)
        found = [done.comparison.worst for done in self.passes if done.comparison.worst is not None]
        worst = max(found, key=lambda one: one.share, default=None)
        if failed is not None and failed.comparison.difference is not None:
            worst = failed.comparison.difference
        failure = None if failed is None else failed.failure
        if failure is None and worst is None:
            failure = "no number could be compared: on these inputs every result is empty, or no real number"
        error = math.inf if worst is None or (failed is not None and worst.share <= 1) else worst.error
        return Verdict(
            relative_error=error,
            tolerance=TOLERANCE if worst is None else worst.tolerance,
            renormalised_by=differences,
            nodes=len(self.reference.graph.nodes),
            failure=failure,
            limits=(*dict.fromkeys(self.limits), *self._unseen()) if failure is None else tuple(self.limits),
            compared=len(self.passes[0].comparison.compared) if self.passes else 0,
            node=None if failed is None else failed.node,
            suspects=() if failed is None else failed.suspects,
        )

    def _unseen(self) -> Iterator[str]:
        """What the passes could not compare, or only loosely, as words."""
        comparisons = [done.comparison for done in self.passes]
        if self.dtype == torch.float64:
            loose = next((one.loose for one in comparisons if one.loose is not None), None)
            if loose is not None:
                node, size = loose
                yield f"{node} computes in float{8 * size}: compared within {TOLERANCES[size]:.0e} from there"
        nodes = self.reference.graph.nodes
        undefined = frozenset.intersection(*(frozenset(one.undefined) for one in comparisons))
        for indices, what in ((self._silent(), "made one number only"), (undefined, "made NaN")):
            if indices:
                first = nodes[min(indices)] if min(indices) < len(nodes) else "one"
                yield f"{len(indices)} operators {what} on random inputs, first {first}"
        for text in self.passes[0].outputs:
            if all(text in done.outputs for done in self.passes):
                yield text


_LOWER: Mapping[torch.dtype | None, tuple[torch.dtype | None, ...]] = {
    torch.float64: (torch.float32, None),
    torch.float32: (None,),
    None: (),
}
"""The precisions to try after one; None is that which the model's tensors have."""


def _is_of_precision(error: Exception) -> bool:
    """Whether a run may have failed for its precision: errors of ours say more, paths excepted."""
    return isinstance(error, PathError) or not isinstance(error, SecateurError)


def _word(dtype: torch.dtype | None) -> str:
    return "the precision of its tensors" if dtype is None else str(dtype).removeprefix("torch.")


def _same_bits(one: Tensor, two: Tensor) -> bool:
    """Whether two tensors of one type hold the same numbers, NaN included."""
    return torch.equal(one, two) or bool(((one == two) | ((one != one) & (two != two))).all())
