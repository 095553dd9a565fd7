"""How long a forward pass takes on this machine."""

import statistics
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.utils import _pytree as pytree

from secateur.capture import as_call
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
        model: The model; its training mode is restored.
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
    if repeats < 3:
        raise RequestError(f"repeats is {repeats}", ["allowed: 3 or more"], "raise it: quartiles need three")
    if threads is not None and threads < 1:
        raise RequestError(f"threads is {threads}", ["allowed: 1 or more"], "raise it")
    args, kwargs = as_call(example_inputs)
    first = next(leaf for leaf in pytree.tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor))
    times: list[float] = []
    with quiet(model, threads), torch.inference_mode():
        for _ in range(warmup):
            model(*args, **kwargs)
        started = time.perf_counter()
        while len(times) < repeats and (len(times) < 3 or time.perf_counter() - started < limit_s):
            _synchronise(first.device)
            begin = time.perf_counter()
            model(*args, **kwargs)
            _synchronise(first.device)
            times.append(1000 * (time.perf_counter() - begin))
        used = torch.get_num_threads()
    lower, median, upper = statistics.quantiles(times, n=4, method="inclusive")
    batch = first.shape[0] if first.dim() else 1
    return Latency(median, lower, upper, len(times), used, batch, str(first.device))


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
    for _ in range(rounds):
        for found, model in zip(times, models, strict=True):
            found.append(latency(model, example_inputs, repeats=repeats, warmup=warmup, threads=threads))
    return [min(found, key=lambda one: one.median_ms) for found in times]


def _synchronise(device: torch.device) -> None:
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
