"""Masks as a callback of Hugging Face's `Trainer`."""

import importlib
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

import torch
from torch import nn

from secateur.capture.unwrap import unwrap
from secateur.mask.gradual import Stepper

Make = Callable[[nn.Module, torch.optim.Optimizer], Stepper]

# Without the library there is no Trainer to call us, and any base class will do.
_Base: Any = importlib.import_module("transformers").TrainerCallback if find_spec("transformers") else object


class MaskCallback(_Base):
    """Drives a stepper, such as `Gradual` or `RigL`, from a `Trainer`.

    A callback may be used again: each training begins with a new stepper, and masks that the model has stay.

    Args:
        make: Makes the stepper from the model and its optimizer.

    Attributes:
        stepper: The one of the present or last training.

    Example:
        >>> from secateur.mask import Gradual
        >>> callback = MaskCallback(lambda model, optimizer: Gradual(model, sparsity=0.5, end=100))
        >>> net = nn.Linear(4, 4)
        >>> callback.on_train_begin(None, None, None, model=net, optimizer=None)
        >>> callback.on_step_end(None, None, None)
        >>> print(callback.stepper)
        cubic to 50.00%: step 1, of 0 to 100, asked for 0.00%, masked 0.00%
    """

    def __init__(self, make: Make) -> None:
        self.make = make
        self.stepper: Stepper | None = None

    def on_train_begin(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        """Make the stepper; the optimizer exists by now."""
        self.stepper = self.make(unwrap(given["model"]), given["optimizer"])

    def on_step_end(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        """Step after the optimizer did."""
        if self.stepper is not None:
            self.stepper.step()
