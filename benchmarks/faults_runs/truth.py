"""Is a wrong cut really wrong? Two cuts run in float64 at several draws of parameters and inputs.

No line of the proof is used: both models are cut by the plan, the one is then given the fault, and their
outputs are compared number by number.
"""

import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from zoo_runs.inputs import as_call, map_tensors, output_tensors

from faults_runs.kinds import Cut, Fault, tensors_of, write
from secateur.capture.copies import copy_module

Draws: TypeAlias = tuple[int | None, ...]
Look: TypeAlias = Callable[[nn.Module, Any], list[Tensor]]

EQUAL = 1e-12
"""Largest difference, as `difference` measures it, of two cuts that compute the same in float64."""

_EQUAL_FLOAT32 = 1e-5

DRAWS = (None, *range(1, 12))
"""Seeds of parameters and inputs; None is the model and its example as they are.

A dozen, as a channel behind a ReLU is off in half of the draws.
"""


@dataclass(frozen=True)
class Truth:
    """How far a wrong cut is from the right one.

    Attributes:
        error: Largest difference of the outputs, as `difference` measures it, the worst of all draws.
        draws: Draws on which both models ran.
        tolerance: Below it the fault cannot be seen in any output.
    """

    error: float
    draws: int
    tolerance: float = EQUAL

    @property
    def is_visible(self) -> bool:
        """Some output differs; without a draw that ran, nobody knows and it counts as visible."""
        return not self.draws or not self.error <= self.tolerance


def outputs(model: nn.Module, inputs: Any) -> list[Tensor]:
    """The output tensors of a run without gradients; random numbers that the model draws are the same."""
    args, kwargs = as_call(map_tensors(inputs, torch.clone))
    with torch.no_grad(), torch.random.fork_rng():
        torch.manual_seed(0)
        return output_tensors(model.eval()(*args, **kwargs))


def compare(
    right: Cut, fault: Fault, example_inputs: Any, draws: Draws = DRAWS, look: Look = outputs
) -> Truth:
    """Compare the right and the wrong cut of a model.

    Args:
        right: The right cut.
        fault: What is wrong.
        example_inputs: Inputs of the model.
        draws: Seeds for parameters and inputs.
        look: Runs a model and returns what is compared.

    Raises:
        RuntimeError: The wrong cut does not run at all.
    """
    for dtype, tolerance in ((torch.float64, EQUAL), (torch.float32, _EQUAL_FLOAT32)):
        errors, failure = [], None
        for seed in draws:
            uncut, inputs = drawn(right.model, example_inputs, seed, dtype)
            try:
                expected = look(right.plan.apply(uncut), inputs)
            except Exception:  # noqa: BLE001 - a draw that the right cut does not take says nothing
                continue
            try:
                got = look(fault.plant(uncut, right.plan.apply(uncut)), inputs)
            except Exception as error:  # noqa: BLE001 - any failure is a difference
                failure = error
                continue
            errors.append(difference(expected, got))
        if failure is not None and not errors:
            raise RuntimeError(f"the wrong cut does not run: {failure}")
        if errors:
            return Truth(float("inf") if failure else max(errors), len(errors), tolerance)
    return Truth(float("nan"), 0)


def drawn(
    model: nn.Module, example_inputs: Any, seed: int | None, dtype: torch.dtype
) -> tuple[nn.Module, Any]:
    """A copy of a model with parameters of a seed, and inputs of the same seed."""
    uncut = copy_module(model).to(dtype).eval()
    inputs = map_tensors(example_inputs, lambda leaf: leaf.to(dtype) if leaf.is_floating_point() else leaf)
    if seed is None:
        return uncut, inputs
    generator = torch.Generator().manual_seed(seed)
    _draw(uncut, generator)
    return uncut, map_tensors(
        inputs,
        lambda leaf: (
            torch.randn(leaf.shape, generator=generator, dtype=torch.float64).to(leaf.dtype)
            if leaf.is_floating_point()
            else leaf
        ),
    )


def _draw(model: nn.Module, generator: torch.Generator) -> None:
    """Give a model random parameters and buffers, in place.

    Vectors are drawn around zero, so that a channel behind a ReLU is on in half of the draws. What is
    positive (variances, scales) stays so; infinities (masks) and integers stay.
    """
    with torch.no_grad():
        for tensor in {id(held): held for held in [*model.parameters(), *model.buffers()]}.values():
            if not tensor.is_floating_point() or not tensor.numel() or not bool(tensor.isfinite().all()):
                continue
            noise = torch.randn(tensor.shape, generator=generator, dtype=torch.float64)
            if bool((tensor > 0).all()):
                tensor.copy_(torch.exp(0.5 * noise.tanh()))
            elif tensor.dim() > 1 and isinstance(tensor, nn.Parameter):
                tensor.copy_(noise / max(tensor[0].numel(), 1) ** 0.5)
            else:
                tensor.copy_(noise / 2)


def difference(expected: list[Tensor], got: list[Tensor]) -> float:
    """Largest difference of two lists of outputs, each over the expected number or their median size.

    Not over the largest: one number of 1e9 must not hide the others.

    Example:
        >>> difference([torch.tensor([1.0, 1.0, 1e9])], [torch.tensor([1.0, 1.5, 1e9])])
        0.5
    """
    if len(expected) != len(got):
        return float("inf")
    return max((_difference(one, two) for one, two in zip(expected, got, strict=True)), default=0.0)


def _difference(expected: Tensor, got: Tensor) -> float:
    if expected.shape != got.shape or expected.dtype != got.dtype:
        return float("inf")
    if not expected.is_floating_point() and not expected.is_complex():
        return 0.0 if torch.equal(expected, got) else float("inf")
    if expected.is_complex():
        expected, got = torch.view_as_real(expected), torch.view_as_real(got)
    expected, got = expected.double(), got.double()
    finite = expected.isfinite()
    if not torch.equal(torch.nan_to_num(expected[~finite], 7.0), torch.nan_to_num(got[~finite], 7.0)):
        return float("inf")
    if not bool(got[finite].isfinite().all()):
        return float("inf")
    sizes = expected[finite].abs()
    if not sizes.numel():
        return 0.0
    typical = sizes[sizes > 0].median() if bool((sizes > 0).any()) else sizes.new_ones(())
    return float(((expected - got)[finite].abs() / sizes.clamp(min=typical)).max())


def depends_on(
    right: Cut, fault: Fault, example_inputs: Any, draws: Draws = DRAWS, look: Look = outputs
) -> bool:
    """Whether any output changes when the wrong entries of a tensor get noise instead of what they hold."""

    def noise(uncut: nn.Module, cut: nn.Module) -> nn.Module:
        correct = tensors_of(cut)[fault.tensor].detach().clone()
        wrong = tensors_of(fault.plant(uncut, cut))[fault.tensor].detach()
        generator = torch.Generator().manual_seed(5)
        drawn = torch.randn(correct.shape, generator=generator, dtype=torch.float64).to(correct.dtype)
        return write(cut, fault.tensor, torch.where(wrong != correct, drawn, correct))

    noisy = Fault("noise", fault.where, "", noise, fault.tensor)
    with contextlib.suppress(RuntimeError):
        return compare(right, noisy, example_inputs, draws, look).is_visible
    return True
