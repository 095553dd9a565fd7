"""Distillation: a cut network learns from the one it was cut from, beside the labels.

    loss = (1 - w) task(s, labels) + w distance(s, t) + f mean_l d_l
    d_l  = |s_l - t_l|^2 / |t_l|^2

s and t are the outputs of student and teacher; how far one is from the other is for the task to say. With
classes it is T^2 KL(softmax(t / T) || softmax(s / T)), T the temperature: a high one shows how the teacher
ranks the wrong ones. The gradients of the soft part shrink with 1 / T^2, hence the factor. s_l and t_l are
what layer l returns, the teacher's at the channels that the student has kept, or what two blocks return. No
projection is learned between the two: a pruned network's channels *are* channels of its teacher, and the plan
says which.

The teacher runs in eval mode on the same augmented samples, without gradients.

References:
    Hinton et al., "Distilling the Knowledge in a Neural Network", 2015, section 2.
    https://arxiv.org/abs/1503.02531
    Romero et al., "FitNets: Hints for Thin Deep Nets", ICLR 2015, section 2.2 (features).
    https://arxiv.org/abs/1412.6550
"""

import contextlib
import copy
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from secateur.errors import RequestError
from secateur.train.features import channel_dim
from secateur.train.task import Part, Task, run_on
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
        weight: Share of the teacher's output in the loss, from 0 (labels alone) to 1 (the teacher alone).
        features: For each layer to match, the teacher's channels that the student has, in the student's
            order: what `secateur.train.matching_channels` finds in a plan. Empty matches outputs alone.
        feature_weight: Factor of the distance of features and blocks, at least 0.
        labels: Factor of the labels' loss (default: 1 - weight); with it the weight may be above 1.
        blocks: Modules of the student whose whole outputs are to match, to the names that they have in the
            teacher, such as `{"layers.3": "layers.5"}` after blocks were dropped.

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
    labels: float | None = None
    blocks: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not 0 < self.temperature < float("inf"):
            what = f"the temperature is {self.temperature:g}"
            raise RequestError(what, ["allowed: above 0"], "pass one such as 4")
        highest = 1.0 if self.labels is None else math.inf
        if not 0 <= self.weight <= highest or self.weight == math.inf:
            what = f"the weight of the teacher is {self.weight:g}"
            raise RequestError(what, ["allowed: 0 to 1, or more beside labels"], "pass a share such as 0.9")
        if self.labels is not None and not 0 <= self.labels < math.inf:
            what = f"the weight of the labels is {self.labels:g}"
            raise RequestError(what, ["allowed: 0 or more"], "pass one such as 1")
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


class Distiller:
    """Runs student and teacher on the same samples.

    Args:
        distillation: What is learned.
        student: The copy of the model that is trained, inside of Fabric's wrapper.
        fabric: The set-up of the run.
        task: What says how far two outputs are apart.
        layout: Memory format of the teacher's weights.

    Raises:
        RequestError: A layer or block to match is missing.
    """

    def __init__(
        self,
        distillation: Distillation,
        student: nn.Module,
        fabric: "Fabric",
        task: Task,
        layout: torch.memory_format,
    ) -> None:
        self.distillation, self.student, self.task = distillation, student, task
        self.labels = 1 - distillation.weight if distillation.labels is None else distillation.labels
        self.teacher = copy.deepcopy(distillation.teacher).eval().requires_grad_(False)
        self.teacher.to(memory_format=layout)
        self.module: Any = fabric.setup(self.teacher)
        ours, theirs = dict(student.named_modules()), dict(self.teacher.named_modules())
        pairs = [(layer, layer, kept) for layer, kept in distillation.features.items()]
        wanted = [*pairs, *((one, other, None) for one, other in distillation.blocks.items())]
        for one, other, _ in wanted:
            for who, name, modules in (("student", one, ours), ("teacher", other, theirs)):
                if name not in modules:
                    do = "match layers that both have, as matching_channels finds them"
                    raise RequestError(f"the {who} has no layer '{name}' to match features of", do=do)
        self._layers = [
            _Pair(name, ours[name], theirs[other], None if kept is None else torch.tensor(list(kept)))
            for name, other, kept in wanted
        ]

    def require(self, part: Part) -> None:
        """Refuse a teacher that is of no use for these samples."""
        self.task.require(self.teacher, part, "teacher")

    def run(self, module: nn.Module, inputs: Any) -> tuple[Any, Tensor | None]:
        """Run both networks.

        Args:
            module: The student as Fabric wrapped it.
            inputs: What both take.

        Returns:
            The student's output, and its weighted distance to the teacher; None where that counts nothing.
        """
        asked = self.distillation
        with _heard([pair.student for pair in self._layers]) as ours:
            output = run_on(module, inputs)
        with _heard([pair.teacher for pair in self._layers]) as theirs, torch.no_grad():
            wanted = run_on(self.module, inputs)
        distance: Tensor | None = None
        if asked.weight:
            apart = self.task.distance(self.student, output, wanted, asked.temperature)
            distance = asked.weight * apart
        if self._layers and asked.feature_weight:
            apart = torch.stack([pair.apart(ours, theirs) for pair in self._layers]).mean()
            distance = asked.feature_weight * apart + (0 if distance is None else distance)
        return output, distance

    def blend(self, loss: Tensor, distance: Tensor | None) -> Tensor:
        """The loss to descend: labels and teacher."""
        return self.labels * loss if distance is None else self.labels * loss + distance

    @property
    def recipe(self) -> dict[str, Any]:
        """What decides the effect of the teacher: a run goes on only with the same."""
        asked = self.distillation
        return {
            "teacher": fingerprint_of(self.teacher.state_dict()),
            "temperature": asked.temperature,
            "teacher weight": asked.weight,
            "label weight": self.labels,
            "features": sorted(asked.features),
            "blocks": dict(asked.blocks),
            "feature weight": asked.feature_weight,
        }


@contextlib.contextmanager
def _heard(modules: Sequence[nn.Module]) -> Iterator[dict[nn.Module, Any]]:
    """Note what modules return, a copy as the next operator may write into it.

    The hooks are gone when the block ends, however it ends.
    """
    outputs: dict[nn.Module, Any] = {}

    def hear(module: nn.Module, _: Any, output: Any) -> None:
        outputs[module] = pytree.tree_map_only(Tensor, Tensor.clone, output)

    handles = [module.register_forward_hook(hear) for module in modules]
    try:
        yield outputs
    finally:
        for handle in handles:
            handle.remove()


@dataclass(frozen=True, eq=False)
class _Pair:
    """Two modules to match.

    Attributes:
        name: Of the student's.
        student: Its module.
        teacher: The teacher's.
        kept: The teacher's channels that the student has; None for all of a block.
    """

    name: str
    student: nn.Module
    teacher: nn.Module
    kept: Tensor | None

    def apart(self, ours: Mapping[nn.Module, Any], theirs: Mapping[nn.Module, Any]) -> Tensor:
        """The relative squared distance of their outputs."""
        one, other = _first(ours.get(self.student), self.name), _first(theirs.get(self.teacher), self.name)
        where = ""
        if self.kept is not None:
            dim = channel_dim(self.student) % one.ndim
            other, where = other.index_select(dim, self.kept.to(other.device)), " at the kept channels"
        if one.shape != other.shape:
            raise RequestError(
                f"layer {self.name} of the student returns {list(one.shape)}, its teacher's "
                f"{list(other.shape)}{where}",
                do="match layers that follow the plan between student and teacher",
            )
        one, other = one.float(), other.float()
        return (one - other).square().mean() / other.square().mean().clamp(min=_TINY)


def _first(output: Any, name: str) -> Tensor:
    """What a module returned: its tensor, or the first of several."""
    first = next((leaf for leaf in pytree.tree_leaves(output) if isinstance(leaf, Tensor)), None)
    if first is None:
        raise RequestError(f"{name} did not run or returned no tensor", do="match layers that run every time")
    return first
