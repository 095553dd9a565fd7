"""Dead channels: positions of a group whose removal changes no output, for any input.

A channel may go without a trace when wherever it is summed over, one factor is zero: the channel itself (its
producing weights and bias are zero, and after batch norm so is beta - gamma mean / deviation), or what reads
it (the next layer's weights of this input). Which values are zero whatever the input is found by running the
model beside its record on *generic* numbers:

* inputs are random, weights are what they are;
* an element-wise function that is not arithmetic (ReLU, GELU, sigmoid) gives f(0) where all its operands are
  zero, and a fresh random number elsewhere; so a ReLU that happens to be off for these inputs counts as on;
* everything else is computed. A sum of products of random numbers is zero only if each product is, with
  probability 1 (the Schwartz-Zippel lemma).

What is zero then is zero for every input. A dead channel makes the weights that compute it superfluous, so
the search is repeated with them at zero until nothing more dies. Channels whose removal would change a
statistic (layer norm, softmax) stay.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from secateur.capture import Step, follow
from secateur.capture.copies import copy_module
from secateur.capture.inputs import cloned
from secateur.coupling import Group, Groups
from secateur.coupling.rule import traits_of
from secateur.graph.axes import Expr, leaves
from secateur.graph.keep import Kept, positions
from secateur.graph.node import refs_in
from secateur.graph.trait import Trait
from secateur.proof.drawing import drawn_inputs, precise
from secateur.proof.masking import Masker


def find_dead(model: nn.Module, example_inputs: Any, groups: Groups, seed: int = 0) -> dict[str, list[int]]:
    """Find the positions of each group that may go without changing any output.

    Args:
        model: The model, with masks or zeros in its weights; not changed.
        example_inputs: Inputs whose shapes and integer values are used.
        groups: Its groups.
        seed: For the random numbers.

    Returns:
        The dead positions by group name, ascending; groups without any are left out. One position of each
        group is never listed: a layer needs a channel.

    Example:
        >>> import secateur as sc
        >>> net, x = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)), torch.zeros(1, 3)
        >>> with torch.no_grad():
        ...     _ = net[0].weight[1].zero_(), net[0].bias[1].zero_()  # never active
        ...     _ = net[2].weight[:, 3].zero_()                       # never read
        >>> find_dead(net, x, sc.couple(net, x))
        {'0': [1, 3]}
    """
    copied = precise(copy_module(model), torch.float64).eval()
    inputs = drawn_inputs(example_inputs, seed + 1, torch.float64)
    free = [group for group in groups.prunable if not group.renormalised]
    dead: dict[str, list[int]] = {}
    while True:
        run = _GenericRun(groups, free, seed)
        follow(copied, cloned(inputs), groups.graph, run)
        found = {name: at for name, mask in run.dead.items() if (at := mask.nonzero().flatten().tolist())}
        if found == dead:
            return _leave_enough(groups, dead)
        dead = found
        kept = {groups[name].axis: ~np.isin(np.arange(groups[name].size), at) for name, at in dead.items()}
        Masker(groups, Kept(kept)).mask_parameters(copied)  # nothing depends on those any more


class _GenericRun:
    """Computes every operator on generic numbers, and notes where summed positions are zero."""

    def __init__(self, groups: Groups, free: Iterable[Group], seed: int) -> None:
        self.groups = groups
        self.free = list(free)
        self.generator = torch.Generator().manual_seed(seed)
        self.dead = {group.name: torch.ones(group.size, dtype=torch.bool) for group in self.free}
        self.sums = groups.findings.contracted

    def __call__(self, step: Step) -> Any:
        """Run one operator."""
        self._note(step)
        traits = traits_of(step.node)
        if Trait.POINTWISE not in traits or traits & (Trait.ARITHMETIC | Trait.MOVES):
            return step.run()
        operands = pytree.tree_leaves((step.args, dict(step.kwargs)))
        tensors = [leaf for leaf in operands if isinstance(leaf, Tensor)]
        zero = torch.ones((), dtype=torch.bool)
        for tensor in tensors:
            zero = zero & (tensor == 0)
        output = step.run()
        if not tensors or not isinstance(output, Tensor):
            return output
        # What was computed from numbers that are not zero becomes numbers that are not.
        if output.is_floating_point():
            noise = torch.rand(output.shape, generator=self.generator, dtype=torch.float64) + 0.5
            output.copy_(torch.where(zero, output, noise.to(output)))
        elif output.dtype == torch.bool:
            output.logical_or_(~zero)
        return output

    def _note(self, step: Step) -> None:
        """A position stays possible if some factor of every sum over it is zero."""
        returned = {
            leaf
            for ref in step.node.outputs
            if ref is not None
            for dim in self.groups.findings.dims[ref.value]
            for leaf in leaves(dim)
        }
        held = list(self._held(step))
        for group in self.free:
            zeros = {
                (name, dim): _zero_positions(tensor, dim, expr, group)
                for name, dim, tensor, expr in held
                if group.axis in leaves(expr)
            }
            if any((step.node.index, *place) in self.sums for place in zeros):
                factors = [
                    zero
                    for place, zero in zeros.items()
                    if place[0] == "input" or (step.node.index, *place) in self.sums
                ]
                self.dead[group.name] &= torch.stack(factors).any(0)
            elif zeros and (group.axis not in returned or Trait.MIXES in traits_of(step.node)):
                # How it is summed is not known: all of it must be zero.
                self.dead[group.name] &= torch.stack(list(zeros.values())).all(0)

    def _held(self, step: Step) -> Iterator[tuple[str, int, Tensor, Expr]]:
        """Every dim of every tensor that an operator is given, by the argument's name."""
        for name, value in step.named().items():
            args, refs = pytree.tree_leaves(value), list(refs_in(step.node.args.get(name)))
            tensors = [arg for arg in args if isinstance(arg, Tensor)]
            for tensor, ref in zip(tensors, refs, strict=True):
                for dim, expr in enumerate(self.groups.findings.dims[ref.value]):
                    yield name, dim, tensor, expr


def _zero_positions(tensor: Tensor, dim: int, expr: Expr, group: Group) -> Tensor:
    """Which positions of a group's axis are zero in a dim of a tensor, all entries that go with them."""
    other = [at for at in range(tensor.dim()) if at != dim % tensor.dim()]
    is_zero = (tensor == 0).all(dim=other) if other else tensor == 0
    return is_zero.cpu()[torch.from_numpy(positions(expr, group.axis))].all(1)


def _leave_enough(groups: Groups, dead: Mapping[str, list[int]]) -> dict[str, list[int]]:
    """Give dead positions back where a kernel wants a multiple, counts must be equal, or none would stay."""
    counts: dict[str, int] = {}
    for name, at in dead.items():
        group = groups[name]
        left = max(group.size - len(at), 1)
        kept = -(-left // group.multiple) * group.multiple
        counts[name] = group.size - min(kept, group.size)
    for names, _ in groups.ties:
        if any(name in counts for name in names):
            kept = max(groups[name].size - counts.get(name, 0) for name in names)
            for name in names:
                counts[name] = max(groups[name].size - kept, 0)
    return {
        name: dead[name][len(dead[name]) - count :]
        for name, count in counts.items()
        if count and name in dead
    }
