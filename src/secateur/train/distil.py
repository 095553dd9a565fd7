"""Distillation: a cut network learns from the one it was cut from, beside the labels.

    loss = (1 - w) CE(s, labels) + w T^2 KL(softmax(t / T) || softmax(s / T)) + f mean_l d_l
    d_l  = |s_l - t_l|^2 / |t_l|^2

s and t are the logits of student and teacher, T the temperature: a high one shows how the teacher ranks the
wrong classes. The gradients of the soft part shrink with 1 / T^2, hence the factor. s_l and t_l are what
layer l returns, the teacher's at the channels that the student has kept. No projection is learned between the
two: a pruned network's channels *are* channels of its teacher, and the plan says which.

The teacher runs in eval mode on the same augmented images, without gradients.

References:
    Hinton et al., "Distilling the Knowledge in a Neural Network", 2015, section 2.
    https://arxiv.org/abs/1503.02531
    Romero et al., "FitNets: Hints for Thin Deep Nets", ICLR 2015, section 2.2 (features).
    https://arxiv.org/abs/1412.6550
"""

import contextlib
import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from secateur.capture.layouts import memory_format
from secateur.errors import RequestError
from secateur.train.classifier import Data, logits_of
from secateur.train.config import FitConfig
from secateur.train.features import channel_dim
from secateur.write.rows import fingerprint_of

if TYPE_CHECKING:
    from lightning_fabric import Fabric

_TINY = 1e-12
"""Keeps a teacher's layer that is zero everywhere from dividing by zero."""


@dataclass(frozen=True, eq=False)
class Distillation:
    """What a student learns from its teacher.

    Args:
        teacher: The network to learn from, usually the dense one; not changed.
        temperature: Divides the logits of both, above 0; 1 compares the probabilities themselves.
        weight: Share of the soft targets in the loss, from 0 (labels alone) to 1 (the teacher alone).
        features: For each layer to match, the teacher's channels that the student has, in the student's
            order: what `secateur.train.matching_channels` finds in a plan. Empty matches logits alone.
        feature_weight: Factor of the features' distance, at least 0.

    Raises:
        RequestError: A number makes no sense.

    Example:
        >>> Distillation(nn.Linear(4, 2), temperature=0.0)
        Traceback (most recent call last):
        ...
        secateur.errors.RequestError: the temperature is 0
          allowed: above 0
          pass one such as 4
    """

    teacher: nn.Module
    temperature: float = 4.0
    weight: float = 0.9
    features: Mapping[str, Sequence[int]] = field(default_factory=dict)
    feature_weight: float = 1.0

    def __post_init__(self) -> None:
        if not 0 < self.temperature < float("inf"):
            what = f"the temperature is {self.temperature:g}"
            raise RequestError(what, ["allowed: above 0"], "pass one such as 4")
        if not 0 <= self.weight <= 1:
            what = f"the weight of the teacher is {self.weight:g}"
            raise RequestError(what, ["allowed: 0 to 1"], "pass a share such as 0.9")
        if not 0 <= self.feature_weight < float("inf"):
            what = f"the weight of the features is {self.feature_weight:g}"
            raise RequestError(what, ["allowed: 0 or more"], "pass one such as 1")


def soft_targets(
    student: Float[Tensor, "n classes"], teacher: Float[Tensor, "n classes"], temperature: float
) -> Float[Tensor, ""]:
    """Measure how far a student's softened probabilities are from its teacher's.

    Args:
        student: Its logits.
        teacher: Its logits.
        temperature: Divides both.

    Returns:
        T^2 KL(teacher || student), the mean over the images, in nats.

    Example:
        >>> logits = torch.tensor([[2.0, 0.0]])
        >>> soft_targets(logits, logits, 4.0).item()
        0.0
        >>> round(soft_targets(torch.tensor([[0.0, 0.0]]), logits, 1.0).item(), 4)
        0.3278
    """
    wanted = (teacher / temperature).log_softmax(1)
    found = (student / temperature).log_softmax(1)
    distance = nn.functional.kl_div(found, wanted, reduction="batchmean", log_target=True)
    return distance * temperature**2


class Teacher:
    """A frozen copy of a network on Fabric's device, run in eval mode and without gradients.

    Args:
        fabric: The set-up of the run.
        model: The network; not changed.
        layout: Memory format of its weights.
    """

    def __init__(self, fabric: "Fabric", model: nn.Module, layout: torch.memory_format) -> None:
        self.model = copy.deepcopy(model).eval().requires_grad_(False)
        self.model.to(memory_format=layout)
        self.module: Any = fabric.setup(self.model)

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Any:
        """What the network computes."""
        return self.module(images)


class Distiller:
    """Runs student and teacher on the same images.

    Args:
        distillation: What is learned.
        student: The copy of the model that is trained, inside of Fabric's wrapper.
        fabric: The set-up of the run.
        data: Where the images come from; the teacher is tried on two of them.
        config: The run's settings.

    Raises:
        RequestError: The teacher is no classifier of these images, or a layer to match is missing.
    """

    def __init__(
        self, distillation: Distillation, student: nn.Module, fabric: "Fabric", data: Data, config: FitConfig
    ) -> None:
        self.distillation = distillation
        self.student = student
        self.classes = data.train.num_classes
        layout = memory_format(student, channels_last=config.channels_last)
        self.teacher = Teacher(fabric, distillation.teacher, layout)
        self._require_teacher(data)
        named = {
            "student": dict(student.named_modules()),
            "teacher": dict(self.teacher.model.named_modules()),
        }
        for layer in distillation.features:
            for who, modules in named.items():
                if layer not in modules:
                    do = "match layers that both have, as matching_channels finds them"
                    raise RequestError(f"the {who} has no layer '{layer}' to match features of", do=do)
        self._layers = [
            (named["student"][layer], named["teacher"][layer], torch.tensor(list(kept)))
            for layer, kept in distillation.features.items()
        ]

    def _require_teacher(self, data: Data) -> None:
        images, _ = next(iter(data.validation.batches(2)))
        device = next((parameter.device for parameter in self.teacher.model.parameters()), None)
        try:
            logits_of(self.teacher, images.to(device), self.classes)
        except Exception as error:
            what = f"the teacher does not accept images of shape {list(images.shape)}, or returns no logits"
            first_line = str(error).partition("\n")[0]
            do = "choose a teacher that was trained on this data set"
            raise RequestError(what, [f"{type(error).__name__}: {first_line}"], do) from error

    def run(self, module: nn.Module, images: Tensor) -> tuple[Tensor, Tensor]:
        """Run both networks.

        Args:
            module: The student as Fabric wrapped it.
            images: A batch.

        Returns:
            The student's logits, and its weighted distance to the teacher.
        """
        asked = self.distillation
        with _heard([one for one, _, _ in self._layers]) as ours:
            logits = logits_of(module, images, self.classes)
        with _heard([other for _, other, _ in self._layers]) as theirs:
            wanted = logits_of(self.teacher, images, self.classes)
        if wanted.shape != logits.shape:
            raise RequestError(
                f"the teacher tells {wanted.shape[1]} classes apart, the student {logits.shape[1]}",
                do="choose a teacher with the same classes",
            )
        distance = asked.weight * soft_targets(logits, wanted, asked.temperature)
        if self._layers and asked.feature_weight:
            apart = [
                _apart(one, ours[one], theirs[other], kept, layer)
                for (one, other, kept), layer in zip(self._layers, asked.features, strict=True)
            ]
            distance = distance + asked.feature_weight * torch.stack(apart).mean()
        return logits, distance

    def blend(self, loss: Tensor, distance: Tensor | None) -> Tensor:
        """The loss to descend: labels and teacher."""
        return loss if distance is None else (1 - self.distillation.weight) * loss + distance

    @property
    def recipe(self) -> dict[str, Any]:
        """What decides the effect of the teacher: a run goes on only with the same."""
        asked = self.distillation
        return {
            "teacher": fingerprint_of(self.teacher.model.state_dict()),
            "temperature": asked.temperature,
            "teacher weight": asked.weight,
            "features": sorted(asked.features),
            "feature weight": asked.feature_weight,
        }


@contextlib.contextmanager
def _heard(modules: Sequence[nn.Module]) -> Iterator[dict[nn.Module, Any]]:
    """Note what modules return, a copy as the next operator may write into it.

    The hooks are gone when the block ends, however it ends.
    """
    outputs: dict[nn.Module, Any] = {}

    def hear(module: nn.Module, _: Any, output: Any) -> None:
        outputs[module] = output.clone() if isinstance(output, Tensor) else output

    handles = [module.register_forward_hook(hear) for module in modules]
    try:
        yield outputs
    finally:
        for handle in handles:
            handle.remove()


def _apart(module: nn.Module, ours: Tensor, theirs: Tensor, kept: Tensor, layer: str) -> Tensor:
    dim = channel_dim(module) % ours.ndim
    theirs = theirs.index_select(dim, kept.to(theirs.device)).float()
    if ours.shape != theirs.shape:
        raise RequestError(
            f"layer {layer} of the student returns {list(ours.shape)}, its teacher's {list(theirs.shape)} at "
            "the kept channels",
            do="match layers that follow the plan between student and teacher",
        )
    return (ours.float() - theirs).square().mean() / theirs.square().mean().clamp(min=_TINY)
