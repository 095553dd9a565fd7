"""A network as a detector: images in, candidate boxes out; and its mAP."""

from torch import Tensor, nn

from secateur.costs.stopwatch import quiet
from secateur.domains.darknet.data import Loader
from secateur.domains.darknet.decoding import decode
from secateur.domains.darknet.evaluate import DetectionFigures, Predict, evaluate
from secateur.domains.darknet.network import Darknet

__all__ = ["evaluate_darknet", "predictor"]


def predictor(model: Darknet, forward: nn.Module | None = None) -> Predict:
    """Make what `evaluate` calls from a network.

    Args:
        model: The network; its device and mode are taken as they are.
        forward: What computes its raw maps, if not the network itself: a wrapper of it.

    Returns:
        A function from images on any device to boxes and scores on the CPU.

    Example:
        >>> import torch
        >>> model = Darknet("digits").eval()
        >>> boxes, scores = predictor(model)(torch.zeros(2, 3, 64, 64))
        >>> boxes.shape, scores.shape
        (torch.Size([2, 240, 4]), torch.Size([2, 240, 10]))
    """
    compute = model if forward is None else forward

    def predict(images: Tensor) -> tuple[Tensor, Tensor]:
        device = next(model.parameters()).device
        maps = [raw.float() for raw in compute(images.to(device))]
        found = decode(maps, model.heads, (images.shape[2], images.shape[3]))
        return found.boxes.cpu(), found.scores.cpu()

    return predict


def evaluate_darknet(
    model: Darknet, loader: Loader, *, conf: float = 0.001, iou: float = 0.6, threads: int | None = None
) -> DetectionFigures:
    """Compute a network's mean average precision, in eval mode.

    Args:
        model: The network; its mode is restored.
        loader: Batches that are not augmented.
        conf: Smallest confidence that counts.
        iou: Overlap above which the less confident of two boxes of a class is dropped.
        threads: Threads of the CPU; None leaves torch's setting.

    Returns:
        mAP@0.5, mAP@0.5:0.95, and average precision by class.
    """
    with quiet(model, threads):
        return evaluate(predictor(model), loader, conf=conf, iou=iou)
