"""The training loop: stochastic gradient descent on Lightning Fabric, with a penalty if there is one.

Each step is

    loss.backward();  unscale the gradients;  penalty.step();  optimizer.step()

where the loss is the cross entropy, or what `train/distil.py` makes of it with a teacher.

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
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from secateur.capture.layouts import memory_format
from secateur.errors import CheckpointError, RequestError, SecateurError
from secateur.penalise import Penalty
from secateur.penalise.sparsity import batch_norm_scales, gamma_histogram, near_zero_share
from secateur.train.checkpoint import (
    Checkpoint,
    checkpoints_to_resume,
    read_checkpoint,
    read_weights,
    write_checkpoint,
)
from secateur.train.classifier import (
    Data,
    logits_of,
    make_fabric,
    require_classifier,
    surroundings,
)
from secateur.train.config import FitConfig
from secateur.train.distil import Distillation, Distiller
from secateur.train.evaluation import evaluate_module
from secateur.train.history import EpochRecord, FitResult, find_best_epoch
from secateur.train.progress import Reporter
from secateur.train.schedule import learning_rate


def fit(
    model: nn.Module,
    data: Data,
    config: FitConfig,
    penalty: Penalty | None = None,
    distillation: Distillation | None = None,
    *,
    on_epoch: Callable[[EpochRecord], None] | None = None,
    on_checkpoint: Callable[[Path], None] | None = None,
) -> FitResult:
    """Train a classifier and return a new one.

    Args:
        model: The classifier to start from, pruned or not; it is copied, not changed.
        data: Its `train` and `validation` parts, such as `load("digits")`. A test part is never looked at.
        config: Epochs, learning rate and so on.
        penalty: Acts on parameters of `model`; it is copied together with the model.
        distillation: A teacher to learn from beside the labels; it is copied, not changed.
        on_epoch: Called with the record of every epoch, after its checkpoint is written.
        on_checkpoint: Called with the folder of each checkpoint before it gets its name, to add files to it.

    Returns:
        The model with the weights of the best epoch on the validation part (or the last, see
        `FitConfig.keep`), on the device it was on, and the history.

    Raises:
        RequestError: Settings, model, data and penalty do not fit together, or `save` holds another run.
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
    _require_own_parameters(model, penalty)
    fabric = make_fabric(config.device, config.precision)
    with surroundings(fabric, config.threads):
        run = _Run(model, data, config, penalty, distillation, fabric)
        require_classifier(run.module, data.validation)
        run.resume()
        with Reporter(config, len(run.history)) as reporter:
            if config.resume:
                done = (
                    f"after epoch {len(run.history)}" if run.history else "from the start: nothing to resume"
                )
                reporter.line(f"{config.save}: going on {done}")
            while len(run.history) < config.epochs:
                record = run.train_epoch(reporter)
                run.save(on_checkpoint)
                reporter.end_epoch(record)
                if on_epoch is not None:
                    on_epoch(record)
    return run.result(like=model)


class _Run:
    """The moving parts of one run: model, optimizer, history, and the best weights so far."""

    def __init__(
        self,
        model: nn.Module,
        data: Data,
        config: FitConfig,
        penalty: Penalty | None,
        distillation: Distillation | None,
        fabric: Any,
    ) -> None:
        self.data, self.config, self.fabric = data, config, fabric
        # Together, so that the copied penalty holds the copied model's parameters.
        self.model, self.penalty = copy.deepcopy((model, penalty))
        self.format = memory_format(self.model, channels_last=config.channels_last)
        self.model.to(memory_format=self.format)
        trained = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        if not trained:
            what = "no parameter of the model requires a gradient"
            raise RequestError(what, do="set requires_grad before fitting")
        optimizer = torch.optim.SGD(
            trained,
            lr=config.lr,
            momentum=config.momentum,
            weight_decay=config.weight_decay,
            nesterov=config.nesterov,
        )
        self.module, self.optimizer = fabric.setup(self.model, optimizer)
        self.scales = self.penalty.scales if self.penalty is not None else batch_norm_scales(self.model)
        self.distiller: Distiller | None = None
        if distillation is not None:
            self.distiller = Distiller(distillation, self.model, fabric, data, config)
        self.history: tuple[EpochRecord, ...] = ()
        self.best_weights: Mapping[str, Tensor] = {}

    def train_epoch(self, reporter: Reporter) -> EpochRecord:
        """Train one more epoch, validate, and add its record to the history."""
        start = time.perf_counter()
        rate, (loss, right, count, distance) = self._train_steps(reporter)
        after = evaluate_module(self.fabric, self.module, self.data.validation, 256, self.format)
        self._require_finite(after.loss, "validation loss")
        done = (len(self.history) + 1) / self.config.epochs
        record = EpochRecord(
            epoch=len(self.history) + 1,
            lr=rate,
            train_loss=loss / count,
            train_accuracy=right / count,
            val_loss=after.loss,
            val_accuracy=after.accuracy,
            penalty=self.penalty.value(done) if self.penalty is not None else 0.0,
            near_zero_share=near_zero_share(self.scales),
            gammas=gamma_histogram(self.scales),
            seconds=time.perf_counter() - start,
            distillation=distance / count,
        )
        self.history = (*self.history, record)
        if find_best_epoch(self.history) == record.epoch:
            weights = self.model.state_dict().items()
            self.best_weights = {name: value.detach().cpu().clone() for name, value in weights}
        return record

    def _train_steps(self, reporter: Reporter) -> tuple[float, list[float]]:
        """Go through the training images once; returns the last rate, and the sums of `_step`."""
        config, epoch = self.config, len(self.history) + 1
        torch.manual_seed(config.seed * 1_000_003 + epoch)  # dropout and the like
        batches: Any = self.data.train.batches(
            config.batch_size,
            training=True,
            seed=config.seed,
            epoch=epoch,
            workers=config.workers,
            pin_memory=config.pin_memory,
        )
        steps = len(batches)
        if steps == 0:
            raise RequestError(f"{len(self.data.train)} training images make no batch", do="use more images")
        reporter.begin_epoch(epoch, steps)
        self.module.train()
        totals = torch.zeros(4, device=self.fabric.device)
        for step, (images, labels) in enumerate(batches):
            done, total = (epoch - 1) * steps + step, config.epochs * steps
            rate = learning_rate(config, done, total)
            totals += self._step(images, labels, rate, done / total)
            reporter.advance(step)
            if (step + 1) % 100 == 0 or step + 1 == steps:
                self._require_finite((totals[0] + totals[3]).item(), f"training loss up to step {step + 1}")
        return rate, totals.tolist()

    def _step(self, images: Tensor, labels: Tensor, rate: float, progress: float) -> Tensor:
        """Take one optimizer step; returns summed loss, right answers, number of images, summed distance."""
        images = images.contiguous(memory_format=self.format)
        images, labels = self.fabric.to_device((images, labels))
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.zero_grad()
        if self.distiller is None:
            logits, distance = logits_of(self.module, images, self.data.train.num_classes), None
        else:
            logits, distance = self.distiller.run(self.module, images)
        loss = nn.functional.cross_entropy(logits, labels)
        self.fabric.backward(loss if self.distiller is None else self.distiller.blend(loss, distance))
        if self.penalty is not None:
            self.fabric.strategy.precision.unscale_gradients(self.optimizer.optimizer)
            self.penalty.step(progress)
        self.optimizer.step()
        right = (logits.detach().argmax(1) == labels).sum()
        count = torch.tensor(len(labels), device=loss.device)
        apart = torch.zeros_like(loss) if distance is None else distance
        return torch.stack([loss.detach() * count, right, count, apart.detach() * count])

    def _require_finite(self, loss: float, name: str) -> None:
        if math.isfinite(loss):
            return
        saved = self.config.save is not None and self.history
        kept = f"the checkpoint of epoch {len(self.history)} is kept" if saved else "nothing was saved"
        do = f"lower the learning rate (it starts at {self.config.lr:g}) or the penalty"
        raise SecateurError(f"the {name} of epoch {len(self.history) + 1} is {loss}", [kept], do)

    def save(self, on_checkpoint: Callable[[Path], None] | None) -> None:
        """Write a checkpoint of the last epoch, where one was asked for."""
        if self.config.save is None:
            return
        state = self.optimizer.optimizer.state
        momentum = {
            name: state[parameter]["momentum_buffer"]
            for name, parameter in self.model.named_parameters()
            if state.get(parameter, {}).get("momentum_buffer") is not None
        }
        scaler = self.fabric.strategy.precision.state_dict()
        checkpoint = Checkpoint(self.model.state_dict(), momentum, self._recipe(), self.history, scaler)
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
        _require_same_recipe(folder, checkpoint.recipe, self._recipe())
        _load_weights(self.model, checkpoint.weights, last)
        for name, parameter in self.model.named_parameters():
            if name in checkpoint.momentum:
                buffer = torch.empty_like(parameter).copy_(checkpoint.momentum[name])
                self.optimizer.optimizer.state[parameter]["momentum_buffer"] = buffer.detach()
        self.fabric.strategy.precision.load_state_dict(dict(checkpoint.scaler))
        self.history, self.best_weights = checkpoint.history, read_weights(best)

    def _recipe(self) -> dict[str, Any]:
        """Collect all that decides the result, as it stands in a checkpoint."""
        recipe: dict[str, Any] = self.config.recipe()
        recipe["training images"] = len(self.data.train)
        recipe["validation images"] = len(self.data.validation)
        recipe |= {"penalty": None} if self.penalty is None else self.penalty.recipe()
        if self.distiller is not None:
            recipe |= self.distiller.recipe
        return recipe

    def result(self, like: nn.Module) -> FitResult:
        """Put the kept weights into the model, in the original's device, mode and memory format."""
        best = find_best_epoch(self.history)
        kept = best if self.config.keep == "best" else len(self.history)
        if kept == best:
            _load_weights(self.model, self.best_weights, Path("the best epoch"))
        device = next(like.parameters()).device
        self.model.to(device).to(memory_format=torch.contiguous_format)
        self.model.zero_grad()
        for module, original in zip(self.model.modules(), like.modules(), strict=True):
            module.training = original.training
        return FitResult(self.model, self.history, best, kept)


def _require_own_parameters(model: nn.Module, penalty: Penalty | None) -> None:
    own = {id(parameter) for parameter in model.parameters()}
    if penalty is not None and not all(id(parameter) in own for parameter in penalty.parameters):
        do = "build the penalty from the parameters of the very model that is fitted"
        raise RequestError("the penalty acts on parameters that are not the model's", do=do)


def _require_same_recipe(folder: Path, saved: Mapping[str, Any], asked: Mapping[str, Any]) -> None:
    names = [*asked, *(name for name in saved if name not in asked)]
    differences = [
        f"{name}: {saved.get(name)} in the checkpoint, {asked.get(name)} asked for"
        for name in names
        if saved.get(name) != asked.get(name)
    ]
    if differences:
        do = "ask for the same settings, or start another run from its weights"
        raise RequestError(f"cannot resume {folder} with other settings", differences, do)


def _load_weights(model: nn.Module, weights: Mapping[str, Tensor], source: Path) -> None:
    expected = {name: list(value.shape) for name, value in model.state_dict().items()}
    found = {name: list(value.shape) for name, value in weights.items()}
    differing = [name for name in [*expected, *found] if expected.get(name) != found.get(name)]
    if differing:
        name = differing[0]
        shapes = f"{name} is {found.get(name, 'absent')}, the model has {expected.get(name, 'none')}"
        detail = f"first difference: {shapes}"
        do = "build the architecture that the run was started with"
        raise CheckpointError(f"{source} was made for another architecture", [detail], do)
    model.load_state_dict(dict(weights))
