"""A program that runs models: how a model is opened in it, so that passes can be timed."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from secateur.capture.inputs import as_call
from secateur.errors import RequestError
from secateur.exports import export
from secateur.plans.plan import Plan
from secateur.registry import Registry


@dataclass(frozen=True, eq=False)
class Contender:
    """One of the models that are timed.

    Attributes:
        name: How it is called in the table.
        inputs: A tensor, a tuple of positional inputs or a dict of keyword inputs.
        folder: Where files of it may be written.
        model: The module; None where there is only a file.
        file: The ONNX file that was named; None for a module.
        plan: What was cut of the module, if that is known.
    """

    name: str
    inputs: Any
    folder: Path
    model: nn.Module | None = None
    file: Path | None = None
    plan: Plan | None = None

    @property
    def module(self) -> nn.Module:
        """The module.

        Raises:
            RequestError: There is only a file.
        """
        if self.model is None:
            raise RequestError("a file, no module")
        return self.model

    @cached_property
    def onnx(self) -> Path:
        """The model as an ONNX file of the sizes of the inputs, written and read back when first asked for.

        Raises:
            SecateurError: It cannot be written.
        """
        if self.file is not None:
            return self.file
        path = self.folder / "model.onnx"
        export(self.module, path, example_inputs=self.inputs, dynamic=False, plan=self.plan)
        return path

    @property
    def arrays(self) -> list[NDArray[Any]]:
        """The tensors of the inputs in their order."""
        leaves = pytree.tree_leaves(as_call(self.inputs))
        return [np.ascontiguousarray(leaf.cpu().numpy()) for leaf in leaves if isinstance(leaf, Tensor)]


Turn: TypeAlias = Callable[[int], list[float]]
"""Makes so many passes and returns the milliseconds of each."""

Start: TypeAlias = Callable[[Contender, int], Turn]
"""Opens a model with so many threads; raises whatever it likes where it cannot."""

programs: Registry[Start] = Registry("program", "secateur.benching.programs")


def clock(run: Callable[[], object]) -> Turn:
    """Time calls of a function, after one that does not count.

    Example:
        >>> [taken > 0 for taken in clock(lambda: sum(range(1000)))(2)]
        [True, True]
    """

    def turn(passes: int) -> list[float]:
        run()
        times = []
        for _ in range(passes):
            begin = time.perf_counter()
            run()
            times.append(1000 * (time.perf_counter() - begin))
        return times

    return turn
