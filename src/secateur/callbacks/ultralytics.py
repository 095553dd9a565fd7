"""Channels and penalties as callbacks of ultralytics' trainers.

The moving average of the weights (`trainer.ema`) is cut along. Ultralytics writes its checkpoints as pickles
of the whole model, cut as it is.
"""

from typing import Any

from secateur.callbacks.channels import ChannelSteps


class ChannelCallbacks:
    """Drives `ChannelSteps` from an ultralytics trainer.

    Args:
        steps: What is cut when.
    """

    def __init__(self, steps: ChannelSteps) -> None:
        self.steps = steps
        self._progress = 0.0
        self._hook: Any = None

    def add_to(self, model: Any) -> None:
        """Register with a `YOLO` or a trainer: anything with `add_callback(event, function)`."""
        for event in (
            "on_pretrain_routine_end",
            "on_train_epoch_start",
            "on_train_batch_start",
            "on_train_end",
        ):
            model.add_callback(event, getattr(self, event))

    def on_pretrain_routine_end(self, trainer: Any) -> None:
        """Take note of what is trained; model, optimizer and average exist by now."""
        ema = getattr(trainer, "ema", None)
        self.steps.attach(trainer.model, trainer.optimizer, [] if ema is None else [ema.ema])
        if self.steps.penalty is not None:
            # What the optimizer is about to step by is clipped and unscaled, in every precision.
            self._hook = trainer.optimizer.register_step_pre_hook(lambda *_: self.steps.pull(self._progress))

    def on_train_epoch_start(self, trainer: Any) -> None:
        """Make the cut that is due."""
        self.steps.begin_epoch(trainer.epoch)
        self._batch = 0

    def on_train_batch_start(self, trainer: Any) -> None:
        """Take note of how far the training is."""
        batches = len(trainer.train_loader)
        self._progress = (trainer.epoch + self._batch / batches) / trainer.epochs
        self._batch += 1

    def on_train_end(self, trainer: Any) -> None:
        """Take the penalty off the optimizer."""
        if self._hook is not None:
            self._hook.remove()
