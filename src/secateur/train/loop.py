"""The engine: one training run on Lightning Fabric, whatever the task is.

Each step is

    loss.backward() (piece by piece);  unscale;  penalty.step();  clip;  optimizer.step();  moving average

where the loss is the task's, or what `train/distil.py` makes of it with a teacher.

With mixed precision the backward pass multiplies gradients by the loss scale. They are divided by it *before*
the penalty adds its subgradient (and the optimizer, which sees that, does not divide again), so `s` means the
same in every precision. A step whose gradients overflowed is skipped whole, penalty included.

On the CPU a run repeats bit for bit: every epoch seeds torch and the data by (seed, epoch). That also makes a
resumed run end with the weights of an uninterrupted one.
"""

import copy
import math
import time
from collections.abc import Callable, Mapping
from functools import reduce
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from secateur.capture.layouts import layout_note, memory_format
from secateur.errors import RequestError, SecateurError
from secateur.penalise import Penalty
from secateur.penalise.sparsity import batch_norm_scales, gamma_histogram, near_zero_share
from secateur.train.checkpoint import (
    Checkpoint,
    checkpoints_to_resume,
    load_weights,
    read_checkpoint,
    read_epoch,
    require_pointed,
    require_same_recipe,
    write_checkpoint,
)
from secateur.train.config import FitConfig
from secateur.train.device import make_fabric, require_one_process, surroundings
from secateur.train.distil import Distillation, Distiller
from secateur.train.evaluation import judge_module, laid_out
from secateur.train.figures import Figures
from secateur.train.history import EpochRecord, FitResult, find_best_epoch
from secateur.train.optimizer import follow, make_optimizer, remembered, remind
from secateur.train.progress import Reporter
from secateur.train.schedule import learning_rate
from secateur.train.sums import Sums
from secateur.train.task import Batch, Data, Task, run_on, tasks


def fit(
    model: nn.Module,
    data: Data,
    config: FitConfig,
    penalty: Penalty | None = None,
    distillation: Distillation | None = None,
    *,
    task: Task | None = None,
    on_epoch: Callable[[EpochRecord], None] | None = None,
    on_checkpoint: Callable[[Path], None] | None = None,
) -> FitResult:
    """Train a network and return a new one.

    Args:
        model: The network to start from, pruned or not; it is copied, not changed.
        data: Its `train` and `validation` parts, such as `load("digits")`. A test part is never looked at.
        config: Epochs, learning rate and so on.
        penalty: Acts on parameters of `model`; it is copied together with the model.
        distillation: A teacher to learn from beside the labels; it is copied, not changed.
        task: What the network is for (default: image classification).
        on_epoch: Called with the record of every epoch, after its checkpoint is written.
        on_checkpoint: Called with the folder of each checkpoint before it gets its name, to add files to it.

    Returns:
        The model with the weights of the best epoch on the validation part (or the last, see
        `FitConfig.keep`), on the device it was on, and the history.

    Raises:
        RequestError: Settings, model, data and penalty do not fit together, or `save` holds another run, or
            a launcher started several processes.
        CheckpointError: The checkpoint to resume from is truncated or of another architecture.
        SecateurError: The loss is no longer a number, or a checkpoint cannot be written; the last complete
            checkpoint remains.

    Example:
        >>> from secateur.domains.classification import load
        >>> from secateur.zoo import models
        >>> vgg = models["vgg11"](width=1 / 16, in_channels=1, image_size=8)
        >>> result = fit(vgg, load("digits"), FitConfig(epochs=1, quiet=True))
        >>> len(result.history), result.best_epoch, type(result.model).__name__
        (1, 1, 'VGG')
    """
    run = Run(model, task or tasks["classification"], data, config, penalty, distillation)
    return run.fit(on_epoch=on_epoch, on_checkpoint=on_checkpoint)


class Run:
    """One training: model, optimizer, moving average, history, and the best weights so far.

    `fit` does all of it. In a loop of one's own, `step` trains on a batch; what happens between the steps is
    up to the loop:

        run = Run(model, task, parts, FitConfig(epochs=3))
        for batch in parts.train.batches(64, training=True):
            losses = run.step(batch)

    Args:
        model: The network to start from; it is copied, not changed.
        task: What it is for.
        data: What it goes through.
        config: How.
        penalty: Acts on parameters of `model`; it is copied together with the model.
        distillation: A teacher; it is copied, not changed.

    Attributes:
        model: The copy that is trained.
        average: Its moving average, if there is one.
        history: The epochs so far.
        start: How good the model was that came in, where that counts.
        taken: Optimizer steps so far.

    Raises:
        RequestError: They do not fit together.
    """

    def __init__(
        self,
        model: nn.Module,
        task: Task,
        data: Data,
        config: FitConfig,
        penalty: Penalty | None = None,
        distillation: Distillation | None = None,
    ) -> None:
        require_one_process()
        _require_own_parameters(model, penalty)
        self.original, self.task, self.data, self.config = model, task, data, config
        self.fabric: Any = make_fabric(config.device, config.precision)
        # Together, so that the copied penalty holds the copied model's parameters.
        self.model, self.penalty = copy.deepcopy((model, penalty))
        self.layout = memory_format(self.model, channels_last=config.channels_last)
        note = layout_note(self.model, channels_last=config.channels_last)
        self.notes = (note,) if note else ()
        self.model.to(memory_format=self.layout)
        self.module, self.optimizer = self.fabric.setup(self.model, make_optimizer(self.model, config))
        self.average = copy.deepcopy(self.model).eval() if config.ema else None
        self.judged = self.module if self.average is None else self.fabric.setup_module(self.average)
        self.scales = self.penalty.scales if self.penalty is not None else batch_norm_scales(self.model)
        self.distiller: Distiller | None = None
        if distillation is not None:
            self.distiller = Distiller(distillation, self.model, self.fabric, task, self.layout)
        self.history: tuple[EpochRecord, ...] = ()
        self.start: EpochRecord | None = None
        self.best_weights: Mapping[str, Tensor] = {}
        self.taken = 0
        self._total = 0

    @property
    def kept_model(self) -> nn.Module:
        """The network that is validated and kept: the moving average if there is one."""
        return self.model if self.average is None else self.average

    @property
    def total(self) -> int:
        """Optimizer steps of the whole run."""
        if not self._total:
            self._total = self.config.epochs * len(self._batches(1))
        return self._total

    def fit(
        self,
        *,
        on_epoch: Callable[[EpochRecord], None] | None = None,
        on_checkpoint: Callable[[Path], None] | None = None,
    ) -> FitResult:
        """Train to the end, from the last checkpoint if that is asked for; see the function `fit`."""
        config = self.config
        with surroundings(self.fabric, config.threads):
            part = self.data.train if self.data.validation is None else self.data.validation
            self.task.require(self.module, part)
            if self.distiller is not None:
                self.distiller.require(part)
            self.resume()
            with Reporter(config, len(self.history)) as reporter:
                for note in self.notes:
                    reporter.line(note)
                if config.resume:
                    after = f"after epoch {len(self.history)}"
                    done = after if self.history else "from the start: nothing to resume"
                    reporter.line(f"{config.save}: going on {done}")
                if config.keep == "best-or-start" and not self.history and self.start is None:
                    self._look_at_start(reporter, on_checkpoint)
                while len(self.history) < config.epochs and not self._is_stale():
                    record = self.train_epoch(reporter)
                    self.save(on_checkpoint)
                    reporter.end_epoch(record)
                    if on_epoch is not None:
                        on_epoch(record)
                if len(self.history) < config.epochs:
                    reporter.line(f"stopped: {config.patience} validations were no better than the best one")
        return self.result()

    def _look_at_start(self, reporter: Reporter, on_checkpoint: Callable[[Path], None] | None) -> None:
        """Validate what came in, as epoch 0, and keep it as the best so far."""
        began, figures = time.perf_counter(), self._figures()
        if figures is not None:
            self.start = EpochRecord(0, 0.0, {}, {}, figures, seconds=time.perf_counter() - began)
            self._keep_best()
            reporter.line(f"before the training: validation {figures}")
            self.save(on_checkpoint)

    def _keep_best(self) -> None:
        weights = self.kept_model.state_dict().items()
        self.best_weights = {name: value.detach().cpu().clone() for name, value in weights}

    def _is_stale(self) -> bool:
        """Whether patience is at its end; a validation as good as the best one is no better."""
        best, since = None if self.start is None else self.start.figures, 0
        for figures in (record.figures for record in self.history if record.figures is not None):
            is_better = best is None or figures.is_better_than(best)
            best, since = (figures, 0) if is_better else (best, since + 1)
        return 0 < self.config.patience <= since

    def train_epoch(self, reporter: Reporter) -> EpochRecord:
        """Train one more epoch, validate if it is due, and add the record to the history."""
        start, epoch, config = time.perf_counter(), len(self.history) + 1, self.config
        sums = self._train_steps(reporter, epoch)
        due = epoch % config.validate_every == 0 or epoch == config.epochs
        record = EpochRecord(
            epoch=epoch,
            lr=self.optimizer.param_groups[0]["lr"],
            losses=sums.means("loss"),
            watched=sums.means("watched"),
            figures=self._validate() if due else None,
            penalty=self.penalty.value(epoch / config.epochs) if self.penalty is not None else 0.0,
            distillation=sums.means("teacher").get("distance", 0.0),
            near_zero_share=near_zero_share(self.scales),
            gammas=gamma_histogram(self.scales),
            samples=sums.count,
            seconds=time.perf_counter() - start,
        )
        self.history = (*self.history, record)
        if find_best_epoch(self.history, self.start) == epoch:
            self._keep_best()
        return record

    def _batches(self, epoch: int) -> Any:
        config = self.config
        return self.data.train.batches(
            config.batch_size,
            training=True,
            seed=config.seed,
            epoch=epoch,
            workers=config.workers,
            pin_memory=config.pin_memory,
        )

    def _train_steps(self, reporter: Reporter, epoch: int) -> "Sums":
        """Go through the training samples once."""
        torch.manual_seed(self.config.seed * 1_000_003 + epoch)  # dropout and the like
        batches = self._batches(epoch)
        steps = len(batches)
        if steps == 0:
            what = f"{len(self.data.train)} training {self.task.noun} make no batch"
            raise RequestError(what, do=f"use more {self.task.noun}")
        self._total, self.taken = self.config.epochs * steps, (epoch - 1) * steps
        reporter.begin_epoch(epoch, steps)
        self.module.train()
        sums = Sums()
        for step, batch in enumerate(batches):
            self._step(batch, sums)
            reporter.advance(step)
            # Without a GPU there is nothing to wait for, so that the first bad step is named.
            if self.fabric.device.type == "cpu" or (step + 1) % 50 == 0 or step + 1 == steps:
                self._require_finite(sums.lowered(), f"training loss up to step {step + 1}")
        return sums

    def step(self, batch: Batch) -> dict[str, float]:
        """Train on one batch, in a loop of one's own.

        Args:
            batch: What the task understands, on any device.

        Returns:
            The parts of the loss, by name.
        """
        sums = Sums()
        self.module.train()
        self._step(batch, sums)
        return sums.means("loss")

    def _step(self, batch: Batch, sums: "Sums") -> None:
        """Take one optimizer step."""
        config, progress = self.config, self.taken / self.total
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(config, self.taken, self.total)
        self.optimizer.zero_grad()
        count = self.task.count(batch)
        whole = config.subdivisions == 1
        for piece in [batch] if whole else self.task.pieces(batch, config.subdivisions):
            own = count if whole else self.task.count(piece)
            loss = self._loss(self.fabric.to_device(piece), own, sums)
            self.fabric.backward(loss if whole else loss * (own / count))
        if self.penalty is not None or config.clip:
            self.fabric.strategy.precision.unscale_gradients(self.optimizer.optimizer)
        if self.penalty is not None:
            self.penalty.step(progress)
        if config.clip:
            nn.utils.clip_grad_norm_(self.model.parameters(), config.clip)
        self.optimizer.step()
        if self.average is not None:
            follow(self.average, self.model, min(config.ema, (1 + self.taken) / (10 + self.taken)))
        self.taken += 1

    def _loss(self, batch: Batch, count: int, sums: "Sums") -> Tensor:
        """Run the network on some samples; what is to be lowered."""
        task, inputs, distance = self.task, laid_out(self.task.inputs(batch), self.layout), None
        if self.distiller is None:
            output = run_on(self.module, inputs)
        else:
            output, distance = self.distiller.run(self.module, inputs)
        losses = task.loss(self.model, output, batch)
        sums.add("loss", losses, count)
        sums.add("watched", task.watch(output, batch), count)
        sums.add("teacher", {} if distance is None else {"distance": distance}, count)
        sums.count += count
        loss = reduce(torch.add, losses.values())
        return loss if self.distiller is None else self.distiller.blend(loss, distance)

    def _validate(self) -> Figures | None:
        """How good the kept network is."""
        found = self._figures()
        if found is not None and "loss" in found.values:
            self._require_finite(found.values["loss"], "validation loss")
        return found

    def _figures(self) -> Figures | None:
        """How good the kept network is; without details, which would swell the checkpoints."""
        part = self.data.validation
        if part is None:
            return None
        size = self.config.evaluation_batch_size
        found = judge_module(self.fabric, self.judged, part, self.task, size, self.layout)
        return Figures(dict(found.values), found.count, found.lower_is_better)

    def _require_finite(self, loss: float, name: str) -> None:
        if math.isfinite(loss):
            return
        saved = self.config.save is not None and (self.history or self.start is not None)
        kept = f"the checkpoint of epoch {len(self.history)} is kept" if saved else "nothing was saved"
        do = f"lower the learning rate (it starts at {self.config.lr:g}) or the penalty"
        raise SecateurError(f"the {name} of epoch {len(self.history) + 1} is {loss}", [kept], do)

    def save(self, on_checkpoint: Callable[[Path], None] | None = None) -> None:
        """Write a checkpoint of the last epoch, where one was asked for."""
        if self.config.save is None:
            return
        checkpoint = Checkpoint(
            weights=self.kept_model.state_dict(),
            optimizer=remembered(self.model, self.optimizer.optimizer),
            recipe=self.recipe(),
            history=self.history,
            scaler=self.fabric.strategy.precision.state_dict(),
            raw={} if self.average is None else self.model.state_dict(),
            told=self.task.told(self.data),
            start=self.start,
        )
        write_checkpoint(Path(self.config.save), checkpoint, on_checkpoint)

    def resume(self) -> None:
        """Take up the run in `config.save`, or make sure that there is none."""
        if self.config.save is None:
            return
        folder = Path(self.config.save)
        found = checkpoints_to_resume(folder, resume=self.config.resume, overwrite=self.config.overwrite)
        if found is None:
            return
        last, best = found
        checkpoint = read_checkpoint(last)
        require_pointed(last, best, (checkpoint.epoch, find_best_epoch(checkpoint.history, checkpoint.start)))
        require_same_recipe(folder, checkpoint.recipe, self.recipe())
        load_weights(self.model, checkpoint.raw or checkpoint.weights, last)
        if self.average is not None:
            load_weights(self.average, checkpoint.weights, last)
        remind(self.model, self.optimizer.optimizer, checkpoint.optimizer, last)
        self.fabric.strategy.precision.load_state_dict(dict(checkpoint.scaler))
        self.task.recall(self.data, checkpoint.told)
        self.history, self.start = checkpoint.history, checkpoint.start
        self.best_weights = read_epoch(best, ["weights"])[1]["weights"]

    def recipe(self) -> dict[str, Any]:
        """Collect all that decides the result, as it stands in a checkpoint."""
        recipe: dict[str, Any] = self.config.recipe()
        valid = self.data.validation
        recipe[f"training {self.task.noun}"] = len(self.data.train)
        recipe[f"validation {self.task.noun}"] = 0 if valid is None else len(valid)
        recipe |= self.task.recipe(self.data)
        recipe |= {"penalty": None} if self.penalty is None else self.penalty.recipe()
        return recipe if self.distiller is None else recipe | self.distiller.recipe

    def result(self) -> FitResult:
        """Put the kept weights into the model, in the original's device, mode and memory format."""
        best = find_best_epoch(self.history, self.start)
        kept = len(self.history) if self.config.keep == "last" else best
        if kept == best:
            load_weights(self.model, self.best_weights, Path("the best epoch"))
        elif self.average is not None:
            load_weights(self.model, self.average.state_dict(), Path("the moving average"))
        device = next(self.original.parameters()).device
        self.model.to(device).to(memory_format=torch.contiguous_format)
        self.model.zero_grad()
        for module, original in zip(self.model.modules(), self.original.modules(), strict=True):
            module.training = original.training
        return FitResult(self.model, self.history, best, kept, self.notes, self.start)


def _require_own_parameters(model: nn.Module, penalty: Penalty | None) -> None:
    own = {id(parameter) for parameter in model.parameters()}
    if penalty is not None and not all(id(parameter) in own for parameter in penalty.parameters):
        do = "build the penalty from the parameters of the very model that is fitted"
        raise RequestError("the penalty acts on parameters that are not the model's", do=do)
