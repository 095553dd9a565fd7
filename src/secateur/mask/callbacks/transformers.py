"""Masks as a callback of Hugging Face's `Trainer`.

A checkpoint holds masks as buffers of the model, and where the stepper stands in `trainer_state.json`. A
fresh model that goes on from it needs masks before the trainer loads its weights, for these to fit.
"""

import importlib
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

import torch
from torch import nn

from secateur.capture.unwrap import unwrap
from secateur.errors import RequestError
from secateur.mask.gradual import Stepper
from secateur.mask.hook import is_masked, masked_tensors, refresh
from secateur.mask.pruning import prune

Make = Callable[[nn.Module, torch.optim.Optimizer], Stepper]

# Without the library there is no Trainer to call us, and any base class will do.
_Base: Any = importlib.import_module("transformers").TrainerCallback if find_spec("transformers") else object


class MaskCallback(_Base):
    """Drives a stepper, such as `Gradual` or `RigL`, from a `Trainer`.

    A callback may be used again: each training begins with a new stepper, and masks that the model has stay.
    A training that resumes from a checkpoint goes on where that one stood.

    Args:
        make: Makes the stepper from the model and its optimizer.
        **select: Which tensors get a mask of ones as soon as the trainer is made, as for `prune`: those that
            the stepper masks. Needed only where a model without masks is to resume from a checkpoint.
        name: Tells several mask callbacks of one trainer apart in its checkpoints.

    Attributes:
        stepper: The one of the present or last training.

    Raises:
        RequestError: As a training resumes: the checkpoint has masks that the model lacks.

    Example:
        >>> from types import SimpleNamespace
        >>> from secateur.mask import Gradual
        >>> callback = MaskCallback(lambda model, optimizer: Gradual(model, sparsity=0.5, end=100))
        >>> net, state = nn.Linear(4, 4), SimpleNamespace(global_step=0, stateful_callbacks={})
        >>> callback.on_train_begin(None, state, None, model=net, optimizer=None)
        >>> callback.on_step_end(None, state, None, model=net)
        >>> print(callback.stepper)
        cubic to 50.00%: step 1, of 0 to 100, asked for 0.00%, masked 0.00%
    """

    def __init__(self, make: Make, *, name: str = "masks", **select: Any) -> None:
        self.make = make
        self.select = select
        self.key = f"secateur.{name}"
        self.stepper: Stepper | None = None

    def on_init_end(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        """Give the model masks, for the trainer to load a checkpoint into."""
        if self.select and not is_masked(unwrap(given["model"])):
            prune(unwrap(given["model"]), "identity", **self.select)

    def on_train_begin(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        """Make the stepper; the optimizer exists by now, and a checkpoint is loaded."""
        model = unwrap(given["model"])
        stood = state.stateful_callbacks.get(self.key) if state.global_step else None
        if stood is not None:
            lost = sorted(set(stood["masked"]) - {held.name for held in masked_tensors(model)})
            if lost:
                raise RequestError(
                    f"the checkpoint has masks of {len(lost)} tensors that the model had none for",
                    [", ".join(lost)],
                    "pass the callback select=..., as to the stepper, and the trainer a model, no model_init",
                )
        refresh(model)
        self.stepper = self.make(model, given["optimizer"])
        if stood is not None:
            self.stepper.load_state_dict(stood["stepper"])

    def on_step_end(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        """Step after the optimizer did, and tell the trainer's checkpoints where the stepper stands."""
        if self.stepper is None:
            return
        known = state.stateful_callbacks.get(self.key)
        if self.stepper.step() or known is None:
            masked = [held.name for held in masked_tensors(unwrap(given["model"]))]
        else:
            masked = known["masked"]
        state.stateful_callbacks[self.key] = {"masked": masked, "stepper": self.stepper.state_dict()}
