"""Training on with Ultralytics' own trainers, without losing the cut.

Their trainers build a network anew from its YAML, at the whole widths, and fill in the tensors that happen to
fit. `trainer(yolo)` is the trainer of a network's task that takes the network itself instead.
"""

from typing import Any

from torch import Tensor, nn

from secateur.callbacks.channels import ChannelSteps
from secateur.callbacks.ultralytics import ChannelCallbacks
from secateur.capture.unwrap import unwrap
from secateur.errors import RequestError
from secateur.extras import extra
from secateur.penalise import penalties
from secateur.pipeline import couple


def trainer(yolo: Any) -> type:
    """The trainer that keeps the cut of a network, for its task.

        yolo = YOLO("half.pt")
        yolo.train(trainer=trainer(yolo), data="coco8.yaml", epochs=10)
        YOLO("runs/detect/train/weights/last.pt").train(trainer=trainer(yolo), resume=True)

    Ultralytics' arguments work as with its own trainers: `resume`, `distill_model`, `multi_scale`, several
    GPUs. Where the data have other classes than the network, the layers that score them are made anew, and
    scores of classes with the same name are taken over.

    Args:
        yolo: A `YOLO` or `RTDETR`, opened from a `.pt`.

    Returns:
        A subclass of the trainer that `yolo.train` would take.

    Raises:
        MissingExtraError: Ultralytics is not installed.
        RequestError: It is no such object, or its trainer is none of those that can keep a cut.
    """
    with extra("ultralytics", "trainers of Ultralytics"):
        from ultralytics.engine.model import Model

        from secateur.domains.ultralytics import trainers
    if not isinstance(yolo, Model):
        raise RequestError(f"yolo is {type(yolo).__name__}", do='pass YOLO("half.pt")')
    own = yolo.task_map[yolo.task]["trainer"]
    known = {kind.__bases__[-1]: kind for kind in trainers.KINDS}
    if own not in known:
        raise RequestError(
            f"{own.__name__} cannot keep a cut as it is",
            do=f"derive one: class Mine(secateur.domains.ultralytics.trainers.KeepsCut, {own.__name__})",
        )
    kept: type = known[own]
    return kept


def sparsity(yolo: Any, example_inputs: Tensor, strength: float = 1e-4, penalty: str = "bn-l1") -> None:
    """Pull the batch-norm scales of a network to zero while Ultralytics trains it: the preparation of a cut.

    Args:
        yolo: A `YOLO`; gets callbacks, its network stays as it is until it is trained.
        example_inputs: One image of zeros, to see which channels belong together.
        strength: How hard, in loss per unit of scale.
        penalty: "bn-l1", or another registered penalty of a strength.

    Raises:
        RequestError: There is no such penalty, or the network has nothing for it.
    """
    kind = penalties[penalty]

    def of(network: nn.Module) -> Any:
        return kind.of(
            network, couple(network, example_inputs.to(next(network.parameters()).device)), strength
        )

    of(unwrap(yolo))  # what makes no sense is better refused before the training
    ChannelCallbacks(ChannelSteps(example_inputs, penalty=of)).add_to(yolo)
