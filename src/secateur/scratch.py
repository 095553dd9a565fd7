"""The honest baselines: what the pruned architecture reaches when it is trained from scratch.

    scratch-e    as many epochs as the dense network had
    scratch-b    as much compute as the dense network had: more epochs, since each costs less

If fine-tuning a pruned network does not beat these, the pruning found an architecture, and its weights were
worth nothing.

References:
    Liu et al., "Rethinking the Value of Network Pruning", ICLR 2019, section 3.
    https://arxiv.org/abs/1810.05270
"""

from math import sqrt
from typing import Any

import torch
from torch import nn

from secateur.capture.unwrap import unwrap
from secateur.errors import RequestError
from secateur.pipeline import couple
from secateur.plans.plan import Plan

BASELINES = ("epochs", "compute")
"""What a network from scratch may have as much of as the dense one had."""


def from_scratch(fresh: nn.Module, plan: Plan, example_inputs: Any) -> nn.Module:
    """Make the pruned architecture with fresh weights.

    The fresh uncut network is cut by the plan. Its initialiser chose the spread of the weights by how many
    terms are summed, usually as 1 / sqrt(n); where the cut leaves fewer, the weights are scaled by
    sqrt(n / kept), so that each sum spreads as the initialiser meant it. What is constant (norms, biases of
    zero) stays.

    Args:
        fresh: The uncut architecture with fresh random weights; not changed.
        plan: What was pruned.
        example_inputs: As for `couple`.

    Returns:
        A new model of the pruned widths.

    Raises:
        CheckpointError: The plan was made for another architecture.

    Example:
        >>> import secateur as sc
        >>> _ = torch.manual_seed(0)
        >>> net, example = nn.Sequential(nn.Linear(4, 1024), nn.ReLU(), nn.Linear(1024, 8)), torch.zeros(1, 4)
        >>> model = from_scratch(net, sc.prune(net, example, ratio=0.75).plan, example)
        >>> model[2].in_features, round(float((model[2].weight.std() / net[2].weight.std()).detach()), 1)
        (256, 2.0)
    """
    fresh = unwrap(fresh)
    model = plan.apply(fresh)
    before = dict(fresh.named_parameters(remove_duplicate=False))
    after = dict(model.named_parameters(remove_duplicate=False))
    summed = {
        (id(after[member.tensor]), member.dim): (after[member.tensor], before[member.tensor])
        for group in couple(fresh, example_inputs)
        for member in group.members
        if member.is_contracted and member.tensor in after and member.tensor in before
    }
    with torch.no_grad():
        for (_, dim), (cut, whole) in summed.items():
            if cut.shape[dim] < whole.shape[dim]:
                cut.mul_(sqrt(whole.shape[dim] / cut.shape[dim]))
    return model


def scratch_epochs(baseline: str, epochs: int, dense_macs: int, macs: int) -> int:
    """Count the epochs that a network from scratch is due.

    Args:
        baseline: "epochs" (scratch-e) or "compute" (scratch-b).
        epochs: What the dense network was trained for.
        dense_macs: MACs of its forward pass.
        macs: MACs of the pruned network's.

    Returns:
        The epochs, at least as many as the dense network had and never more compute.

    Raises:
        RequestError: The baseline is unknown.

    Example:
        >>> scratch_epochs("epochs", 30, 800, 300), scratch_epochs("compute", 30, 800, 300)
        (30, 80)
    """
    if baseline not in BASELINES:
        raise RequestError(
            f"unknown baseline '{baseline}'", [f"known: {', '.join(BASELINES)}"], "choose one of them"
        )
    return epochs if baseline == "epochs" else max(epochs, epochs * dense_macs // max(macs, 1))


def require_fresh(one: nn.Module, other: nn.Module) -> None:
    """Make sure that what builds a network draws its weights.

    Args:
        one: A network that was built.
        other: The same, built after another seed.

    Raises:
        RequestError: A weight of both is the same and not constant: it was loaded.

    Example:
        >>> require_fresh(nn.Linear(3, 2), nn.Linear(3, 2))
        >>> net = nn.Linear(3, 2)
        >>> require_fresh(net, net)
        Traceback (most recent call last):
        ...
        secateur.errors.RequestError: weight is the same after another seed: it was loaded, not drawn
          a baseline from scratch must start from fresh weights
          build the architecture without its weights
    """
    others = dict(other.named_parameters())
    for name, parameter in one.named_parameters():
        held = parameter.detach()
        constant = bool((held == held.flatten()[:1]).all())
        if parameter.requires_grad and held.ndim > 1 and not constant and torch.equal(held, others[name]):
            raise RequestError(
                f"{name} is the same after another seed: it was loaded, not drawn",
                ["a baseline from scratch must start from fresh weights"],
                "build the architecture without its weights",
            )
