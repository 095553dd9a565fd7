"""Growing regularisation (GReg-1): channels that are chosen beforehand are pushed out slowly.

    loss = task(W) + lambda(t) / 2 * sum_{c goes} |theta_c|^2        gradient added: lambda(t) * theta_c
    lambda(t) = s * min(1, t / 0.75)                                 t: share of the run that is done

A cut all at once destroys what the channels knew. Under a penalty that grows from nothing to s, the network
has time to move that knowledge to the channels that stay; at the end the others are near zero and the cut
costs almost nothing. Channels that stay are not pulled. The paper raises lambda every few steps and holds the
ceiling for a while; here it rises a little at each step over three quarters of the run and is held for the
last quarter, so that short and long runs are treated alike. theta_c is everything that would be cut with
channel c; the paper takes the row of the kernel alone.

References:
    Wang et al., "Neural Pruning via Growing Regularization", ICLR 2021, section 3.2 and algorithm 1 (GReg-1).
    https://arxiv.org/abs/2012.09243
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from secateur.coupling import Groups
from secateur.errors import RequestError
from secateur.penalise import penalties
from secateur.penalise.scales import prunable_scales
from secateur.penalise.slices import GroupSlices, coupled_slices, distinct, require_strength, wide

GROWTH = 0.75
"""Share of the run over which the strength grows; then it is held."""


@penalties("growing-l2")
@dataclass(frozen=True, eq=False)
class GrowingL2:
    """Push chosen channels to zero, ever harder.

    Make it with `GrowingL2.of`.

    Args:
        channels: The groups with their slices.
        going: For each of them 1 where a channel will go, 0 where it stays.
        strength: The ceiling of the growing factor (tau in the paper), at least 0.
        scales: The batch-norm scales among them, for a run to watch.

    Example:
        >>> import secateur as sc
        >>> net = nn.Sequential(nn.Linear(1, 2, bias=False), nn.Linear(2, 1, bias=False))
        >>> with torch.no_grad():
        ...     _ = net[0].weight.copy_(torch.tensor([[3.0], [0.5]]))
        ...     _ = net[1].weight.copy_(torch.tensor([[4.0, 1.0]]))
        >>> groups = sc.couple(net, torch.zeros(1, 1))
        >>> penalty = GrowingL2.of(net, groups, strength=1.0, keep={"0": [0]})
        >>> penalty.step(progress=0.375)                         # half of the growth
        >>> net[0].weight.grad.flatten(), net[1].weight.grad
        (tensor([0.0000, 0.2500]), tensor([[0.0000, 0.5000]]))
        >>> penalty.value(progress=1.0)                          # (0.5^2 + 1^2) / 2
        0.625
    """

    default_strength: ClassVar[float] = 1.0
    needs_keep: ClassVar[bool] = True

    channels: tuple[GroupSlices, ...]
    going: tuple[Tensor, ...]
    strength: float
    scales: tuple[nn.Parameter, ...] = field(default=(), repr=False)

    def __post_init__(self) -> None:
        require_strength("growing-l2", self.strength)

    @classmethod
    def of(
        cls,
        model: nn.Module,
        groups: Groups,
        strength: float,
        keep: Mapping[str, Sequence[int]] | None = None,
    ) -> "GrowingL2":
        """Make the penalty on the channels that a plan would remove.

        Args:
            model: The model that will be trained.
            groups: Its groups.
            strength: The ceiling.
            keep: Indices that will stay, by group: `sc.plan(model, example, ratio=0.5, criterion="l1").keep`.
                A group that is not named stays whole.

        Raises:
            RequestError: `keep` is missing, names no prunable group or no channel of it or a frozen one, or
                removes nothing.
        """
        if keep is None:
            raise RequestError(
                "growing-l2 must know which channels will go",
                do="pass keep=sc.plan(model, example, ratio=0.5, criterion='l1').keep",
            )
        channels = coupled_slices(model, groups, keep)
        _require_known(keep, channels)
        going = tuple(_going(one, keep[one.name]) for one in channels)
        if not any(bool(one.any()) for one in going):
            raise RequestError("growing-l2 has nothing to act on: all channels stay", do="remove some")
        scales = prunable_scales(model, groups)
        return cls(channels, going, strength, tuple(scales))

    @property
    def parameters(self) -> tuple[nn.Parameter, ...]:
        """All parameters that have a slice."""
        return distinct(self.channels)

    def strength_at(self, progress: float) -> float:
        """The factor at a moment of the run.

        Args:
            progress: Share of the run's steps that are done, from 0 to 1.
        """
        return self.strength * min(1.0, progress / GROWTH)

    @torch.no_grad()
    def step(self, progress: float = 1.0) -> None:
        """Add the gradient to the unscaled gradients of all slices of the channels that go."""
        strength = self.strength_at(progress)
        for group, going in zip(self.channels, self.going, strict=True):
            group.pull(going.to(wide(group.shares[0][0])) * strength)

    @torch.no_grad()
    def value(self, progress: float = 1.0) -> float:
        """Compute `lambda / 2 * sum |theta|^2` over the channels that go, in units of the loss."""
        squares = (
            (group.squares() * going.to(wide(group.shares[0][0]))).sum().item()
            for group, going in zip(self.channels, self.going, strict=True)
        )
        return self.strength_at(progress) / 2 * sum(squares)

    def recipe(self) -> dict[str, Any]:
        """The kind, the strength, and which channels go."""
        digest = hashlib.sha256()
        for group, going in zip(self.channels, self.going, strict=True):
            digest.update(f"{group.name} {going.int().tolist()}".encode())
        count = int(sum(going.sum().item() for going in self.going))
        channels = f"{count} ({digest.hexdigest()[:8]})"
        return {"penalty": type(self).__name__, "s": self.strength, "penalised channels": channels}


def _require_known(keep: Mapping[str, Sequence[int]], channels: Sequence[GroupSlices]) -> None:
    known = {one.name: one.size for one in channels}
    for name, indices in keep.items():
        if name not in known:
            do = "take keep from a plan of this very model"
            raise RequestError(f"growing-l2 shall act on '{name}', which is no group that can be cut", do=do)
        beyond = [index for index in indices if not 0 <= index < known[name]]
        if beyond:
            raise RequestError(
                f"channel {beyond[0]} of {name} shall stay, it has {known[name]}",
                do="take keep from a plan of this very model",
            )


def _going(channels: GroupSlices, kept: Sequence[int]) -> Tensor:
    going = torch.ones(channels.size)
    going[list(kept)] = 0
    return going
