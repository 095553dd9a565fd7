"""What the steps that take gradients share: who learns, who judges, how long it takes, and Adam itself.

One batch in four takes no part in learning (with fewer than four batches: the last quarter of each one's
samples), and what was learned is kept only where the error on these is lower.
"""

import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

STEPS = 200
RATE = 1e-3
FOLDS = 4
"""One batch, or one sample, in so many is held back."""

CHECKS = 4
"""How often the held-back samples are looked at; the best of these counts."""

_TINY = 1e-12
_SMALL = 0.01
"""What tensors of smaller numbers (biases that start at zero) count as."""

_FEWEST_STEPS = 12


@dataclass(frozen=True)
class Turn:
    """What a batch is for.

    Attributes:
        learns: Steps learn from it.
        judges: It decides whether what was learned is kept.
        is_whole: All of its samples do the one or the other; else the last quarter judges.
    """

    learns: bool
    judges: bool
    is_whole: bool

    def part(self, tensor: Tensor, *, judges: bool) -> Tensor:
        """The samples of a tensor that judge, or those to learn from, in float32 at least.

        Args:
            tensor: Samples along its first dim, where the batch is shared.
            judges: Those that judge.
        """
        tensor = tensor if tensor.dtype == torch.float64 else tensor.float()
        if self.is_whole:
            return tensor
        at = len(tensor) - len(tensor) // FOLDS
        return tensor[at:] if judges else tensor[:at]

    def obstacle(self, targets: Sequence[Tensor]) -> str:
        """Why some outputs cannot be judged, or nothing."""
        if self.is_whole or all(one.dim() and len(one) >= FOLDS for one in targets):
            return ""
        return f"pass {FOLDS} batches or more: one of them judges what is learned"


def turns(count: int) -> list[Turn]:
    """What each of so many batches is for.

    Example:
        >>> [turn.judges for turn in turns(5)], turns(1)[0].is_whole
        ([False, False, False, True, False], False)
    """
    if count < FOLDS:
        return [Turn(True, True, False)] * count
    return [Turn(at % FOLDS != FOLDS - 1, at % FOLDS == FOLDS - 1, True) for at in range(count)]


def judged_on(turns: Sequence[Turn]) -> str:
    """Which samples judge, in words."""
    judging = sum(turn.judges for turn in turns)
    count = f"{judging} batch{'es' * (judging > 1)}"
    return f"on {count if turns[0].is_whole else f'the last quarter of {count}'}, not learned from"


def steps_within(limit: float, each: float, judging: int) -> int:
    """How many steps fit: halved until they do.

    Args:
        limit: Seconds for all of it.
        each: Seconds of a step.
        judging: Batches that are looked at `CHECKS` times, and before; a pass without gradients is a third of
            a step.

    Example:
        >>> steps_within(300, 1.0, 2), steps_within(100, 1.0, 2)
        (200, 50)
    """
    steps = STEPS
    while steps > _FEWEST_STEPS and needed(steps, each, judging) > limit:
        steps //= 2
    return steps


def needed(steps: int, each: float, judging: int) -> float:
    """Seconds that so many steps take, as `steps_within` counts."""
    return each * (steps + (CHECKS + 1) * judging / 3)


def told(seconds: float) -> str:
    """Seconds as they are said before."""
    return f"{seconds:,.0f}" if seconds > 10 else f"{max(seconds, 0.1):.1f}"


def order(count: int, steps: int, seed: int) -> list[int]:
    """Which batch each step learns from: each once before any comes again.

    Args:
        count: Batches to learn from.
        steps: So many steps.
        seed: Of the order.
    """
    draw = torch.Generator().manual_seed(seed)
    rounds = [torch.randperm(count, generator=draw, device="cpu") for _ in range(-(-steps // count))]
    return torch.cat(rounds)[:steps].tolist()


def missing_shares(apart: Collection[Tensor]) -> Tensor:
    """Which share of each output's squares is missing.

    Args:
        apart: Of each output two numbers: the squares that are missing, and those that there are.
    """
    missing, size = torch.stack([*apart]).unbind(-1)
    return missing / size.clamp(min=_TINY)


def learn(
    tensors: Sequence[Tensor],
    steps: int,
    descend: Callable[[int], object],
    judge: Callable[[], float],
    *,
    checks: int = CHECKS,
    share: float = math.inf,
) -> tuple[float, float, list[Tensor]]:
    """Take steps of Adam along a cosine to zero.

    Args:
        tensors: What learns; left as the last step leaves it.
        steps: So many.
        descend: Gives the tensors their gradients for a step.
        judge: The error where nothing is learned from.
        checks: How often it is asked on the way, the last time behind the last step.
        share: How much of itself a tensor changes by in a step, at most; the rate is `RATE` at most.

    Returns:
        The error before, the least that was seen, and the tensors that had it, none if that is the first.
    """
    before = after = judge()
    best: list[Tensor] = []
    if not math.isfinite(before):
        return before, after, best
    rates = [
        min(RATE, share * max(float(tensor.detach().square().mean().sqrt()), _SMALL)) for tensor in tensors
    ]
    optimizer = torch.optim.Adam([{"params": [tensor]} for tensor in tensors])
    for at in range(steps):
        for group, rate in zip(optimizer.param_groups, rates, strict=True):
            group["lr"] = rate * (1 + math.cos(math.pi * at / steps)) / 2
        descend(at)
        optimizer.step()
        if (at + 1) * checks // steps > at * checks // steps:
            error = judge()
            if error < after:
                after, best = error, [tensor.detach().clone() for tensor in tensors]
    return before, after, best
