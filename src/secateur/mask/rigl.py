"""RigL: sparse from the start, with masks that move to where the gradient is.

Every few steps the share f(t) = a/2 (1 + cos(pi t / T)) of the unmasked weights, those of the smallest
magnitude, is masked, and as many masked ones of the largest gradient are unmasked and start from zero. The
number of weights of each tensor never changes.

References:
    Evci et al., "Rigging the Lottery: Making All Tickets Winners", ICML 2020, section 3 and algorithm 1.
    https://arxiv.org/abs/1911.11134
"""

from math import cos, pi
from typing import Any

import torch
from torch import Tensor, nn

from secateur.errors import RequestError
from secateur.mask.hook import attach, own
from secateur.mask.pruning import prune
from secateur.mask.reporting import Sparsity, sparsity_of
from secateur.mask.state import forget_masked, zero_in
from secateur.mask.targets import Selector, Target, choose


class RigL:
    """Trains a sparse model whose masks move.

    Gradients of masked weights are seen only at the step before a change, by a hook on the product of weight
    and mask; several processes average them, so that their masks stay equal.

    Args:
        model: Masked at random at once, in place; a model that has masks keeps them.
        optimizer: The one that trains; weights that are unmasked start from zero in its memory, too.
        sparsity: The share that is masked, always.
        end: The step after which masks stay; the authors stop at 75 % of the training.
        every: Steps between two changes.
        share: How much of the unmasked weights moves at the first change.
        scope: How the sparsity is spread over the tensors: "erk" or "uniform".
        select: Which tensors, as for `prune`.
        seed: Of the first, random masks.

    Example:
        >>> net = nn.Linear(20, 20)
        >>> sgd = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
        >>> rigl = RigL(net, sgd, sparsity=0.8, end=8, every=2)
        >>> before = net.weight_mask.clone()
        >>> for _ in range(4):
        ...     sgd.zero_grad()
        ...     net(torch.ones(1, 20)).square().sum().backward()
        ...     sgd.step()
        ...     _ = rigl.step()
        >>> f"{rigl.sparsity.sparsity:.2f}", bool((net.weight_mask != before).any())
        ('0.80', True)
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        *,
        sparsity: float,
        end: int,
        every: int = 100,
        share: float = 0.3,
        scope: str = "erk",
        select: Selector = None,
        seed: int = 0,
    ) -> None:
        if every < 1 or not 0 <= share <= 1:
            raise RequestError(f"every is {every}, share is {share}", do="pass every >= 1, 0 <= share <= 1")
        self.model, self.optimizer = model, optimizer
        self.end, self.every, self.share = end, every, share
        self.targets = choose(model, select)
        if sparsity_of(self.targets, of_masks=True).zeros == 0:
            prune(model, "random", sparsity=sparsity, scope=scope, select=select, seed=seed)
        self.steps = 0
        forget_masked(model, optimizer)
        self._listen()

    @property
    def sparsity(self) -> Sparsity:
        """How much is masked now."""
        return sparsity_of(self.targets, of_masks=True)

    def step(self) -> bool:
        """Take note of a training step; call it after `optimizer.step()`.

        Returns:
            Whether the masks changed.
        """
        self.steps += 1
        due = self.steps % self.every == 0 and self.steps < self.end
        if due:
            share = self.share / 2 * (1 + cos(pi * self.steps / self.end))
            for target in self.targets:
                self._move(target, share)
            forget_masked(self.model, self.optimizer)
        self._listen()
        return due

    def _listen(self) -> None:
        """See dense gradients during the step before a change only."""
        listens = (self.steps + 1) % self.every == 0 and self.steps + 1 < self.end
        for target in self.targets:
            for module, parameter in target.places:
                hook = own(module, parameter)
                hook.listens, hook.dense_gradient = listens, None

    def _move(self, target: Target, share: float) -> None:
        gradient = _dense_gradient(target)
        if gradient is None:
            return
        mask, weight = target.mask != 0, target.orig.detach()
        count = min(round(share * int(mask.sum())), int((~mask).sum()))
        if count == 0:
            return
        kept = mask.clone()
        small = weight.abs().masked_fill(~mask, torch.inf).flatten()
        kept.view(-1)[small.topk(count, largest=False).indices] = False
        growth = gradient.abs().masked_fill(kept, -torch.inf).flatten()
        grown = torch.zeros_like(kept)
        grown.view(-1)[growth.topk(count).indices] = True
        new = kept | grown
        fresh = grown & ~mask
        zero_in(target.orig, self.optimizer, fresh)
        for module, parameter in target.places:
            attach(module, parameter, new.to(target.orig.dtype))

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint must hold beside the model's state dict."""
        return {"steps": self.steps}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where another one stood."""
        self.steps = state["steps"]
        self._listen()


def _dense_gradient(target: Target) -> Tensor | None:
    """The gradient of the product, over all places and processes; None if no backward pass was seen."""
    found = [own(module, parameter).dense_gradient for module, parameter in target.places]
    seen = [gradient for gradient in found if gradient is not None]
    if not seen:
        return None
    total = torch.stack(seen).sum(0)
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.all_reduce(total)
    return total
