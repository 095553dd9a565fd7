"""SparseGPT: mask column by column, and let the columns that follow make up for it.

With H = X^T X + damping of a layer's inputs and U the upper Cholesky factor of H^-1, the weights are swept
from left to right. Masking W[:, j] leaves the error W[:, j] / U[j, j], and the optimal change of all later
columns is minus that error times U[j, j+1:]. What is masked is chosen for a block of columns at a time, by
the smallest W[:, j]^2 / U[j, j]^2, or for each group of m columns where n:m is asked.

References:
    Frantar and Alistarh, "SparseGPT: Massive Language Models Can Be Accurately Pruned in One-Shot",
    ICML 2023, sections 3.2 to 3.4 and algorithm 1. https://arxiv.org/abs/2301.00774
"""

from collections.abc import Iterable, Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from secateur.errors import RequestError
from secateur.mask.amount import Amount
from secateur.mask.evidence import MaskEvidence
from secateur.mask.structure import Structure
from secateur.mask.targets import Target

_BLOCK = 128
"""The authors' choice for layers of thousands of columns.

What is masked is chosen for a whole block at once, as if all later columns stayed to make up for it; in a
narrow layer a block of 128 would be all of it, and half of those columns go.
"""


def sweep_layers(
    targets: Sequence[Target],
    amounts: Sequence[Amount] | None,
    structure: Structure,
    evidence: MaskEvidence,
    *,
    damp: float = 0.01,
    block: int | None = None,
) -> Iterable[tuple[Target, Tensor]]:
    """Sweep layer after layer; each sees the inputs that the masked layers before it make.

    The weights are written here, the mask is for the caller to attach before the next layer's turn. Each
    layer costs one pass over the data.

    Args:
        targets: Changed in place: weights of linear and convolutional layers, in the order of the network.
        amounts: For each; None for n:m.
        structure: Unstructured or n:m.
        evidence: The model and the data.
        damp: Share of the mean diagonal that is added to H.
        block: Columns among which the masked entries are chosen; None for an eighth of them, at most 128.

    Yields:
        Each tensor with its new mask.
    """
    for at, target in enumerate(targets):
        weight, mask = target.orig, target.mask
        if structure.is_fixed and weight[0, 0].numel() > 1:
            raise RequestError(
                f"{target.name} is {list(weight.shape)}: its columns are inputs and kernel positions",
                ["n:m by sparsegpt is for linear layers and 1x1 convolutions"],
                "leave it out with select=, or use another method",
            )
        moments = evidence.sum_inputs([target], lambda rows: rows.mT @ rows)[target.name]
        rows = weight.detach().flatten(1).double().unflatten(0, (len(moments), -1))
        alive = (mask != 0).flatten(1).unflatten(0, (len(moments), -1))
        shares = [0.0 if amounts is None else _share(amounts[at], group) for group in alive]
        parts = [
            sweep(*group, structure=structure, damp=damp, block=block)
            for group in zip(rows, moments, alive, shares, strict=True)
        ]
        values = torch.cat([value for value, _ in parts]).view(weight.shape)
        keep = torch.cat([kept for _, kept in parts]).view(weight.shape)
        with torch.no_grad():
            weight.copy_(values.to(weight.dtype))
        yield target, keep


def _share(amount: Amount, alive: Tensor) -> float:
    left = int(alive.sum())
    return amount.count(alive.numel(), left) / max(left, 1)


def sweep(
    weight: Float[Tensor, "rows columns"],
    moment: Float[Tensor, "columns columns"],
    alive: Bool[Tensor, "rows columns"],
    share: float,
    *,
    structure: Structure,
    damp: float = 0.01,
    block: int | None = None,
) -> tuple[Float[Tensor, "rows columns"], Bool[Tensor, "rows columns"]]:
    """Mask one matrix and update what stays.

    Args:
        weight: In float64; not changed.
        moment: X^T X of its inputs.
        alive: Entries that are not masked before; masked ones count as zero and stay so.
        share: Of the entries that are left in each block, how many go; not used for n:m.
        structure: Unstructured or n:m.
        damp: Share of the mean diagonal that is added to the moment.
        block: Columns among which entries compare; None for an eighth of them, at most 128.

    Returns:
        The new weight and which entries stay.

    Example:
        >>> from secateur.mask.structure import read_structure
        >>> x = torch.tensor([[1.0, 1.0], [1.0, 1.0], [0.0, 0.1]]).double()
        >>> w, keep = torch.tensor([[1.0, 2.0]]).double(), torch.ones(1, 2).bool()
        >>> whole = read_structure("unstructured")
        >>> new, kept = sweep(w, x.T @ x, keep, 0.5, structure=whole, damp=1e-9, block=2)
        >>> kept.tolist(), [round(value, 2) for value in new[0].tolist()]
        ([[False, True]], [0.0, 3.0])
    """
    weight = (weight * alive).clone()
    columns = weight.shape[1]
    factor = _factor(moment, weight, damp)
    keep = alive.clone()
    gone = 0
    step = structure.group or 1
    block = block or min(_BLOCK, columns // 8)
    block = max(block - block % step, step)
    for start in range(0, columns, block):
        end = min(start + block, columns)
        diagonal = factor.diagonal()[start:end]
        if not structure.is_fixed:
            due = round(share * int(alive[:, :end].sum())) - gone  # rounded over all blocks so far
            keep[:, start:end] = _chosen(structure, weight[:, start:end] / diagonal, keep[:, start:end], due)
            gone += due
        errors = torch.zeros_like(weight[:, start:end])
        for at in range(start, end):
            if structure.is_fixed and (at - start) % structure.group == 0:
                group = slice(at, at + structure.group)
                relative = weight[:, group] / factor.diagonal()[group]
                keep[:, group] = _chosen(structure, relative, keep[:, group])
            held = torch.where(keep[:, at], weight[:, at], 0.0)
            errors[:, at - start] = (weight[:, at] - held) / factor[at, at]
            weight[:, at] = held
            weight[:, at + 1 : end] -= errors[:, at - start, None] * factor[at, at + 1 : end]
        weight[:, end:] -= errors @ factor[start:end, end:]
    return weight * keep, keep


def _factor(moment: Tensor, weight: Tensor, damp: float) -> Float[Tensor, "columns columns"]:
    """The upper Cholesky factor of the inverse of the damped moment; inputs that are never used get zero."""
    moment = moment.clone()
    unused = moment.diagonal() == 0
    moment.diagonal()[unused] = 1.0
    weight[:, unused] = 0.0
    moment.diagonal().add_(damp * moment.diagonal().mean())
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(moment))
    return torch.linalg.cholesky(inverse, upper=True)


def _chosen(structure: Structure, relative: Tensor, alive: Tensor, count: int = 0) -> Tensor:
    """Which of some entries stay: those that the structure leaves, without the lowest `count`."""
    units = structure.units("", relative**2, alive)
    return structure.spread(units.lowest(min(count, int(units.alive.sum()))), tuple(alive.shape))
