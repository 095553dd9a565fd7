"""From the raw arrays of a data set to its three parts, with the statistics of the training part.

The training data is split, by class and with a seed, into what is trained on and what the best epoch is
chosen by (validation). The test part is what the data set's authors made it, and is only ever reported.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Int64
from torch import Tensor

from secateur.domains.classification.images import DataSpec, Images, Splits, channel_statistics
from secateur.domains.classification.pixels import ImageFiles, Pixels, only
from secateur.errors import RequestError


@dataclass(frozen=True)
class RawData:
    """What a data set's module reads from disk, before anything is split or measured.

    Args:
        pixels: Training images, 0 to 255.
        labels: Their classes.
        test_pixels: Test images.
        test_labels: Their classes.
        class_names: One name per class.
        flip: Whether a mirrored image is still of its class.
        validation: Share of the training data that becomes the validation part, unless the caller says.
        validation_pixels: Validation images, where the data have some; no share is taken then.
        validation_labels: Their classes.
    """

    pixels: Pixels
    labels: Int64[Tensor, " n"]
    test_pixels: Pixels
    test_labels: Int64[Tensor, " m"]
    class_names: tuple[str, ...]
    flip: bool
    validation: float = 0.1
    validation_pixels: Pixels | None = None
    validation_labels: Int64[Tensor, " k"] | None = None


def split(
    name: str, raw: RawData, *, validation: float | None = None, image_size: int | None = None, seed: int = 0
) -> Splits:
    """Split raw data into training, validation and test, and measure the training part.

    Args:
        name: The data set's registered name.
        raw: What was read.
        validation: Share of the training data to choose the best epoch by; None takes the data set's own.
        image_size: Resize the images to this many pixels (bilinear, antialiased); None keeps their size.
        seed: Seeds the choice of validation images.

    Returns:
        The three parts.

    Raises:
        RequestError: A share outside (0, 1), an image size below 1, or a class with no image to spare.

    Example:
        >>> pixels, labels = torch.zeros(20, 1, 4, 4, dtype=torch.uint8), torch.arange(20) % 2
        >>> raw = RawData(pixels, labels, pixels, labels, ("even", "odd"), flip=False)
        >>> print(split("parity", raw))
        parity: 18 train + 2 validation + 20 test images of 1 x 4 x 4, 2 classes
    """
    share = raw.validation if validation is None else validation
    if not 0 < share < 1:
        raise RequestError(
            f"the validation share is {share}", ["allowed: 0 < share < 1"], "pass a share such as 0.1"
        )
    if image_size is not None and image_size < 1:
        raise RequestError(f"the image size is {image_size} pixels", do="pass a size such as 32")
    pixels, labels = _resize(raw.pixels, image_size), raw.labels
    if raw.validation_pixels is not None and raw.validation_labels is not None:
        held_pixels, held_labels = _resize(raw.validation_pixels, image_size), raw.validation_labels
    else:
        kept, held_out = stratified(labels, share, seed)
        held_pixels, held_labels = only(pixels, held_out), labels[held_out]
        pixels, labels = only(pixels, kept), labels[kept]
    mean, std = channel_statistics(pixels)
    size = pixels.shape[-1]
    spec = DataSpec(
        name=name,
        in_channels=pixels.shape[1],
        image_size=size,
        class_names=raw.class_names,
        mean=mean,
        std=std,
        padding=max(1, round(size / 8)),
        flip=raw.flip,
    )
    return Splits(
        spec,
        train=Images(spec, pixels, labels),
        validation=Images(spec, held_pixels, held_labels),
        test=Images(spec, _resize(raw.test_pixels, image_size), raw.test_labels),
    )


def stratified(
    labels: Int64[Tensor, " n"], share: float, seed: int
) -> tuple[Int64[Tensor, " kept"], Int64[Tensor, " taken"]]:
    """Take the same share of every class, at random.

    Args:
        labels: The class of every image.
        share: Which share to take; rounded per class, at least one image, never a class's last one.
        seed: Seeds the choice.

    Returns:
        Indices that stay and indices that were taken, both in ascending order.

    Raises:
        RequestError: A class has only one image, so that nothing can be taken and kept.

    Example:
        >>> kept, taken = stratified(torch.tensor([0, 0, 0, 0, 1, 1, 1, 1]), 0.25, seed=0)
        >>> len(kept), sorted((taken // 4).tolist())
        (6, [0, 1])
    """
    generator = torch.Generator().manual_seed(seed)
    taken = torch.zeros(len(labels), dtype=torch.bool)
    for label in labels.unique():
        members = (labels == label).nonzero().flatten()
        if len(members) < 2:
            raise RequestError(
                f"class {label.item()} has {len(members)} image, a split needs 2",
                do="add images or drop the class",
            )
        count = min(max(1, round(share * len(members))), len(members) - 1)
        taken[members[torch.randperm(len(members), generator=generator)[:count]]] = True
    return (~taken).nonzero().flatten(), taken.nonzero().flatten()


def _resize(pixels: Pixels, size: int | None) -> Pixels:
    if size is None or pixels.shape[-2:] == (size, size):
        return pixels
    if isinstance(pixels, ImageFiles):
        return ImageFiles(pixels.paths, pixels.channels, size)
    parts = [
        torch.nn.functional.interpolate(part, size=(size, size), mode="bilinear", antialias=True)
        for part in pixels.split(4096)
    ]
    return torch.cat(parts)
