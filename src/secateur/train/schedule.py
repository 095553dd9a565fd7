"""Learning rates, step by step.

    step:    lr, tenfold smaller from 50 % of all steps on, and again from 75 %
    cosine:  lr * (1 + cos(pi * t / T)) / 2

Counted in optimizer steps and not in epochs, so that short runs, and odd numbers of epochs, are cut where
long ones are (the upstream scripts compare `epoch == epochs * 0.5`, which an odd number never meets).

References:
    Liu et al., ICCV 2017, section 4.2. https://arxiv.org/abs/1708.06519
    Loshchilov and Hutter, "SGDR", ICLR 2017, equation 5, without restarts. https://arxiv.org/abs/1608.03983
"""

import math

from secateur.train.config import FitConfig


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
    if config.schedule == "cosine":
        return config.lr * (1 + math.cos(math.pi * step / total)) / 2
    cuts = (step * 2 >= total) + (step * 4 >= total * 3)
    return config.lr / 10**cuts


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
