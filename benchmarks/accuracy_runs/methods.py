"""The methods of the accuracy benchmark: criteria of the registry with recovery, and those of Torch-Pruning.

Torch-Pruning takes a ratio, so a bisection looks for the one that leaves the MACs asked for, as secateur
counts them. It is driven as its own tests and papers drive these networks:

* convolutional networks by one global ranking;
* torchvision's vision transformer with `out_proj` of each attention ignored (it goes with the attention), the
  stream rounded to the number of heads, `hidden_dim` set afterwards as the network reads it in `forward`, and
  isomorphic ranking, which its authors advise for transformers (https://arxiv.org/abs/2407.04616). Attention
  of torch.nn has one width for the stream and the heads: it takes them together. Passing it as `num_heads`
  leaves the stream whole, and then no ratio removes half of the MACs.

Its `OBDCImportance` is missing: its own preparation crashes in 1.6.1 on networks without attention.
"""

import copy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch_pruning as tp
from torch import Tensor, nn
from torch.nn import functional as F

import secateur as sc

Batches = list[tuple[Tensor, Tensor]]
Method = Callable[[nn.Module, Tensor, float, Batches, int], Iterator[tuple[str, nn.Module, float]]]
"""From model, example, share of MACs to leave, batches and seed to the stages: name, model, MACs left."""

Prepare = Callable[[Any, Batches], None]
"""From a pruner of Torch-Pruning and batches: what its criterion reads when it scores."""

NEAR = 0.05
"""How far from the MACs asked for a peer may end, as a share of the dense model's."""


@dataclass(frozen=True)
class Way:
    """How a criterion of Torch-Pruning is driven.

    Attributes:
        is_global: One ranking for all groups, isomorphic ones alone where there is attention.
        steps: So many cuts, each after a look at the network that the last one left.
        round_to: Widths are multiples of this; None for any, or for whole heads.
    """

    is_global: bool = True
    steps: int = 1
    round_to: int | None = None


def nothing(pruner: Any, batches: Batches) -> None:
    """For criteria of weights."""


def gradients(pruner: Any, batches: Batches) -> None:
    """Leave the gradients of the mean loss in the parameters."""
    for images, labels in batches:
        (F.cross_entropy(pruner.model(images), labels) / len(batches)).backward()


def squared_gradients(pruner: Any, batches: Batches) -> None:
    """Hand over gradients of single images (of one batch: 1.6.1 forgets all but the last image's)."""
    for image, label in zip(*(part.split(1) for part in batches[-1]), strict=True):
        pruner.model.zero_grad()
        F.cross_entropy(pruner.model(image), label).backward()
        pruner.importance.accumulate_grad(pruner.model)


def activations(pruner: Any, batches: Batches) -> None:
    """Show all images at once: the criterion keeps one batch."""
    with pruner.importance.compute_importance(pruner.model), torch.no_grad():
        pruner.model(torch.cat([images for images, _ in batches]))


PEERS: dict[str, tuple[Callable[[], Any], Prepare]] = {
    "torch-pruning l1": (lambda: tp.importance.GroupMagnitudeImportance(p=1), nothing),
    "torch-pruning l2": (lambda: tp.importance.GroupMagnitudeImportance(p=2), nothing),
    "torch-pruning lamp": (tp.importance.LAMPImportance, nothing),
    "torch-pruning bn-scale": (tp.importance.BNScaleImportance, nothing),
    "torch-pruning fpgm": (tp.importance.FPGMImportance, nothing),
    "torch-pruning taylor": (tp.importance.GroupTaylorImportance, gradients),
    "torch-pruning hessian": (tp.importance.GroupHessianImportance, squared_gradients),
    "torch-pruning activation": (tp.importance.ActivationImportance, activations),
    "torch-pruning random": (tp.importance.RandomImportance, nothing),
}


def ours(name: str, steps: Sequence[str]) -> Method:
    """Cut by a criterion of the registry; then recover, from images alone."""

    def run(
        model: nn.Module, example: Tensor, left: float, batches: Batches, seed: int
    ) -> Iterator[tuple[str, nn.Module, float]]:
        result = sc.prune(model, example, macs=left, criterion=name, data=batches, seed=seed)
        share = result.after.macs / result.before.macs
        yield "cut", result.model, share
        has_norm = any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in model.modules())
        fitting = [step for step in steps if has_norm or step != "batch-norm"]
        yield "recovered", sc.recover(result, [images for images, _ in batches], fitting).model, share

    return run


def peer(importance: Callable[[], Any], prepare: Prepare) -> Method:
    """Cut by Torch-Pruning at once, at the ratio whose MACs come nearest to those asked for."""

    def run(
        model: nn.Module, example: Tensor, left: float, batches: Batches, seed: int
    ) -> Iterator[tuple[str, nn.Module, float]]:
        whole = sc.measure(model, example).macs
        low, high = 0.0, 0.95
        found: list[tuple[nn.Module, float]] = []
        for _ in range(8):
            ratio = (low + high) / 2
            torch.manual_seed(seed)
            pruned = copy.deepcopy(model).eval()
            cut_by_peer(pruned, example, ratio, importance(), lambda pruner: prepare(pruner, batches))
            share = sc.measure(pruned, example).macs / whole
            found = [min([*found, (pruned, share)], key=lambda one: abs(one[1] - left))]
            low, high = (low, ratio) if share <= left else (ratio, high)
        if abs(found[0][1] - left) > NEAR:
            raise RuntimeError(f"no ratio up to 0.95 leaves {left:.0%} of the MACs; next: {found[0][1]:.0%}")
        yield "cut", *found[0]

    return run


def cut_by_peer(
    pruned: nn.Module,
    example: Tensor,
    ratio: float,
    importance: Any,
    prepare: Callable[[Any], None],
    way: Way = Way(),
) -> None:
    """Cut by one ratio, in place."""
    attentions = [module for module in pruned.modules() if isinstance(module, nn.MultiheadAttention)]
    last = [module for module in pruned.modules() if isinstance(module, nn.Linear)][-1]
    pruner = tp.pruner.MetaPruner(
        pruned,
        example,
        importance=importance,
        global_pruning=way.is_global,
        isomorphic=way.is_global and bool(attentions),
        pruning_ratio=ratio,
        iterative_steps=way.steps,
        max_pruning_ratio=0.9,
        ignored_layers=[last, *[attention.out_proj for attention in attentions]],
        round_to=way.round_to or (attentions[0].num_heads if attentions else None),
        in_channel_groups={},  # its defaults are shared by all pruners of a process
        out_channel_groups={},
        num_heads={},
    )
    for _ in range(way.steps):
        prepare(pruner)
        pruner.step()
        pruned.zero_grad()
        for module in pruned.modules():
            if hasattr(module, "hidden_dim") and hasattr(module, "conv_proj"):
                module.hidden_dim = module.conv_proj.out_channels
