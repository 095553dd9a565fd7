"""The comparison of two results, position by position and channel by channel.

    error(e) = |expected(e) - got(e)| / max(|expected(e)|, scale of its channel)

The scale of a channel is the lower quartile of its magnitudes other than zero: neither a sentinel such as
the smallest number of a type nor one loud channel beside can hide another. Infinities and NaN must lie in
the same places.

The error must stay below the tolerance of the precision in which the numbers were computed; a tensor in
float32 loosens only what is computed from it, and only if it differs at all. Where an operator amplifies
rounding (a difference of nearly equal numbers), what it makes of inputs that are moved by less than the
tolerance is allowed.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any, NoReturn

import torch
from torch import Tensor

from secateur.capture import Step
from secateur.capture.foreign import require_own
from secateur.capture.inputs import as_real
from secateur.graph.node import Node
from secateur.proof.draws import UNWRITTEN, is_random, run
from secateur.proof.lockstep import Stopped
from secateur.proof.masking import Masker, results_of

TOLERANCE = 1e-9
"""Largest error of a right cut in float64; right ones show 1e-15, wrong ones 1e-3 to 3."""

TOLERANCES = {8: TOLERANCE, 4: 1e-3, 2: 1e-1}
"""By the bytes of the type in which numbers were computed."""

_JITTER = {8: 1e-12, 4: 1e-7, 2: 1e-3}
"""By how much inputs are moved to see what an operator makes of rounding."""

_AMPLIFIED = 1000
_SAMPLES = 16
_BLANK = {
    *UNWRITTEN,
    *(
        "aten.zeros_like",
        "aten.new_zeros",
        "aten.ones_like",
        "aten.new_ones",
        "aten.full_like",
        "aten.new_full",
    ),
}


@dataclass(frozen=True)
class Difference:
    """An operator whose results differ.

    Attributes:
        node: The recorded call.
        error: The relative error; infinite where shapes, infinities or NaN differ.
        tolerance: What it must stay below.
    """

    node: Node
    error: float
    tolerance: float

    @property
    def share(self) -> float:
        """The error as a share of what is allowed."""
        return self.error / self.tolerance if self.tolerance else math.inf


class Comparison:
    """Compares a cut model with the masked original at every operator.

    Args:
        masker: Knows what is kept of each recorded value.
        on_step: Computes an operator of the reference.
        foreign: The memory of the user's own model, which neither may compute with.

    Attributes:
        worst: The operator nearest to its tolerance; None if nothing could be compared.
        difference: The first one beyond it; the runs end there.
        compared: Indices of the operators of which some floating result was compared.
        silent: Those among them with a cut result that held one number only, in every run so far.
        undefined: Those with NaN in their results.
        loose: The first operator that computed in less than float64, with its bytes; None if all did.
    """

    def __init__(
        self,
        masker: Masker,
        on_step: Callable[[Step], Any],
        foreign: Mapping[int, str] = MappingProxyType({}),
    ) -> None:
        self.masker, self.on_step, self.foreign = masker, on_step, foreign
        self.worst: Difference | None = None
        self.difference: Difference | None = None
        self.compared: set[int] = set()
        self.silent: set[int] = set()
        self.undefined: set[int] = set()
        self.loose: tuple[Node, int] | None = None
        self._bytes: dict[int, int] = {}
        self._blank: set[int] = set()

    def compute(self, step: Step, leader: Step, expected: Any) -> Any:
        """Compute the cut model's operator; what the reference drew at random is taken from it."""
        if not is_random(step):
            return run(step)
        made = [
            item
            if ref is None or not isinstance(item, Tensor)
            else self.masker.kept_of(ref.value, item).clone()
            for ref, item in zip(leader.node.outputs, results_of(expected), strict=True)
        ]
        if leader.node.op.endswith("_"):
            return step.args[0].copy_(made[0])
        return tuple(made) if isinstance(expected, (tuple, list)) else made[0]

    def compare(self, leader: Step, expected: Any, step: Step, output: Any) -> None:
        """Compare the real numbers that one operator is given, and its results.

        Where another operator stands in its place, by the script of the cut model, only the results count.

        Raises:
            Stopped: They differ.
            ForeignTensorError: The cut model is given a tensor of the user's model.
        """
        node = leader.node
        require_own(_tensors(step), self.foreign, str(node))
        if node.index in self.masker.groups.graph.unused:
            return
        if node.op == step.node.op and not _same_reals(leader, step):
            self._differ(Difference(node, math.inf, 0.0))
        ours, theirs = results_of(expected), results_of(output)
        if len(ours) != len(theirs):
            self._differ(Difference(node, math.inf, 0.0))
        known = min((self._bytes.get(_memory(arg), 8) for arg in _tensors(step)), default=8)
        for at, (ref, one, two) in enumerate(zip(node.outputs, ours, theirs, strict=True)):
            if ref is None or not isinstance(one, Tensor) or not isinstance(two, Tensor):
                continue
            level = self._compare(leader, step, at, ref.value, one, two, known)
            if level < 8:
                self._bytes[_memory(two)] = level
            else:
                self._bytes.pop(_memory(two), None)

    def _compare(
        self, leader: Step, step: Step, at: int, value: int, one: Tensor, two: Tensor, known: int
    ) -> int:
        """Compare one result; returns the bytes of the precision it was computed in."""
        node = leader.node
        kept = self.masker.kept_of(value, one)
        if kept.shape != two.shape or kept.dtype != two.dtype:
            self._differ(Difference(node, math.inf, 0.0))
        is_number = one.is_floating_point() or one.is_complex()
        if not is_number or not kept.numel() or value not in self.masker.groups.graph.from_tensors:
            return known  # a constant counts where it meets numbers
        is_cut = self.masker.cut_dims(value)
        measured = measure(as_real(kept), as_real(two), is_cut[0] if is_cut else _channel_of(kept))
        is_constant = measured.is_constant and bool(is_cut) and not self._is_blank(node, two)
        self._note(node, is_constant=is_constant, has_nan=measured.has_nan)
        level = known if measured.error == 0 else min(known, max(as_real(one).dtype.itemsize, 2))
        if level < 8 and self.loose is None:
            self.loose = (node, level)
        found = Difference(node, measured.error, TOLERANCES[level])
        if measured.error > found.tolerance:
            if not self._is_rounding(leader, at, value, measured, level):
                self._differ(found)
            if all(_memory(arg) != _memory(two) for arg in _tensors(step)):
                two.copy_(kept)  # else all that is computed from it would differ, too
        elif self.worst is None or found.share > self.worst.share:
            self.worst = found
        if node.op != step.node.op:
            two.copy_(kept)  # it rounds otherwise, which is judged here and must not add up
        return level

    def _is_blank(self, node: Node, made: Tensor) -> bool:
        """Whether a result holds one number by intention, and nothing was written into it yet."""
        memory = _memory(made)
        is_blank = node.op in _BLANK or (memory in self._blank and not node.op.endswith("_"))
        (self._blank.add if is_blank else self._blank.discard)(memory)
        return is_blank

    def _note(self, node: Node, *, is_constant: bool, has_nan: bool) -> None:
        if is_constant and node.index not in self.compared:
            self.silent.add(node.index)
        elif not is_constant:
            self.silent.discard(node.index)
        self.compared.add(node.index)
        if has_nan:
            self.undefined.add(node.index)

    def _differ(self, found: Difference) -> NoReturn:
        self.difference = found
        raise Stopped

    def _is_rounding(self, leader: Step, at: int, value: int, measured: "Measured", level: int) -> bool:
        """Whether the operator makes as much of inputs that are moved by less than the tolerance.

        One that works in place has overwritten its inputs: there the channels of its result stand together.
        """
        if math.isinf(measured.error):
            return False
        if leader.node.op.endswith("_") or not (leader.args or leader.kwargs):
            return bool(measured.apart.max() <= TOLERANCES[level] * measured.scale.median())
        generator = torch.Generator().manual_seed(0)
        moved = replace(
            leader,
            args=_moved(leader.args, _JITTER[level], generator),
            kwargs={name: _moved(arg, _JITTER[level], generator) for name, arg in leader.kwargs.items()},
        )
        again = as_real(self.masker.kept_of(value, results_of(self.on_step(moved))[at]))
        shown = measure(again, measured.expected, measured.channel).apart
        share = TOLERANCES[level]
        if bool((shown > 100 * _JITTER[level] * measured.scale).any()):
            share *= _AMPLIFIED  # a root of what is zero up to rounding amplifies it here and not there
        allowed = torch.maximum(_AMPLIFIED * shown, share * measured.scale)
        return bool((measured.apart <= allowed).all())


@dataclass(frozen=True, eq=False)
class Measured:
    """Two results side by side.

    Attributes:
        expected: The first.
        channel: The dim of its channels.
        apart: Largest difference in each channel.
        scale: Scale of each channel.
        error: The largest relative error; infinite where infinities or NaN lie elsewhere.
        has_nan: Whether there is NaN in both.
        is_constant: Whether the first holds one number only, more than once.
    """

    expected: Tensor
    channel: int
    apart: Tensor
    scale: Tensor
    error: float
    has_nan: bool
    is_constant: bool


def measure(expected: Tensor, got: Tensor, channel: int) -> Measured:
    """Measure how far two results of the same shape are apart.

    Args:
        expected: A real tensor.
        got: Another one.
        channel: The dim in which scales may differ.

    Example:
        >>> sentinel = torch.tensor([[1.0, 2.0, -3e38], [2.0, 1.0, -3e38]])
        >>> other = sentinel + torch.tensor([0.0, 1e-3, 0.0])
        >>> round(measure(sentinel, other, 1).error, 4)
        0.001
    """
    if expected.dim() == 0:
        expected, got, channel = expected.view(1), got.view(1), 0
    sample = _sample(expected, channel)
    is_constant = sample.numel() > 1 and bool((sample == sample[0, 0]).all())
    apart = (expected - got).abs_()
    others = [dim for dim in range(apart.dim()) if dim != channel]
    most = apart.amax(others) if others else apart
    largest = float(most.max())
    if largest == 0:
        return Measured(expected, channel, most, most, 0.0, False, is_constant)
    has_nan = False
    if not math.isfinite(largest):
        finite = expected.isfinite() & got.isfinite()
        same = (expected == got) | (expected.isnan() & got.isnan()) | finite
        if not bool(same.all()):
            return Measured(expected, channel, most, most, math.inf, True, is_constant)
        has_nan = bool(expected.isnan().any())
        apart.masked_fill_(~finite, 0)
        most = apart.amax(others) if others else apart
    scale = _scale(sample)
    error = float((most / scale).max())
    if error > TOLERANCE:  # loud positions of a channel are measured by themselves
        shape = [-1 if dim == channel else 1 for dim in range(apart.dim())]
        error = float((apart / torch.maximum(expected.abs(), scale.view(shape)).nan_to_num_(1.0)).max())
    return Measured(expected, channel, most, scale, error, has_nan, is_constant)


def _sample(tensor: Tensor, channel: int) -> Tensor:
    """Some positions of every channel, spread evenly: a row for each channel."""
    held = tensor.movedim(channel, 0)
    left = _SAMPLES
    for dim in range(held.dim() - 1, 0, -1):
        size = held.shape[dim]
        step = max(1, -(-size // left))
        if step > 1:
            held = held[(slice(None),) * dim + (slice(step // 2, None, step),)]
        left = max(1, left // max(held.shape[dim], 1))
    return held.reshape(held.shape[0], -1)


def _scale(sample: Tensor) -> Tensor:
    """The lower quartile of the magnitudes of each channel, zeros and what is not finite left out.

    At least a thousandth of what the channels have in the middle: a channel that is hardly ever on holds
    rounding. Where there is no number but zero it is one, the size that parameters and inputs are drawn of.
    """
    sizes = sample.abs()
    sizes[(sizes == 0) | ~sizes.isfinite()] = math.inf
    sizes = sizes.sort(1).values
    counts = sizes.isfinite().sum(1)
    scale = sizes.gather(1, (counts // 4).clamp(max=sizes.shape[1] - 1).unsqueeze(1)).squeeze(1)
    known = scale[counts > 0]
    if not len(known):
        return torch.ones_like(scale)
    middle = float(known.median())
    return torch.where(counts > 0, scale.clamp(min=1e-3 * middle), middle)


def _channel_of(tensor: Tensor) -> int:
    """Where channels lie in a tensor of which nothing is cut."""
    return 1 if tensor.dim() == 4 else max(tensor.dim() - 1, 0)


def _moved(arg: Any, by: float, generator: torch.Generator) -> Any:
    """An argument with every real number moved by a share of itself and of the middle one."""
    if isinstance(arg, (list, tuple)):
        return type(arg)(_moved(item, by, generator) for item in arg)
    if not isinstance(arg, Tensor) or not arg.is_floating_point() or not arg.numel():
        return arg
    noise = torch.empty(arg.shape, dtype=arg.dtype, device="cpu").uniform_(-by, by, generator=generator)
    sizes = arg.abs()
    return arg + noise.to(arg.device) * (sizes + sizes.median().nan_to_num(0.0, 0.0, 0.0))


def _same_reals(one: Step, two: Step) -> bool:
    """Whether two calls pass the same real numbers, up to rounding: no size that a cut changes is one."""
    kinds = [tensor.dtype for tensor in _tensors(one) if tensor.is_floating_point() or tensor.is_complex()]
    tolerance = TOLERANCES[min((min(max(kind.itemsize, 2), 8) for kind in kinds), default=8)]
    return all(
        not isinstance(first, float)
        or first != first
        or (isinstance(second, (int, float)) and math.isclose(first, second, rel_tol=tolerance))
        for first, second in (
            *zip(one.args, two.args, strict=False),
            *((value, two.kwargs.get(name)) for name, value in one.kwargs.items()),
        )
    )


def _tensors(step: Step) -> list[Tensor]:
    flat = [*step.args, *step.kwargs.values()]
    return [
        item
        for arg in flat
        for item in (arg if isinstance(arg, (list, tuple)) else (arg,))
        if isinstance(item, Tensor)
    ]


def _memory(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()
