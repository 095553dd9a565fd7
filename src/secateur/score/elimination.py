"""Backward elimination: the error that is left after every reader of a channel is solved anew.

A layer that reads a coupled group computes Y = X W. With S the rows of X and W that stay, the best weight for
them and the error that is left are, for H = X'X:

    W_S' = W_S + H_SS^-1 H_SR W_R,      e(S) = 1/2 tr(W_R' (P_RR)^-1 W_R),      P = H^-1

which is the optimal brain surgeon for a block R of rows. Removing R and going on with what is left is

    W <- W - P_:R P_RR^-1 W_R,          P <- P - P_:R P_RR^-1 P_R:

so one inversion serves all ratios: units go one round after the other, those first whose removal costs
least, and the errors of the rounds add up to that of all units. A unit is all that goes with one channel: one
row of a linear layer, the k*k rows of a convolution's channel, the width of a head. A group that several
layers read pays the sum of their errors, each output o weighted with what its square counts: what it brings
of the outputs of the model (`score/sensitivity.py`), or all alike in units of the layer's, 1/2 tr(W' H W).

H is known from finitely many rows. What they do not support is shrunk towards the diagonal (not towards a
multiple of one, which would forget which inputs are large): (1 - s) H + s diag(H). At s = 1 nothing stands in
for anything, and the error of a unit is half the sum of w^2 E[x^2].

References:
    Hassibi, Stork, Wolff, "Optimal Brain Surgeon and general network pruning", ICNN 1993, section 3.
    For blocks: Kurtic, Frantar, Alistarh, "ZipLM", NeurIPS 2023, equations 2 and 3. https://arxiv.org/abs/2302.04089
    Meng et al., "OSSCAR", ICML 2024, section 3. https://arxiv.org/abs/2403.12983
    Schaefer and Strimmer, "A shrinkage approach to large-scale covariance matrix estimation", 2005, table 2,
    target D, for s.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float, Int
from torch import Tensor

from secateur.score.few_rows import FewRows, FewRowsInverse, Places, factor

_ROUND = 16
"""Of the units that are left, one in so many goes in a round, at least one."""
WIDE = 1024
"""Where a layer reads more, rounds are twice as large."""
_SKETCH = 512
"""Random sums of the outputs stand for them where there are more than twice as many."""
_DAMPING = 1e-6
"""Of the mean diagonal, added to it: inputs that never vary have none. More where that does not do."""


@dataclass(frozen=True, eq=False)
class InputMoments:
    """H, and its inverse once it was asked for: groups that one layer reads share it.

    Attributes:
        second: The sums of products of a layer's inputs, or the rows themselves where they are few; what is
            computed from it is of its type.
    """

    second: Float[Tensor, "inputs inputs"] | FewRows

    def product(self, weight: Float[Tensor, "inputs outputs"]) -> Float[Tensor, "inputs outputs"]:
        """H W."""
        return self.second @ weight if isinstance(self.second, Tensor) else self.second.product(weight)

    @cached_property
    def inverse(self) -> "Inverse | FewRowsInverse":
        """P of all inputs; not to be changed."""
        if isinstance(self.second, Tensor):
            return Inverse(torch.cholesky_inverse(_damped_factor(self.second)))
        held = self.second
        return FewRowsInverse.of(FewRows(held.rows, held.own + _DAMPING * _size(held)))


@dataclass(frozen=True, eq=False)
class Consumer:
    """A layer that reads a coupled group, or one group of a grouped convolution.

    Attributes:
        moments: H, the sums of products of its inputs.
        weight: W, laid out (inputs, outputs).
        units: The inputs that go with each channel of the group. Others are never removed.
        counts: What the square of a change of each output counts; None: all alike, and such that all of the
            output is 1.
    """

    moments: InputMoments
    weight: Float[Tensor, "inputs outputs"]
    units: Int[Tensor, "channels rows"]
    counts: Float[Tensor, " outputs"] | None = None


@dataclass(frozen=True, eq=False)
class Elimination:
    """In which order the channels of a group go, and what that costs.

    Attributes:
        order: Channels, the first to go first.
        errors: e(k), the error after k have gone, for k = 0 to all, each layer's in units of its output.
    """

    order: Int[Tensor, " channels"]
    errors: Float[Tensor, " channels_and_one"]


class Inverse:
    """P of some of the inputs.

    Args:
        matrix: It.
    """

    def __init__(self, matrix: Float[Tensor, "inputs inputs"]) -> None:
        self.matrix = matrix

    def __len__(self) -> int:
        """How many inputs are left."""
        return len(self.matrix)

    def select(self, inputs: Tensor) -> "Inverse":
        """P of some of these inputs, where the others stay; in memory of its own."""
        if _is_all(inputs, len(self)):
            return Inverse(self.matrix.clone())
        return Inverse(self.matrix.index_select(0, inputs).index_select(1, inputs))

    def factors(self, units: int, width: int) -> Tensor:
        """The Cholesky factors of the blocks on the diagonal, unit by unit: [units, width, width]."""
        parted = self.matrix.unflatten(0, (units, width)).unflatten(2, (units, width))
        square = parted.diagonal(dim1=0, dim2=2).permute(2, 0, 1)
        return factor(square, square.diagonal(dim1=1, dim2=2).abs())

    def remove(self, gone: Tensor, places: Places, weight: Tensor) -> tuple[Tensor, float]:
        """Leave inputs out; as `FewRowsInverse.remove`."""
        across = self.matrix[gone]
        square = across[:, gone]
        lower = factor(square, square.diagonal().abs())
        half = torch.linalg.solve_triangular(lower, places.close(across.T).T, upper=False)
        moved = torch.linalg.solve_triangular(lower, weight[gone], upper=False)
        self.matrix = places.close(places.close(self.matrix).T).T.addmm_(half.T, half, alpha=-1)
        return places.close(weight).addmm_(half.T, moved, alpha=-1), float(moved.square().sum())


def _is_all(inputs: Tensor, count: int) -> bool:
    """Whether these are all there are, in their order."""
    return len(inputs) == count and bool((inputs == torch.arange(count, device=inputs.device)).all())


def _damped_factor(second: Tensor) -> Tensor:
    """The Cholesky factor of moments: inputs that never vary have none of their own."""
    return factor(second, _size(second).expand(len(second)), (_DAMPING, 1e-5, 1e-4, 1e-3))


def _size(second: Tensor | FewRows) -> Tensor:
    """The mean square of the inputs; where all are zero a small number whose share still has an inverse."""
    return second.diagonal().mean().clamp_min(1e8 * torch.finfo(second.dtype).tiny)


def _sketched(weight: Tensor, scale: Tensor) -> Tensor:
    """Scaled outputs; where there are many some random sums, which a sum of squares is in expectation."""
    outputs = weight.shape[1]
    if outputs <= 2 * _SKETCH:
        return weight * scale
    generator = torch.Generator().manual_seed(outputs)
    signs = (torch.randint(0, 2, (outputs,), generator=generator) * 2 - 1).to(weight) * scale
    made = weight.new_zeros(_SKETCH, len(weight))
    for part, sign in zip(weight.T.split(_SKETCH), signs[:, None].split(_SKETCH), strict=True):
        made[: len(part)].addcmul_(part, sign)
    return made.T


class _State:
    """What is left of one consumer: P and W of the rows of the units, unit by unit."""

    def __init__(self, consumer: Consumer) -> None:
        rows = consumer.units.reshape(-1)
        moments, dtype = consumer.moments, consumer.moments.second.dtype
        self.width = consumer.units.shape[1]
        self.price = 1.0
        if consumer.counts is None:
            weight = consumer.weight.to(dtype)
            size = 0.5 * (weight * moments.product(weight)).sum()
            self.price = 0.0 if size <= 0 else 1 / float(size)
        weight = consumer.weight if _is_all(rows, len(consumer.weight)) else consumer.weight[rows]
        counts = weight.new_ones(weight.shape[1]) if consumer.counts is None else consumer.counts
        self.weight = _sketched(weight, counts.sqrt().to(weight)).to(dtype)
        self.inverse = moments.inverse.select(rows)

    def costs(self, units: int) -> Tensor:
        """What the removal of each unit that is left costs by itself."""
        lower = self.inverse.factors(units, self.width)
        weight = self.weight.view(units, self.width, -1)
        eye = torch.eye(self.width, dtype=lower.dtype, device=lower.device).expand_as(lower)
        inverse = torch.linalg.solve_triangular(lower, eye, upper=False)  # many small solutions are slow
        moved = inverse @ weight
        return 0.5 * self.price * torch.linalg.vector_norm(moved, dim=(1, 2)).square()

    def remove(self, gone: Tensor) -> float:
        """Remove units together; `gone` is a mask of those that are left.

        Returns:
            What it costs.
        """
        rows = gone.repeat_interleave(self.width)
        places = Places.of(rows)
        self.weight, cost = self.inverse.remove(rows.nonzero()[:, 0], places, self.weight)
        if isinstance(self.inverse, FewRowsInverse) and self.inverse.are_many:
            self.inverse = Inverse(self.inverse.dense())
        return 0.5 * self.price * cost


def eliminate(consumers: Sequence[Consumer], together: int = 0) -> Elimination:
    """Remove the channels of a group, one round after the other, those first that cost least by then.

    Args:
        consumers: All layers that read the group; at least one.
        together: One in so many of the channels that are left goes in a round; at least one goes. 0: as many
            as the width of the layers allows.

    Example:
        >>> twins = torch.tensor([[1.0, 1.0, 0.0], [2.0, 2.1, 0.0], [0.0, 0.0, 4.0]]).double()
        >>> weight = torch.ones(3, 1).double()
        >>> found = eliminate([Consumer(InputMoments(twins.T @ twins), weight, torch.arange(3)[:, None])])
        >>> found.order.tolist(), [round(error, 3) for error in found.errors.tolist()]
        ([0, 2, 1], [0.0, 0.0, 0.435, 1.0])
    """
    states = [_State(consumer) for consumer in consumers]
    widest = max(len(state.inverse) for state in states)
    together = together or (_ROUND if widest <= WIDE else _ROUND // 2)
    count = len(consumers[0].units)
    alive = torch.arange(count, device=consumers[0].units.device)
    order: list[Tensor] = []
    costs: list[Tensor] = []
    while len(alive):
        each = torch.stack([state.costs(len(alive)).double() for state in states]).sum(0)
        first = each.argsort(stable=True)[: max(1, len(alive) // together)]
        gone = torch.zeros(len(alive), dtype=torch.bool, device=alive.device)
        gone[first] = True
        cost = sum(state.remove(gone) for state in states)
        share = each[first] / each[first].sum().clamp_min(torch.finfo(each.dtype).tiny)
        order.append(alive[first])
        costs.append(share * cost)
        alive = Places.of(gone).close(alive)
    errors = torch.cat([torch.zeros(1, dtype=torch.float64, device=alive.device), *costs]).cumsum(0)
    return Elimination(torch.cat(order), errors)


def shrunk(second: Float[Tensor, "inputs inputs"], share: float) -> Float[Tensor, "inputs inputs"]:
    """Shrink towards the diagonal: (1 - s) H + s diag(H).

    Example:
        >>> shrunk(torch.tensor([[2.0, 1.0], [1.0, 4.0]]), 0.5).tolist()
        [[2.0, 0.5], [0.5, 4.0]]
    """
    made = second * (1 - share)
    made.diagonal().copy_(second.diagonal())
    return made


def shrinkage(
    mean: Float[Tensor, "inputs inputs"], square: Float[Tensor, "inputs inputs"], samples: int
) -> float:
    """How far to shrink what is the mean over samples that have nothing to do with each other.

    s = sum Var(h_ij) / sum h_ij^2 over i != j, in units of the diagonal: one where the samples agree on
    nothing.

    Args:
        mean: H, the mean of what each sample gives; of some inputs where there are many.
        square: The mean of the squares of its entries.
        samples: How many there are.

    Returns:
        From 0 to 1; 1 for fewer than two samples.

    Example:
        >>> once, other = torch.tensor([[1.0, 0.5], [0.5, 1.0]]), torch.tensor([[1.0, -0.5], [-0.5, 1.0]])
        >>> shrinkage(once, once.square(), 8), shrinkage((once + other) / 2, once.square(), 8)
        (0.0, 1.0)
    """
    if samples < 2:
        return 1.0
    size = mean.diagonal().clamp_min(torch.finfo(mean.dtype).tiny)
    noise = (square - mean.square()).clamp_min(0) / (samples - 1) / size[:, None] / size
    told = mean.square() / size[:, None] / size
    noise.fill_diagonal_(0)
    told.fill_diagonal_(0)
    return min(1.0, float(noise.sum()) / float(told.sum())) if float(told.sum()) > 0 else 1.0
