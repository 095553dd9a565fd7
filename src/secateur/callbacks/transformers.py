"""Channels and penalties as a callback of Hugging Face's `Trainer`.

Where the cuts stand is in the `trainer_state.json` of each checkpoint. A fresh model is cut by it, with
`prepare`, before a trainer is made that resumes from there.
"""

import importlib
import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from torch import nn

from secateur.callbacks.channels import ChannelSteps
from secateur.errors import CheckpointError

# Without the library there is no Trainer to call us, and any base class will do.
_Base: Any = importlib.import_module("transformers").TrainerCallback if find_spec("transformers") else object


class ChannelCallback(_Base):
    """Drives `ChannelSteps` from a `Trainer`.

    Args:
        steps: What is cut when.
        name: Tells several callbacks of one trainer apart in its checkpoints.
    """

    def __init__(self, steps: ChannelSteps, *, name: str = "channels") -> None:
        self.steps, self.key = steps, f"secateur.{name}"
        self._hook: Any = None

    def prepare(self, model: nn.Module, checkpoint: Path | str) -> None:
        """Cut a fresh model as the one of a checkpoint was, before a trainer resumes from that.

        Raises:
            CheckpointError: The checkpoint says nothing of cuts.
        """
        path = Path(checkpoint) / "trainer_state.json"
        try:
            told = json.loads(path.read_text())["stateful_callbacks"][self.key]
        except (OSError, ValueError, KeyError) as error:
            what = f"{path} says nothing of cuts ({type(error).__name__})"
            raise CheckpointError(what, do="name a checkpoint of a training with this callback") from error
        self.steps.prepare(model, told)

    def on_train_begin(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        """Take note of what is trained; the optimizer exists by now, and a checkpoint is loaded."""
        told = state.stateful_callbacks.get(self.key) if state.global_step else None
        if told is not None:
            self.steps.load_state_dict(told)
        self.steps.attach(given["model"], given["optimizer"])
        if self.steps.penalty is not None and self.steps.optimizer is not None:
            # What the optimizer is about to step by is clipped and unscaled, in every precision.
            pull = lambda *_: self.steps.pull(state.global_step / max(state.max_steps, 1))  # noqa: E731
            self._hook = self.steps.optimizer.register_step_pre_hook(pull)

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        """Make the cut that is due, and tell the trainer's checkpoints where the cuts stand."""
        self.steps.begin_epoch(round(state.epoch or 0))
        state.stateful_callbacks[self.key] = self.steps.state_dict()

    def on_train_end(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        """Take the penalty off the optimizer."""
        if self._hook is not None:
            self._hook.remove()
