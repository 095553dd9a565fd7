"""Train a detector: YOLOv3's loss, by the rules of `secateur.train.loop`.

Each step is

    loss.backward() (piece by piece);  unscale;  sparsity.pull();  clip;  optimizer.step();  moving average

On the CPU a run repeats bit for bit, and a resumed run ends with the weights of an uninterrupted one: batches
follow from (seed, epoch), and torch is seeded anew for each epoch.
"""

import copy
import dataclasses
import math
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from secateur.capture.layouts import memory_format
from secateur.domains.darknet.data import Loader
from secateur.domains.darknet.evaluate import Evaluation, evaluate
from secateur.domains.darknet.history import DetectorRecord, Trained, find_best
from secateur.domains.darknet.loss import Loss, distillation_loss, with_distillation, yolo_loss
from secateur.domains.darknet.network import Darknet
from secateur.domains.darknet.predict import predictor
from secateur.domains.darknet.recipe import Recipe
from secateur.domains.darknet.sparsity import Sparsity
from secateur.errors import CheckpointError, RequestError, SecateurError
from secateur.penalise.sparsity import batch_norm_scales, near_zero_share
from secateur.train.checkpoint import checkpoints_to_resume, read_epoch, write_epoch
from secateur.train.classifier import choose_device, make_fabric, surroundings
from secateur.train.config import FitConfig
from secateur.train.distil import Teacher
from secateur.train.progress import Reporter

__all__ = ["Teaching", "fit_detector"]

_VERSION = 1
_PARTS = ("box", "objectness", "classes", "distillation")


@dataclasses.dataclass(frozen=True, eq=False)
class Teaching:
    """What else a network learns from than labels.

    Attributes:
        sparsity: Pulls batch-norm scales to zero.
        teacher: Its raw maps are imitated; same anchors, classes and strides.
    """

    sparsity: Sparsity | None = None
    teacher: Darknet | None = None


def fit_detector(
    model: Darknet,
    train: Loader,
    valid: Loader | None,
    recipe: Recipe,
    teaching: Teaching | None = None,
    *,
    on_checkpoint: Callable[[Path, Darknet], None] | None = None,
) -> Trained:
    """Train a network and return a new one.

    Args:
        model: The network to start from, cut or not; it is copied, not changed.
        train: Augmented batches, `loader(..., training=True)`; it says the batch size and the input sizes.
        valid: Batches of the validation images; None measures no mAP, and keeps the last epoch.
        recipe: Epochs, learning rate and so on.
        teaching: Sparse training, a teacher.
        on_checkpoint: Called with the folder of each checkpoint before it gets its name, and the network, to
            add files to it.

    Returns:
        The network with the weights of the best epoch (or the last), on the device it was on, the history,
        and the images that could not be read.

    Raises:
        RequestError: Settings, network and data do not fit together, or `save` holds another run.
        CheckpointError: The checkpoint to resume from is truncated or of another network.
        DataError: No image can be read.
        SecateurError: The loss is no longer a number; the last complete checkpoint remains.

    Example:
        >>> from secateur.domains.darknet.data import digit_scenes, loader
        >>> scenes = digit_scenes(train=4, valid=0)
        >>> batches = loader(scenes["train"], scenes.names, 64, 2, training=True)
        >>> trained = fit_detector(Darknet("digits"), batches, None, Recipe(epochs=1, quiet=True))
        >>> len(trained.history), trained.kept_epoch, trained.model.header.seen
        (1, 1, 4)
    """
    _require_loaders(model, train, valid)
    device = choose_device(recipe.device)
    fabric = make_fabric(recipe.device, _precision(recipe.precision, device))
    with surroundings(fabric, recipe.threads):
        run = _Run(model, (train, valid), recipe, teaching or Teaching(), fabric)
        run.resume()
        shown = FitConfig(epochs=recipe.epochs, quiet=recipe.quiet, log_interval=recipe.log_interval)
        with Reporter(shown, len(run.history)) as reporter:
            if recipe.resume:
                done = (
                    f"after epoch {len(run.history)}" if run.history else "from the start: nothing to resume"
                )
                reporter.line(f"{recipe.save}: going on {done}")
            while len(run.history) < recipe.epochs:
                record = run.train_epoch(reporter)
                run.save(on_checkpoint)
                reporter.line(str(record))
    return run.result(like=model)


class _Run:
    """The moving parts of one run: network, optimizer, moving average, history, best weights."""

    def __init__(
        self,
        model: Darknet,
        loaders: tuple[Loader, Loader | None],
        recipe: Recipe,
        teaching: Teaching,
        fabric: Any,
    ) -> None:
        self.train, self.valid = loaders
        self.recipe, self.fabric, self.sparsity = recipe, fabric, teaching.sparsity
        self.format = memory_format(model, channels_last=recipe.channels_last)
        self.model = copy.deepcopy(model).to(memory_format=self.format)
        trained = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        if not trained:
            what = "no parameter of the network requires a gradient"
            raise RequestError(what, do="set requires_grad before fitting")
        self.pulled = self.sparsity.scales(self.model) if self.sparsity else batch_norm_scales(self.model)
        self.module, self.optimizer = fabric.setup(self.model, _optimizer(self.model, recipe))
        self.average = copy.deepcopy(self.model).eval() if recipe.ema else None
        self.teacher: Any = None
        if teaching.teacher is not None:
            self.teacher = Teacher(fabric, teaching.teacher, self.format)
        self.history: tuple[DetectorRecord, ...] = ()
        self.best_weights: Mapping[str, Tensor] = {}

    @property
    def kept_model(self) -> Darknet:
        """The network that is validated and kept: the moving average if there is one."""
        return self.average if self.average is not None else self.model

    def train_epoch(self, reporter: Reporter) -> DetectorRecord:
        """Train one more epoch, validate if it is due, and add the record to the history."""
        start, epoch, recipe = time.perf_counter(), len(self.history) + 1, self.recipe
        rate, parts = self._train_steps(reporter, epoch)
        due = epoch % recipe.validate_every == 0 or epoch == recipe.epochs
        found = self._validate() if due and self.valid is not None else None
        record = DetectorRecord(
            epoch=epoch,
            lr=rate,
            loss=sum(parts),
            **dict(zip(_PARTS, parts, strict=True)),
            map50=found.map50 if found else None,
            map=found.map if found else None,
            near_zero_share=near_zero_share(self.pulled),
            skipped=len(self.train.broken),
            seconds=time.perf_counter() - start,
        )
        self.history = (*self.history, record)
        if find_best(self.history) == epoch:
            weights = self.kept_model.state_dict().items()
            self.best_weights = {name: value.detach().cpu().clone() for name, value in weights}
        return record

    def _train_steps(self, reporter: Reporter, epoch: int) -> tuple[float, list[float]]:
        """Go through the training images once; returns the last rate and the parts' means."""
        torch.manual_seed(self.recipe.seed * 1_000_003 + epoch)  # dropout and the like
        batches = self.train.at_epoch(epoch)
        steps = len(batches)
        reporter.begin_epoch(epoch, steps)
        self.module.train()
        totals, images, rate = torch.zeros(len(_PARTS), device=self.fabric.device), 0, 0.0
        for number, batch in enumerate(batches):
            step = (epoch - 1) * steps + number
            rate = self.recipe.rate(step, self.recipe.epochs * steps)
            losses = self._step(batch.images, batch.targets, rate, step)
            totals += losses * len(batch.images)
            images += len(batch.images)
            reporter.advance(number)
            if self.fabric.device.type == "cpu" or (number + 1) % 50 == 0 or number + 1 == steps:
                self._require_finite(totals.sum().item(), number + 1)
        seen = self.model.header.seen + images
        for model in (self.model, self.kept_model):
            model.header = dataclasses.replace(self.model.header, seen=seen)
        return rate, (totals / images).tolist()

    def _step(self, images: Tensor, targets: Tensor, rate: float, step: int) -> Tensor:
        """Take one optimizer step; returns the parts of the loss."""
        recipe, count = self.recipe, len(images)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.zero_grad()
        piece = -(-count // recipe.subdivisions)
        parts = torch.zeros(len(_PARTS), device=self.fabric.device)
        for start in range(0, count, piece):
            inside = (targets[:, 0] >= start) & (targets[:, 0] < start + piece)
            own = targets[inside].clone()
            own[:, 0] -= start
            chunk = images[start : start + piece]
            loss = self._loss(chunk, own)
            share = len(chunk) / count
            self.fabric.backward(loss.total * share)
            parts += torch.stack([getattr(loss, part).detach() for part in _PARTS]) * share
        self.fabric.strategy.precision.unscale_gradients(self.optimizer.optimizer)
        if self.sparsity is not None:
            self.sparsity.pull(self.model, step / (recipe.epochs * len(self.train)))
        if recipe.clip:
            nn.utils.clip_grad_norm_(self.model.parameters(), recipe.clip)
        self.optimizer.step()
        if self.average is not None:
            _follow(self.average, self.model, min(recipe.ema, (1 + step) / (10 + step)))
        return parts

    def _loss(self, images: Tensor, targets: Tensor) -> Loss:
        images = images.contiguous(memory_format=self.format)
        images, targets = self.fabric.to_device((images, targets))
        maps, size = self.module(images), (images.shape[2], images.shape[3])
        loss = yolo_loss(maps, self.model.heads, targets, size, box_loss=self.recipe.box_loss)
        if self.teacher is None:
            return loss
        term = distillation_loss(maps, self.teacher(images), self.model.heads)
        return with_distillation(loss, term, self.recipe.distillation)

    def _validate(self) -> Evaluation:
        assert self.valid is not None
        self.module.eval()
        module = self.module if self.average is None else None
        found = evaluate(predictor(self.kept_model, module), self.valid)
        self.module.train()
        return found

    def _require_finite(self, loss: float, step: int) -> None:
        if math.isfinite(loss):
            return
        kept = "the network that was passed is unchanged; nothing was saved"
        if self.recipe.save is not None and self.history:
            kept = f"the weights of epoch {len(self.history)} are kept in {self.recipe.save}"
        what = f"the training loss is {loss} in epoch {len(self.history) + 1}, step {step}"
        recipe = self.recipe
        do = f"lower the learning rate ({recipe.lr:g}), the clipping norm ({recipe.clip:g}) or the sparsity"
        raise SecateurError(what, [kept], do)

    def save(self, on_checkpoint: Callable[[Path, Darknet], None] | None) -> None:
        """Write a checkpoint of the last epoch, where one was asked for."""
        if self.recipe.save is None:
            return
        names = {parameter: name for name, parameter in self.model.named_parameters()}
        moments = {
            f"{names[parameter]}|{key}": value if isinstance(value, Tensor) else torch.tensor(value)
            for parameter, state in self.optimizer.optimizer.state.items()
            for key, value in state.items()
            if value is not None
        }
        tensors = {"weights": self.kept_model.state_dict(), "optimizer": moments}
        if self.average is not None:
            tensors["raw"] = self.model.state_dict()
        state = {
            "version": _VERSION,
            "recipe": self._deciding(),
            "scaler": self.fabric.strategy.precision.state_dict(),
            "seen": self.model.header.seen,
            "history": [dataclasses.asdict(record) for record in self.history],
            "broken": dict(self.train.broken),
        }
        epochs = (len(self.history), find_best(self.history))
        add = None if on_checkpoint is None else lambda folder: on_checkpoint(folder, self.kept_model)
        write_epoch(Path(self.recipe.save), epochs, tensors, state, add)

    def resume(self) -> None:
        """Take up the run in `recipe.save`, or make sure that there is none."""
        if self.recipe.save is None:
            return
        folder = Path(self.recipe.save)
        found = checkpoints_to_resume(folder, resume=self.recipe.resume, overwrite=self.recipe.overwrite)
        if found is None:
            return
        last, best = found
        parts = ["weights", "optimizer", *(["raw"] if self.average is not None else [])]
        state, tensors = self._read(last, parts)
        _fill(self.model, tensors["raw" if self.average is not None else "weights"], last)
        if self.average is not None:
            _fill(self.average, tensors["weights"], last)
        named = dict(self.model.named_parameters())
        for key, value in tensors["optimizer"].items():
            name, _, moment = key.rpartition("|")
            parameter = named[name]
            if value.shape == parameter.shape:
                value = torch.empty_like(parameter).detach().copy_(value)
            self.optimizer.optimizer.state[parameter][moment] = value
        self.fabric.strategy.precision.load_state_dict(state["scaler"])
        self.history = tuple(DetectorRecord(**record) for record in state["history"])
        self.train.broken.update(state["broken"])
        for model in (self.model, self.kept_model):
            model.header = dataclasses.replace(model.header, seen=state["seen"])
        self.best_weights = read_epoch(best, ["weights"])[1]["weights"]

    def _read(self, folder: Path, parts: list[str]) -> tuple[dict[str, Any], dict[str, dict[str, Tensor]]]:
        """Read a checkpoint and make sure that it is one of this run."""
        state = read_epoch(folder, [])[0]
        wanted = {"version", "recipe", "scaler", "seen", "history", "broken"}
        if not wanted <= state.keys() or state["version"] != _VERSION:
            what = f"{folder / 'state.json'} is no state of a detector's training"
            raise CheckpointError(what, do="name a folder that secateur darknet train wrote")
        saved, asked = state["recipe"], self._deciding()
        differences = [
            f"{name}: {saved.get(name)} in the checkpoint, {asked.get(name)} asked for"
            for name in dict.fromkeys([*asked, *saved])
            if saved.get(name) != asked.get(name)
        ]
        if differences:
            do = "ask for the same settings, or start another run from its weights"
            raise RequestError(f"cannot resume {folder.parent} with other settings", differences, do)
        return read_epoch(folder, parts)

    def _deciding(self) -> dict[str, Any]:
        """Collect all that decides the result, as it stands in a checkpoint."""
        train, sparsity = self.train, self.sparsity
        return {
            **self.recipe.deciding(),
            "training images": len(train.samples),
            "validation images": len(self.valid.samples) if self.valid else 0,
            "batch": train.batch_size,
            "size": list(train.size),
            "sizes": [list(size) for size in train.sizes],
            "data seed": train.seed,
            "sparsity": sparsity.strength if sparsity else 0.0,
            "sparsity schedule": sparsity.schedule if sparsity else None,
            "pulled scales": sum(scale.numel() for scale in self.pulled) if sparsity else 0,
            "teacher": self.teacher is not None,
        }

    def result(self, like: Darknet) -> Trained:
        """Put the kept weights into the network, in the original's device, mode and memory format."""
        best, last = find_best(self.history), len(self.history)
        kept = best if self.recipe.keep == "best" else last
        if kept == best:
            _fill(self.model, self.best_weights, Path("the best epoch"))
        elif self.average is not None:
            _fill(self.model, self.average.state_dict(), Path("the moving average"))
        self.model.to(next(like.parameters()).device).to(memory_format=torch.contiguous_format)
        self.model.zero_grad()
        for module, original in zip(self.model.modules(), like.modules(), strict=True):
            module.training = original.training
        return Trained(self.model, self.history, best, kept, dict(self.train.broken))


def _optimizer(model: Darknet, recipe: Recipe) -> torch.optim.Optimizer:
    """Kernels decay; scales, shifts and biases do not."""
    named = [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]
    groups = [
        {"params": [p for _, p in named if p.dim() > 1], "weight_decay": recipe.decay},
        {"params": [p for _, p in named if p.dim() <= 1], "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    if recipe.optimizer == "adamw":
        return torch.optim.AdamW(groups, lr=recipe.lr, betas=(recipe.momentum, 0.999))
    return torch.optim.SGD(groups, lr=recipe.lr, momentum=recipe.momentum, nesterov=recipe.nesterov)


@torch.no_grad()
def _follow(average: nn.Module, model: nn.Module, decay: float) -> None:
    """Move the average towards the network; counters are copied."""
    for slow, fast in zip(average.state_dict().values(), model.state_dict().values(), strict=True):
        if slow.is_floating_point():
            slow.lerp_(fast, 1 - decay)
        else:
            slow.copy_(fast)


def _fill(model: nn.Module, weights: Mapping[str, Tensor], source: Path) -> None:
    expected = {name: list(value.shape) for name, value in model.state_dict().items()}
    found = {name: list(value.shape) for name, value in weights.items()}
    differing = [name for name in dict.fromkeys([*expected, *found]) if expected.get(name) != found.get(name)]
    if differing:
        name = differing[0]
        detail = f"{name} is {found.get(name, 'absent')}, the network has {expected.get(name, 'none')}"
        do = "build the network that the run was started with"
        raise CheckpointError(f"{source} was made for another network", [detail], do)
    model.load_state_dict(dict(weights))


def _precision(asked: str, device: torch.device) -> str:
    """Mixed precision where the device has it; a CPU computes in 32 bits unless asked otherwise."""
    if asked != "auto":
        return asked
    if device.type != "cuda":
        return "32-true"
    return "bf16-mixed" if torch.cuda.is_bf16_supported() else "16-mixed"


def _require_loaders(model: Darknet, train: Loader, valid: Loader | None) -> None:
    if not train.training:
        what = "the training batches are not shuffled and not augmented"
        raise RequestError(what, do="pass loader(..., training=True)")
    if train.batch_size < 2:
        do = "pass a batch size of 2 or more"
        raise RequestError(f"a batch of {train.batch_size} image cannot be normalised", do=do)
    for loader in (train, valid):
        for head in model.heads:
            if loader is not None and head.classes != len(loader.names):
                config, key = model.config, "classes"
                what = f"classes={head.classes}, the data set has {len(loader.names)}"
                do = "write the data set's number, and filters=anchors * (5 + classes) before it"
                raise config.error(what, head.index, key, do=do)
