"""A sample of a rule as one call of its operator, which can be repeated with other operands."""

from dataclasses import dataclass

import numpy as np
import torch
from replay import Recording, flat, operator
from torch import Tensor

from secateur.graph.node import Node, Ref, refs_in


@dataclass(frozen=True, eq=False)
class OneCall:
    """The call of an operator in a record, with the tensors that it took.

    Attributes:
        node: The call.
        recording: The record.
        held: The tensors that it took, by value.
    """

    node: Node
    recording: Recording
    held: dict[int, Tensor]

    @classmethod
    def of(cls, op, sample):
        recording = Recording.of(sample)
        node = next(node for node in recording.graph.nodes if node.op in (op, f"{op}_"))
        held = dict(recording.start)
        for earlier in recording.graph.nodes[: node.index]:
            held.update(_run(earlier, held))
        return cls(node, recording, {value: held[value].clone() for value in node.reads})

    @property
    def floats(self):
        """The values of its operands that hold real numbers, in the order of its arguments."""
        return [value for value in self.node.reads if self.held[value].is_floating_point()]

    @property
    def first(self):
        """The values of its first operand of real numbers; several if that is a list."""
        for arg in self.node.args.values():
            found = [ref.value for ref in refs_in(arg) if ref.value in self.floats]
            if found:
                return list(dict.fromkeys(found))
        return []

    @property
    def writes(self):
        """Whether it writes into an operand."""
        return any(argument.is_write for argument in operator(self.node)._schema.arguments)

    @property
    def output(self):
        """What it makes; its first result, if there are several."""
        return self.run()[0]

    def run(self, change=None, **named):
        """What it makes of other operands.

        Args:
            change: Tensors by value.
            **named: The same by the name of an argument.
        """
        change = {value: own(tensor) for value, tensor in {**self.held, **(change or {})}.items()}
        change |= {self.node.args[name].value: tensor for name, tensor in named.items()}
        return [part for part in _run(self.node, change).values() if part is not None]

    def run_as_is(self, tensors):
        """What it makes of these very tensors, which are not copied."""
        return [part for part in _run(self.node, tensors).values() if part is not None]

    def with_first(self, function):
        """The operands with the first one replaced by a function of it."""
        return {value: function(self.held[value]) for value in self.first}

    def draw(self, values, seed=1):
        """Random numbers in place of some operands."""
        generator = torch.Generator().manual_seed(seed)
        return {
            value: torch.randn(self.held[value].shape, generator=generator, dtype=self.held[value].dtype)
            for value in values
        }


def own(tensor):
    """A copy with the strides of the original, as far as its positions do not share memory."""
    return tensor.clone(memory_format=torch.preserve_format)


def _run(node, held):
    """Run a call; its results by value, those that are no tensor by a negative number."""

    def filled(arg):
        if isinstance(arg, Ref):
            return held[arg.value]
        if isinstance(arg, tuple):
            return [filled(item) for item in arg]
        known = getattr(torch, arg, None) if isinstance(arg, str) else None
        return known if isinstance(known, torch.dtype | torch.layout | torch.memory_format) else arg

    torch.manual_seed(0)
    with torch.no_grad():
        results = flat(operator(node)(**{name: filled(arg) for name, arg in node.args.items()}))
    return {
        -1 - at if ref is None else ref.value: result
        for at, (ref, result) in enumerate(zip(node.outputs, results, strict=True))
        if isinstance(result, Tensor)
    }


def close(one, two, tolerance=1e-9):
    if not one.is_complex() and not two.is_complex():
        one, two = one.double(), two.double()
    return one.shape == two.shape and torch.allclose(one, two, rtol=tolerance, atol=tolerance, equal_nan=True)


def is_rational(values, at, degree=3):
    """Whether numbers lie on a quotient of two polynomials: p(t) - f(t) q(t) = 0 has a solution."""
    if not np.isfinite(values).all():
        return False
    powers = np.vander(at, degree + 1)
    scale = np.abs(values).max() or 1.0
    system = np.hstack([powers, -powers * (values / scale)[:, None]])
    singular = np.linalg.svd(system / np.abs(system).max(0, initial=1e-300), compute_uv=False)
    return singular[-1] < 1e-9 * singular[0]
