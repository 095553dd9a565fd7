"""How long a forward pass takes on this machine."""

import statistics
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.utils import _pytree as pytree

from secateur.capture import as_call
from secateur.capture.outside import outside_kept
from secateur.capture.randomness import OwnNumbers
from secateur.capture.shadow import shadow
from secateur.capture.unwrap import require_whole
from secateur.errors import RequestError


@dataclass(frozen=True)
class Latency:
    """How long a forward pass takes.

    Attributes:
        median_ms: Median over the repeats.
        lower_ms: First quartile.
        upper_ms: Third quartile.
        repeats: Number of timed passes.
        threads: Threads that PyTorch used inside an operator.
        batch: Size of the first dim of the first input.
        device: Where it ran.
    """

    median_ms: float
    lower_ms: float
    upper_ms: float
    repeats: int
    threads: int
    batch: int
    device: str

    def __str__(self) -> str:
        return (
            f"{self.median_ms:.3g} ms (quartiles {self.lower_ms:.3g} to {self.upper_ms:.3g}, "
            f"{self.repeats} repeats, batch {self.batch}, {self.threads} threads, {self.device})"
        )


def latency(
    model: nn.Module,
    example_inputs: Any,
    *,
    repeats: int = 30,
    warmup: int = 3,
    threads: int | None = 1,
    limit_s: float = 10.0,
) -> Latency:
    """Time the forward pass in eval mode.

    Args:
        model: The model; a copy of it is timed, or itself where it is compiled.
        example_inputs: A tensor, a tuple of positional inputs or a dict of keyword inputs.
        repeats: Timed passes; fewer if `limit_s` runs out, at least three.
        warmup: Passes before the first timed one.
        threads: Threads inside an operator; one is steadiest on a shared machine. None leaves PyTorch's.
        limit_s: Seconds after which no further pass is started.

    Raises:
        RequestError: Fewer than three passes, which have no quartiles, or less than one thread.

    Example:
        >>> latency(nn.Linear(4, 2), torch.zeros(8, 4), repeats=5).batch
        8
    """
    require_whole(model)
    if repeats < 3:
        raise RequestError(f"repeats is {repeats}", ["allowed: 3 or more"], "raise it: quartiles need three")
    if threads is not None and threads < 1:
        raise RequestError(f"threads is {threads}", ["allowed: 1 or more"], "raise it")
    return _timed(_to_time(model), example_inputs, repeats, warmup, threads, limit_s)


def _to_time(model: nn.Module) -> nn.Module:
    """A copy of a model, as a run may leave something behind in it; a compiled one would be compiled anew."""
    inner = (
        module for module in model.modules() if hasattr(module, "_orig_mod") or module._compiled_call_impl
    )
    return shadow(model) if next(inner, None) is None else model


def _timed(
    model: nn.Module, example_inputs: Any, repeats: int, warmup: int, threads: int | None, limit_s: float
) -> Latency:
    times = passes_ms(model, example_inputs, repeats, warmup=warmup, threads=threads, limit_s=limit_s)
    return latency_of(times, example_inputs, torch.get_num_threads() if threads is None else threads)


def latency_of(times: Sequence[float], example_inputs: Any, threads: int) -> Latency:
    """Median and quartiles of the milliseconds of some passes.

    Args:
        times: At least two.
        example_inputs: What they were given.
        threads: Threads inside an operator.
    """
    first = _first(example_inputs)
    lower, median, upper = statistics.quantiles(times, n=4, method="inclusive")
    batch = first.shape[0] if first.dim() else 1
    return Latency(median, lower, upper, len(times), threads, batch, str(first.device))


def _first(example_inputs: Any) -> torch.Tensor:
    leaves = pytree.tree_leaves(as_call(example_inputs))
    return next(leaf for leaf in leaves if isinstance(leaf, torch.Tensor))


def passes_ms(
    model: nn.Module,
    example_inputs: Any,
    repeats: int,
    *,
    warmup: int,
    threads: int | None,
    limit_s: float = float("inf"),
) -> list[float]:
    """The milliseconds of each of some passes of a model itself, in eval mode.

    Args:
        model: The model.
        example_inputs: What it is given.
        repeats: Timed passes; fewer if `limit_s` runs out, at least three of those.
        warmup: Passes before them, at least one.
        threads: Threads inside an operator; None leaves PyTorch's.
        limit_s: Seconds after which no further pass is started.
    """
    args, kwargs = as_call(example_inputs)
    device = _first(example_inputs).device
    times: list[float] = []
    with quiet(model, threads), torch.inference_mode(), untouching(model, args, kwargs):
        for _ in range(warmup - 1):
            model(*args, **kwargs)
        started = time.perf_counter()
        while len(times) < repeats and (len(times) < 3 or time.perf_counter() - started < limit_s):
            synchronise(device)
            begin = time.perf_counter()
            model(*args, **kwargs)
            synchronise(device)
            times.append(1000 * (time.perf_counter() - begin))
    return times


def latency_in_turn(
    models: Sequence[nn.Module],
    example_inputs: Any,
    *,
    rounds: int = 5,
    repeats: int = 10,
    warmup: int = 3,
    threads: int | None = 1,
) -> list[Latency]:
    """Time models in turn, so that other work on the machine meets all of them alike.

    Args:
        models: The models.
        example_inputs: Inputs of all of them.
        rounds: How often each is timed.
        repeats: Timed passes in a round, at least three.
        warmup: Passes before the first timed one of a round.
        threads: As for `latency`.

    Returns:
        For each model its fastest round.

    Example:
        >>> [one.batch for one in latency_in_turn([nn.Linear(4, 2), nn.Linear(4, 1)], torch.zeros(8, 4))]
        [8, 8]
    """
    times: list[list[Latency]] = [[] for _ in models]
    copies = [_to_time(model) for model in models]
    for _ in range(rounds):
        for found, model in zip(times, copies, strict=True):
            found.append(_timed(model, example_inputs, repeats, warmup, threads, limit_s=10.0))
    return [min(found, key=lambda one: one.median_ms) for found in times]


@contextmanager
def untouching(model: nn.Module, args: Any, kwargs: Any) -> Iterator[None]:
    """Run a model once, then leave nothing behind of its runs: no table beside it, no number drawn."""
    with outside_kept(model):
        numbers = OwnNumbers()
        with numbers:
            model(*args, **kwargs)
        with numbers if numbers.has_drawn else nullcontext():  # it takes time at every operator
            yield


def synchronise(device: torch.device) -> None:
    """Wait for what a device still has to do."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


@contextmanager
def quiet(model: nn.Module, threads: int | None) -> Iterator[None]:
    """Put a model in eval mode and PyTorch on so many threads; both are given back."""
    modes = {module: module.training for module in model.modules()}
    before = torch.get_num_threads()
    model.eval()
    if threads is not None:
        torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)
        for module, mode in modes.items():
            module.training = mode
