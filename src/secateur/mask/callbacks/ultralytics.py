"""Masks as callbacks of ultralytics' trainers.

Ultralytics averages all floating-point tensors of a model by name (`trainer.ema`), masks among them. So the
average gets masks before the training begins, and after each step those of the model, exactly.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from secateur.capture.unwrap import unwrap
from secateur.mask.gradual import Stepper
from secateur.mask.hook import adopt, attach, masked_tensors, refresh
from secateur.mask.pruning import prune

Make = Callable[[nn.Module, torch.optim.Optimizer], Stepper]


class MaskCallbacks:
    """Drives a stepper, such as `Gradual` or `RigL`, from an ultralytics trainer.

    Args:
        make: Makes the stepper from the model and its optimizer.
        **select: Which tensors get a mask of ones at the start, as for `prune`; those that the stepper masks.

    Attributes:
        stepper: The one of the present or last training.
    """

    def __init__(self, make: Make, **select: Any) -> None:
        self.make = make
        self.select = select
        self.stepper: Stepper | None = None

    def add_to(self, model: Any) -> None:
        """Register with a `YOLO` or a trainer: anything with `add_callback(event, function)`."""
        model.add_callback("on_pretrain_routine_end", self.on_pretrain_routine_end)
        model.add_callback("on_train_batch_end", self.on_train_batch_end)

    def on_pretrain_routine_end(self, trainer: Any) -> None:
        """Make the stepper; model, optimizer and average exist by now."""
        model = unwrap(trainer.model)
        prune(model, "identity", **self.select)
        self.stepper = self.make(model, trainer.optimizer)
        self._copy_masks(trainer)

    def on_train_batch_end(self, trainer: Any) -> None:
        """Step after the optimizer and the average did."""
        if self.stepper is not None:
            self.stepper.step()
            self._copy_masks(trainer)

    def _copy_masks(self, trainer: Any) -> None:
        """Give the average the model's masks, not averages of them."""
        if getattr(trainer, "ema", None) is None:
            return
        average = trainer.ema.ema
        modules = dict(average.named_modules())
        for held in masked_tensors(unwrap(trainer.model)):
            path = held.name.rpartition(".")[0]
            attach(modules[path], held.parameter, held.mask)
        refresh(adopt(average))
