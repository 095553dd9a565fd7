"""Masks as a callback of Lightning."""

import importlib
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

import torch
from torch import nn

from secateur.mask.gradual import Stepper

Make = Callable[[nn.Module, torch.optim.Optimizer], Stepper]

# Without the library there is no Trainer to call us, and any base class will do.
_Base: Any = importlib.import_module("lightning.pytorch").Callback if find_spec("lightning") else object


class MaskCallback(_Base):
    """Drives a stepper, such as `Gradual` or `RigL`, from a `Trainer`.

    A callback may be used again: each fit begins with a new stepper, and masks that the model has stay.

    Args:
        make: Makes the stepper from the module and its first optimizer.

    Attributes:
        stepper: The one of the present or last fit.
    """

    def __init__(self, make: Make) -> None:
        super().__init__()
        self.make = make
        self.stepper: Stepper | None = None

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Make the stepper; optimizers exist by now."""
        self.stepper = self.make(pl_module, trainer.optimizers[0])

    def on_train_batch_end(self, trainer: Any, pl_module: Any, *rest: Any) -> None:
        """Step after the optimizer did."""
        if self.stepper is not None:
            self.stepper.step()
