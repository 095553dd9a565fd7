"""Learning rates, step by step.

    warm-up:   lr (t / (burn_in T))^4                         the first burn_in T of T steps
    step:      lr, tenfold smaller from 50 % of all steps on, and again from 75 %
    cosine:    lr (1 + cos(pi t / T)) / 2
    poly:      lr (1 - t / T)^4
    steps:     lr times the scales whose step is passed
    constant:  lr

Counted in optimizer steps and not in epochs, so that short runs, and odd numbers of epochs, are cut where
long ones are (the upstream scripts compare `epoch == epochs * 0.5`, which an odd number never meets).

References:
    Liu et al., ICCV 2017, section 4.2 (step). https://arxiv.org/abs/1708.06519
    Loshchilov and Hutter, "SGDR", ICLR 2017, equation 5, without restarts. https://arxiv.org/abs/1608.03983
    `get_current_rate` of Darknet's `src/network.c` (warm-up, poly, steps).
"""

import math
from collections.abc import Callable

from secateur.train.config import FitConfig

_POWER = 4


def _steps(config: FitConfig, step: int, total: int) -> float:
    passed = (scale for at, scale in zip(config.steps, config.scales, strict=True) if step / total >= at)
    return config.lr * math.prod(passed)


_RATES: dict[str, Callable[[FitConfig, int, int], float]] = {
    "step": lambda config, step, total: config.lr / 10 ** ((step * 2 >= total) + (step * 4 >= total * 3)),
    "cosine": lambda config, step, total: config.lr * (1 + math.cos(math.pi * step / total)) / 2,
    "poly": lambda config, step, total: config.lr * (1 - step / total) ** _POWER,
    "steps": _steps,
    "constant": lambda config, step, total: config.lr,
}


def learning_rate(config: FitConfig, step: int, total: int) -> float:
    """Compute the learning rate of one optimizer step.

    Args:
        config: The run's settings.
        step: Index of the step over the whole run, from 0.
        total: Number of steps of the whole run.

    Returns:
        The learning rate.

    Example:
        >>> [round(learning_rate(FitConfig(epochs=1), step, 4), 6) for step in range(4)]
        [0.1, 0.1, 0.01, 0.001]
    """
    warm = config.burn_in * total
    if step + 1 < warm:
        return config.lr * ((step + 1) / warm) ** _POWER
    return _RATES[config.schedule](config, step, total)


def learning_rates(config: FitConfig, steps_per_epoch: int) -> list[float]:
    """List the learning rates of all steps of a run.

    Args:
        config: The run's settings.
        steps_per_epoch: Batches of one epoch.

    Returns:
        One learning rate per optimizer step.

    Example:
        >>> round(sum(learning_rates(FitConfig(epochs=2), 100)), 6)
        10.55
    """
    total = config.epochs * steps_per_epoch
    return [learning_rate(config, step, total) for step in range(total)]
