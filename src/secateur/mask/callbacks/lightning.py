"""Masks as a callback of Lightning."""

import importlib
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

import torch
from torch import nn

from secateur.mask.gradual import Stepper
from secateur.mask.hook import is_masked, refresh
from secateur.mask.pruning import prune

Make = Callable[[nn.Module, torch.optim.Optimizer], Stepper]

# Without the library there is no Trainer to call us, and any base class will do.
_Base: Any = importlib.import_module("lightning.pytorch").Callback if find_spec("lightning") else object


class MaskCallback(_Base):
    """Drives a stepper, such as `Gradual` or `RigL`, from a `Trainer`.

    A callback may be used again: each fit begins with a new stepper, and masks that the model has stay. A fit
    with `ckpt_path` goes on where that one stood.

    Args:
        make: Makes the stepper from the module and its first optimizer.
        **select: Which tensors get a mask of ones before a checkpoint is loaded, as for `prune`: those that
            the stepper masks. Needed only where a module without masks is to go on from a checkpoint.
        name: Tells several mask callbacks of one trainer apart in its checkpoints.

    Attributes:
        stepper: The one of the present or last fit.
    """

    def __init__(self, make: Make, *, name: str = "masks", **select: Any) -> None:
        super().__init__()
        self.make = make
        self.name = name
        self.select = select
        self.stepper: Stepper | None = None
        self._stood: dict[str, Any] | None = None

    @property
    def state_key(self) -> str:
        """Where a checkpoint holds the state of this callback."""
        return f"secateur.{self.name}"

    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """Give the module masks, for the trainer to load a checkpoint into."""
        self._stood = None
        if self.select and stage == "fit" and not is_masked(pl_module):
            prune(pl_module, "identity", **self.select)

    def state_dict(self) -> dict[str, Any]:
        """What the trainer writes into its checkpoints."""
        return self.stepper.state_dict() if self.stepper else {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Called where a fit goes on from a checkpoint, before it starts."""
        self._stood = state_dict or None

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Make the stepper; optimizers exist by now, and a checkpoint is loaded."""
        refresh(pl_module)
        self.stepper = self.make(pl_module, trainer.optimizers[0])
        if self._stood is not None:
            self.stepper.load_state_dict(self._stood)
        self._stood = None

    def on_train_batch_end(self, trainer: Any, pl_module: Any, *rest: Any) -> None:
        """Step after the optimizer did."""
        if self.stepper is not None:
            self.stepper.step()
