"""Verify: the proof by numbers for a plan.

    random parameters, random inputs, float64:   masked original  =  cut model,   at every operator
    real parameters:                             what was kept    =  the original's, bit by bit

Random parameters show what real ones hide (default initialisation hides wrong cuts at 1e-6), and once every
operator is compared, one pass with them says all that one with the real ones would: only their values differ,
and those are compared as they are.
"""

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from secateur.capture.copies import copy_module
from secateur.capture.foreign import memory_of
from secateur.capture.reach import reach
from secateur.coupling import Groups, Recorded
from secateur.errors import CheckError, PathError, SecateurError
from secateur.graph.keep import Kept
from secateur.plans.plan import Plan
from secateur.proof.drawing import HELD, STYLES, drawn_inputs
from secateur.proof.elsewhere import Elsewhere
from secateur.proof.lockstep import EntangledError, FailedError
from secateur.proof.models import CutMaker, Make, Models
from secateur.proof.passes import Pass, Reference, run_pass
from secateur.proof.smaller import on_smaller
from secateur.proof.summary import silent, sum_up
from secateur.proof.verdict import Verdict

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
        self.models = Models(model, plan, seed)
        self.example_inputs, self.seed = example_inputs, seed
        self.in_turn = reach(model).is_shared
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
        return sum_up(self.passes, self.reference.graph, self.models.dtype, self.limits, differences)

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
            if self.styles and self.models.dtype == torch.float64:
                self.models.dtype = torch.float32  # such as what overflows in a mask of float64
                self.limits.append("proven in float32, as it computes NaN in float64")
                yield self._pass(self.models.drawn(self.seed), self.seed)
        for again in range(1, _DRAWS if self.passes else 0):
            if not silent(self.passes):
                break
            with contextlib.suppress(PathError):
                seed = self.seed + again
                yield self._pass(self.models.drawn(seed), seed)
        for again in range(1 if self.styles else _DRAWS):
            if not (is_same and self.styles):
                try:
                    yield self._pass(partial(copy_module, self.model), self.seed + again, cut)
                except FailedError as error:
                    raise CheckError(
                        f"the original does not run for the proof: {error}".partition("\n")[0],
                        [f"it ran in eval mode, without gradients, in {_word(self.models.dtype)}"],
                        "pass check=False if you trust the cut, or example inputs that it runs on",
                    ) from error
        if self.styles and self.reference.on_step is None:
            yield from self._elsewhere()

    def _drawn_pass(self, style: str) -> Pass:
        """A pass with random parameters; where the model does not run with them, with less that is random."""
        dtype, limits = self.models.dtype, list(self.limits)
        for held in HELD[HELD.index(self.models.held) :]:
            self.models.held, self.models.dtype, self.limits = held, dtype, list(limits)
            try:
                done = self._pass(self.models.drawn(self.seed, style), self.seed)
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

    def _elsewhere(self) -> Iterator[Pass]:
        """The passes where the first ones did not run; each is remembered."""
        sides, self.sides = self.sides, None
        assert sides is not None, "a pass was made"
        elsewhere = Elsewhere(
            self.models, self.reference, self.example_inputs, sides, self.limits, in_turn=self.in_turn
        )
        del sides
        for done in elsewhere.passes():
            self.passes.append(done)
            yield done

    def _may_be_by_numbers(self, error: Exception) -> bool:
        """Whether the original may have failed for the numbers that were drawn, as it runs with its own."""
        return isinstance(error, FailedError) or self.reference.graph.substrate == "real"

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
        before = self.models.dtype
        for self.models.dtype in _LOWER[before] if _is_of_precision(error) else ():
            try:
                done = self._run_once(make, seed, cut)
            except Exception as again:  # as above
                if not _is_of_precision(again):
                    raise
                continue
            why = "it takes another path there" if isinstance(error, PathError) else error
            text = f"proven in {_word(self.models.dtype)}, as in {_word(before)}: {why}"
            self.limits.append(text.partition("\n")[0][:200])
            return done
        self.models.dtype = before
        raise error

    def _run_once(self, make: Make, seed: int, cut: nn.Module | None) -> Pass:
        try:
            return self._on(make, drawn_inputs(self.example_inputs, seed, self.models.dtype), cut)
        except PathError:
            return self._on(make, drawn_inputs(self.example_inputs, None, self.models.dtype), cut)

    def _on(self, make: Make, inputs: Any, cut: nn.Module | None) -> Pass:
        try:
            return self._compare(make, inputs, self.reference, cut)
        except PathError as error:
            missed = error.with_traceback(None)  # which holds on to the models
        again = self.reference.again(self.models.made(make), inputs)
        if again is None:
            raise missed
        return self._compare(make, inputs, again, cut)

    def _compare(self, make: Make, inputs: Any, reference: Reference, cut: nn.Module | None) -> Pass:
        model = self.models.made(make)
        second = self.plan.apply(model).eval() if cut is None else self.models.made(partial(copy_module, cut))
        try:
            done = run_pass(reference, model, second, inputs, in_turn=self.in_turn)
        except EntangledError:
            self.in_turn = True
            return self._compare(make, inputs, reference, cut)
        self.sides = model, second
        return done

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
