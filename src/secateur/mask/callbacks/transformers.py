"""Masks as a callback of Hugging Face's `Trainer`.

A checkpoint holds masks as buffers of the model, and where the stepper stands in `trainer_state.json`. A
fresh model that goes on from it needs masks before the trainer loads its weights, for these to fit.
"""

import importlib
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any, cast

import torch
from torch import nn

from secateur.capture.unwrap import unwrap
from secateur.errors import RequestError
from secateur.mask.gradual import Stepper
from secateur.mask.hook import is_masked, refresh
from secateur.mask.pruning import prune

Make = Callable[[nn.Module, torch.optim.Optimizer], Stepper]

_module = "transformers.trainer_callback"
_library: Any = importlib.import_module(_module) if find_spec("transformers") else None
# Without the library there is no Trainer to call us, and any base class will do.
_Exportable: Any = _library.ExportableState if _library else type("_Exportable", (), {})
_Callback: Any = _library.TrainerCallback if _library else object


class MaskCallback(_Exportable, _Callback):
    """Drives a stepper, such as `Gradual` or `RigL`, from a `Trainer`.

    A callback may be used again: each training begins with a new stepper, and masks that the model has stay.
    A training that resumes from a checkpoint goes on where that one stood.

    Args:
        make: Makes the stepper from the model and its optimizer.
        **select: Which tensors get a mask of ones as soon as the trainer is made, as for `prune`: those that
            the stepper masks. Needed only where a model without masks is to resume from a checkpoint.

    Attributes:
        stepper: The one of the present or last training.

    Raises:
        RequestError: As a training resumes: the checkpoint has masks, the model none.

    Example:
        >>> from types import SimpleNamespace
        >>> from secateur.mask import Gradual
        >>> callback = MaskCallback(lambda model, optimizer: Gradual(model, sparsity=0.5, end=100))
        >>> net, state = nn.Linear(4, 4), SimpleNamespace(global_step=0)
        >>> callback.on_train_begin(None, state, None, model=net, optimizer=None)
        >>> callback.on_step_end(None, state, None)
        >>> print(callback.stepper)
        cubic to 50.00%: step 1, of 0 to 100, asked for 0.00%, masked 0.00%
    """

    def __init__(self, make: Make, **select: Any) -> None:
        self.make = make
        self.select = select
        self.stepper: Stepper | None = None

    def state(self) -> dict[str, Any]:
        """What the trainer writes into its checkpoints."""
        return {"args": {}, "attributes": {"stood": self.stepper.state_dict() if self.stepper else None}}

    def on_init_end(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        """Give the model masks, for the trainer to load a checkpoint into."""
        if self.select:
            prune(unwrap(given["model"]), "identity", **self.select)

    def on_train_begin(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        """Make the stepper; the optimizer exists by now, and a checkpoint is loaded."""
        model = unwrap(given["model"])
        stood = self._stood(state) if state.global_step else None
        if stood is not None and not is_masked(model):
            raise RequestError(
                "the checkpoint has masks, and the model had none to load them into",
                do="pass the callback select=..., as to the stepper, or mask the model before the training",
            )
        refresh(model)
        self.stepper = self.make(model, given["optimizer"])
        if stood is not None:
            self.stepper.load_state_dict(stood)

    def on_step_end(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        """Step after the optimizer did."""
        if self.stepper is not None:
            self.stepper.step()

    def _stood(self, state: Any) -> dict[str, Any] | None:
        """Where the stepper of the checkpoint stood."""
        found = state.stateful_callbacks.get(type(self).__name__, {})
        if isinstance(found, list):
            raise RequestError(
                f"the checkpoint is of a training with {len(found)} mask callbacks, and names none of them",
                do="to resume, drive all steppers from one callback",
            )
        return cast("dict[str, Any] | None", found.get("attributes", {}).get("stood"))
