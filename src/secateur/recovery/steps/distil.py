"""Distil: all layers learn together, without labels, to put out what the dense network does.

    min over all weights of    sum over the outputs y of  |y_cut(x) - y_dense(x)|^2 / |y_dense(x)|^2

`refit` solves each layer by itself, and `blocks` looks no further than the next one; here a layer learns what
the outputs need of it. Both networks run in eval mode, so that batch norms keep their statistics, and no
other tensors than parameters change. Where a batch is one tensor of real numbers and there are four batches
or more, steps learn from mixtures of samples, `share * one + (1 - share) * another` with shares between 0 and
1: the dense network says what a mixture should give, and a few hundred samples go a longer way.

It never harms what it is measured by (`recovery/learning.py`); where there is a batch that no step learns
from, the outputs for that one decide, once, at the end. How long it takes is said before; where it would take
longer than `seconds`, the steps are halved until they do not. On a CPU the result repeats bit for bit.

References:
    Hinton, Vinyals, Dean, "Distilling the Knowledge in a Neural Network", 2015, section 2.1 (matching
    logits). https://arxiv.org/abs/1503.02531
    Zhang et al., "mixup: Beyond Empirical Risk Minimization", ICLR 2018, equation 1 (mixtures; here of inputs
    alone, as there are no labels). https://arxiv.org/abs/1710.09412
"""

import math
import time
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from secateur.capture.batches import naming_batch
from secateur.capture.copies import copy_module
from secateur.capture.inputs import as_call, map_inputs, output_tensors
from secateur.capture.outside import outside_kept
from secateur.capture.randomness import OwnNumbers
from secateur.capture.shadow import shadow
from secateur.capture.switches import as_written
from secateur.recovery import learning
from secateur.recovery.learning import Turn
from secateur.recovery.step import Recovery, Subject, step

_SHARE = 0.006
"""Of its own size a tensor changes by so much in a step: errors of many layers in a row add up."""


@step("distil", needs_data=True, is_learned=True)
def distil(subject: Subject) -> tuple[nn.Module, list[Recovery]]:
    """Let the whole cut network learn to put out what the dense one does.

    Args:
        subject: The cut model and where it comes from.

    Returns:
        A new model, and how far its outputs were and are from the dense model's.
    """
    made = copy_module(subject.cut)
    run = _Run(subject)
    with outside_kept(subject.original), as_written(), torch.no_grad():
        learned, notes = run.improve()
    held = [one for one in made.parameters() if one.is_floating_point()]
    with torch.no_grad():
        for tensor, better in zip(held, learned, strict=False):  # none where no step came nearer
            tensor.copy_(better)
    return made, notes


class _Run:
    """Lets a copy of a cut model learn."""

    def __init__(self, subject: Subject) -> None:
        assert subject.data, "the step needs data"
        self.subject, self.data = subject, [*subject.data]
        self.dense = shadow(subject.reference).eval()
        self.cut = copy_module(subject.cut).eval()
        self.held = [one.requires_grad_() for one in self.cut.parameters() if one.is_floating_point()]
        self.masters = [_master(one) for one in self.held]
        self.turns, self.checks = learning.turns(len(self.data)), learning.CHECKS
        self.on = learning.judged_on(self.turns)
        if subject.held is not None:  # a refit has seen all others, and fits them better than any
            self.turns = [*[Turn(True, False, True)] * len(self.data), Turn(False, True, True)]
            self.data.append(subject.held)
            self.checks, self.on = 1, "on the last batch, not learned from"
        self.learning = [at for at, turn in enumerate(self.turns) if turn.learns]
        self.judging = [at for at, turn in enumerate(self.turns) if turn.judges]
        self.draw = torch.Generator().manual_seed(0)
        self.targets: dict[int, list[Tensor]] = {}

    def improve(self) -> tuple[list[Tensor], list[Recovery]]:
        """What the parameters learned, nothing if that is no better, and what there is to say."""
        why = self._obstacle()
        if why:
            return [], [Recovery("distil", "outputs", "left alone", why)]
        limit, each = self.subject.seconds, self._seconds()
        steps = learning.steps_within(limit, each, len(self.judging))
        needed = learning.needed(steps, each, len(self.judging))
        of = f"{steps} steps, about {learning.told(needed)} s"
        if needed > limit:
            why = f"there is no time for it: {of}, at most {limit:g} (seconds)"
            return [], [Recovery("distil", "outputs", "left alone", why)]
        self.subject.say(f"distil: {of}, at most {limit:g}")
        order = learning.order(len(self.learning), steps, 0)
        before, after, best = learning.learn(
            self.masters,
            steps,
            lambda at: self._descend(self.learning[order[at]]),
            self._error,
            checks=self.checks,
            share=_SHARE,
        )
        if not best:
            why = f"no step brought the outputs nearer, which are {100 * before:.3g} % off {self.on}"
            return [], [Recovery("distil", "outputs", "left alone", why)]
        told = f"error of the outputs {100 * before:.3g} % -> {100 * after:.3g} % {self.on}"
        notes = [Recovery("distil", "outputs", "approximate", told)]
        if steps < learning.STEPS:
            told = f"{steps} steps, {learning.STEPS} would take longer than {limit:g} s (seconds)"
            notes.insert(0, Recovery("distil", "time", "limit", told))
        return best, notes

    def _obstacle(self) -> str:
        """Why the network cannot learn; empty if it can. Takes the first step, but changes nothing by it."""
        if not self.held:
            return "it has no parameters"
        for at in self.judging:
            self.targets[at] = self._run(self.dense, at)
        first = self.judging[0]
        pairs = _comparable(self._run(self.cut, first), self.targets[first]).values()
        if not pairs:
            return "no output has the size of the dense network's"
        why = self.turns[0].obstacle([target for _, target in pairs])
        if why:
            return why
        try:
            self._descend(self.learning[0])
        except RuntimeError as error:
            return f"it cannot be differentiated: {str(error).partition(chr(10))[0]}"
        found = [one.grad for one in self.masters if one.grad is not None]
        if not found or not all(one.isfinite().all() for one in found):
            return "its outputs are not finite, or their gradients"
        return ""

    def _seconds(self) -> float:
        """What a step takes; the first one, which is slower, was taken before."""
        began = time.perf_counter()
        self._descend(self.learning[0])
        return time.perf_counter() - began

    def _descend(self, at: int) -> None:
        """Give the parameters their gradients by one batch; none where it says nothing."""
        inputs, targets = self.data[at], self.targets.get(at)
        if self.turns[at].is_whole:
            other = self.learning[int(torch.randint(len(self.learning), (), generator=self.draw))]
            inputs = _mixed(inputs, self.data[other], self.draw)
        if targets is None:  # batches that learn and judge at once have theirs
            targets = self._run(self.dense, at, inputs)
        for one in self.held:
            one.grad = None
        with torch.enable_grad():
            apart = _apart(self._run(self.cut, at, inputs), targets, self.turns[at], judges=False)
            loss = learning.missing_shares(apart.values()).sum() if apart else torch.tensor(torch.nan)
        if loss.isfinite():  # waits for a GPU, too
            loss.backward()
        for one, master in zip(self.held, self.masters, strict=True):
            if one is not master:
                master.grad = None if one.grad is None else one.grad.to(master.dtype)

    def _error(self) -> float:
        """How far the outputs are from the dense network's, where nothing is learned from."""
        sums: dict[int, Tensor] = {}
        for at in self.judging:
            apart = _apart(self._run(self.cut, at), self.targets[at], self.turns[at], judges=True)
            for number, squares in apart.items():
                sums[number] = sums.get(number, 0) + squares.cpu().double()
        return float(learning.missing_shares(sums.values()).mean().sqrt()) if sums else math.nan

    def _run(self, model: nn.Module, at: int, inputs: Any = None) -> list[Tensor]:
        """What a model puts out for a batch, or for a mixture in its place."""
        if model is self.cut:
            for one, master in zip(self.held, self.masters, strict=True):
                if one is not master:
                    one.data.copy_(master)
        batch = map_inputs(self.data[at] if inputs is None else inputs, torch.clone)
        args, kwargs = as_call(batch)
        with naming_batch(at), OwnNumbers():
            return output_tensors(model(*args, **kwargs), self.subject.groups.graph.state)


def _master(held: Tensor) -> Tensor:
    """The parameter itself, or a copy in float32 of one in less."""
    wide = torch.promote_types(held.dtype, torch.float32)
    return held if held.dtype == wide else held.detach().to(wide).requires_grad_()


def _comparable(made: Sequence[Tensor], targets: Sequence[Tensor]) -> dict[int, tuple[Tensor, Tensor]]:
    """Outputs of numbers beside those of the dense network, where they have one size, by their place."""
    return {
        at: (torch.view_as_real(one), torch.view_as_real(two)) if one.is_complex() else (one, two)
        for at, (one, two) in enumerate(zip(made, targets, strict=False))
        if one.shape == two.shape and one.dtype == two.dtype and (one.is_floating_point() or one.is_complex())
    }


def _apart(
    made: Sequence[Tensor], targets: Sequence[Tensor], turn: Turn, *, judges: bool
) -> dict[int, Tensor]:
    """Of each output: the squares that are missing, and those that there are."""
    found = {}
    for at, pair in _comparable(made, targets).items():
        one, two = (turn.part(tensor, judges=judges) for tensor in pair)
        found[at] = torch.stack([(one - two).square().sum(), two.square().sum()])
    return found


def _mixed(one: Any, two: Any, draw: torch.Generator) -> Any:
    """Mixtures of the samples of two batches, each with its own share; the first where they do not mix."""
    both = [[leaf for leaf in pytree.tree_leaves(batch) if isinstance(leaf, Tensor)] for batch in (one, two)]
    if any(len(leaves) != 1 or not leaves[0].is_floating_point() for leaves in both):
        return one
    (leaf,), (other,) = both
    if leaf.layout != torch.strided or leaf.shape != other.shape or not leaf.dim():
        return one
    turned = other.to(leaf).roll(int(torch.randint(len(other), (), generator=draw)), 0)
    shares = torch.rand(len(leaf), *[1] * (leaf.dim() - 1), generator=draw).to(leaf)
    return map_inputs(one, lambda tensor: torch.lerp(turned, tensor, shares))
