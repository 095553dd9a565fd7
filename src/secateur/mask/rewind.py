"""Lottery tickets: train, mask, and go back to where training began, with the mask kept.

References:
    Frankle and Carbin, "The Lottery Ticket Hypothesis", ICLR 2019, section 1.
    https://arxiv.org/abs/1803.03635
    Frankle et al., "Linear Mode Connectivity and the Lottery Ticket Hypothesis", ICML 2020, section 4
    (rewinding to epoch k). https://arxiv.org/abs/1912.05671
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from secateur.errors import RequestError
from secateur.mask.hook import refresh
from secateur.mask.pruning import prune
from secateur.mask.reporting import Sparsity
from secateur.mask.state import trained_keys


class Snapshot:
    """The values of a model at one moment, by names that masks do not change.

    Args:
        model: Not changed; all its parameters and buffers are copied.

    Example:
        >>> net = nn.Linear(4, 2)
        >>> start = Snapshot(net)
        >>> _ = prune(net, amount=0.5)
        >>> with torch.no_grad():
        ...     _ = net.weight_orig.add_(1.0)
        >>> start.rewind(net)
        >>> torch.equal(net.weight, start.values["weight"] * net.weight_mask)
        True
    """

    def __init__(self, model: nn.Module) -> None:
        state = model.state_dict()
        self.values = {name: state[key].clone() for name, key in trained_keys(state).items()}

    def rewind(self, model: nn.Module, optimizer: torch.optim.Optimizer | None = None) -> None:
        """Set a model back to the snapshot; its masks stay.

        Values go to `weight_orig`, which is what the next forward pass reads; writing them to `weight` of a
        masked module would be undone by it.

        Args:
            model: The model of the snapshot, masked since or not; changed in place.
            optimizer: If given, it forgets everything: momentum of the past is no part of the ticket.

        Raises:
            RequestError: The model has other tensors.
        """
        state = model.state_dict()
        keys = trained_keys(state)
        for name, value in self.values.items():
            if name not in keys or state[keys[name]].shape != value.shape:
                raise RequestError(
                    f"the snapshot has {name} {list(value.shape)}, {type(model).__name__} does not",
                    do="rewind the model that the snapshot was taken of",
                )
        for name, value in self.values.items():
            state[keys[name]].copy_(value)
        if optimizer is not None:
            optimizer.state.clear()
        refresh(model)


def find_ticket(
    model: nn.Module,
    train: Callable[[nn.Module], Any],
    *,
    sparsity: float,
    rounds: int = 1,
    snapshot: Snapshot | None = None,
    **how: Any,
) -> Sparsity:
    """Find a lottery ticket by iterative magnitude pruning.

    Each round trains, masks an equal share of what is left, so that the last one reaches `sparsity`, and
    rewinds. Train the result once more to see what the ticket is worth.

    Args:
        model: Changed in place: masked and rewound.
        train: Trains the model it is given, in place, with an optimizer of its own.
        sparsity: Share of weights that is masked in the end.
        rounds: How many times to train and mask.
        snapshot: Where to rewind to; None for the model as it is given. For "epoch k" train k epochs, take a
            snapshot, and pass it.
        **how: Further arguments of `prune`, such as `scope="global"`.

    Returns:
        The sparsity reached.

    Example:
        >>> net = nn.Linear(10, 10)
        >>> print(find_ticket(net, lambda model: None, sparsity=0.75, rounds=2))
        tensor  shape  zeros   of  sparsity
        weight  10x10     75  100    75.00%
        all               75  100    75.00%
    """
    if rounds < 1 or not 0 <= sparsity < 1:
        raise RequestError(
            f"sparsity is {sparsity} in {rounds} rounds", do="pass a share below 1 and at least one round"
        )
    start = snapshot or Snapshot(model)
    for done in range(1, rounds + 1):
        train(model)
        result = prune(model, sparsity=1 - (1 - sparsity) ** (done / rounds), **how)
        start.rewind(model)
    return result
