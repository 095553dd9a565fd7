"""Labelled images in memory: what a data set is made of and how it becomes batches.

Pixels stay uint8 tensors (a 60,000-image Fashion-MNIST is 47 MB); a batch is cut out, cropped, flipped and
normalised as a whole (`secateur.train.parts.WholeBatches`).
"""

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int64, UInt8
from torch import Tensor

from secateur.domains.classification.pixels import ImageFiles, Pixels
from secateur.train.parts import WholeBatches, generator_of

Batch = tuple[Float[Tensor, "n c h w"], Int64[Tensor, " n"]]


@dataclass(frozen=True)
class DataSpec:
    """What all parts of a data set have in common.

    Args:
        name: The registered name.
        in_channels: 1 for grey, 3 for red, green, blue.
        image_size: Height and width in pixels.
        class_names: One name per label, in order.
        mean: Per channel over the training part, in units of full brightness (0 to 1).
        std: Per channel over the training part, in the same units; 1 for a channel that never changes.
        padding: How many black pixels the random crop pads each side with: 4 at 32x32.
        flip: Whether training images are mirrored left to right at random.
    """

    name: str
    in_channels: int
    image_size: int
    class_names: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    padding: int
    flip: bool

    @property
    def num_classes(self) -> int:
        """Number of different labels."""
        return len(self.class_names)

    @property
    def shape(self) -> str:
        """The shape of one image, for people: "1 x 28 x 28"."""
        return f"{self.in_channels} x {self.image_size} x {self.image_size}"


@dataclass(frozen=True)
class Images(WholeBatches):
    """One part of a data set: training, validation or test images with their labels.

    Args:
        spec: What this part shares with the others.
        pixels: The images, 0 to 255.
        labels: The class of each image.
    """

    spec: DataSpec
    pixels: Pixels
    labels: Int64[Tensor, " n"]

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def num_classes(self) -> int:
        """Number of different labels in the data set, also of those that this part happens to lack."""
        return self.spec.num_classes

    def __repr__(self) -> str:
        return f"Images({self.spec.name}: {len(self):,} of {self.spec.shape})"

    def batch(self, chosen: Tensor, generator: torch.Generator | None = None) -> Batch:
        """Some of the images, normalised, with their labels; cropped and flipped as the generator says.

        Example:
            >>> from secateur.domains.classification import load
            >>> images, labels = next(iter(load("digits").train.batches(32, training=True)))
            >>> images.shape, labels.shape
            (torch.Size([32, 1, 8, 8]), torch.Size([32]))
        """
        pixels = self.pixels[chosen]
        if generator is not None:
            pixels = crop_and_flip(pixels, self.spec.padding, self.spec.flip, generator)
        return normalise(pixels, self.spec), self.labels[chosen]


def calibration(images: Images, count: int, seed: int = 0) -> list[Float[Tensor, "n c h w"]]:
    """Draw images to recover a pruned network with; their labels stay behind.

    See `labelled` for criteria that take gradients of a loss.

    Args:
        images: The training part.
        count: How many; all if there are fewer.
        seed: Of the draw.

    Returns:
        Normalised batches of up to 64.

    Example:
        >>> from secateur.domains.classification import load
        >>> [len(batch) for batch in calibration(load("digits").train, 100)]
        [64, 36]
    """
    return [pixels for pixels, _ in labelled(images, count, seed)]


def labelled(images: Images, count: int, seed: int = 0) -> list[tuple[Tensor, Tensor]]:
    """Draw the images that `calibration` draws, with their labels.

    Example:
        >>> from secateur.domains.classification import load
        >>> [labels.shape for _, labels in labelled(load("digits").train, 100)]
        [torch.Size([64]), torch.Size([36])]
    """
    chosen = torch.randperm(len(images), generator=generator_of(seed))[:count]
    pixels = normalise(images.pixels[chosen], images.spec)
    return list(zip(pixels.split(64), images.labels[chosen].split(64), strict=True))


@dataclass(frozen=True)
class Splits:
    """A data set in three parts: to train on, to choose by, and to report.

    Args:
        spec: What the parts have in common.
        train: What the optimizer sees.
        validation: What the best epoch is chosen by.
        test: What is reported; nothing is ever chosen by it.
    """

    spec: DataSpec
    train: Images
    validation: Images
    test: Images

    @property
    def name(self) -> str:
        """What the data are called."""
        return self.spec.name

    @property
    def details(self) -> dict[str, Any]:
        """What a task remembers of them."""
        return {"class names": self.spec.class_names}

    def __str__(self) -> str:
        parts = f"{len(self.train):,} train + {len(self.validation):,} validation + {len(self.test):,} test"
        return f"{self.spec.name}: {parts} images of {self.spec.shape}, {self.spec.num_classes} classes"


def crop_and_flip(
    pixels: UInt8[Tensor, "n c h w"], padding: int, flip: bool, generator: torch.Generator
) -> UInt8[Tensor, "n c h w"]:
    """Shift every image by up to `padding` pixels each way, filling with black, and mirror half of them.

    The same as a crop at a random place of the padded image; one gather does it for the whole batch.

    Args:
        pixels: The batch.
        padding: Largest shift in pixels; 0 leaves the images where they are.
        flip: Whether to mirror, each image with probability one half.
        generator: Source of the random choices.

    Returns:
        A new batch of the same shape.

    Example:
        >>> image = torch.tensor([[[[1, 2], [3, 4]]]], dtype=torch.uint8)
        >>> crop_and_flip(image, 1, False, torch.Generator().manual_seed(1)).shape
        torch.Size([1, 1, 2, 2])
    """
    n, c, h, w = pixels.shape
    padded = torch.nn.functional.pad(pixels, (padding,) * 4)
    top, left = torch.randint(2 * padding + 1, (2, n, 1), generator=generator)
    rows, columns = top + torch.arange(h), left + torch.arange(w)
    if flip:
        mirrored = torch.rand(n, 1, generator=generator) < 0.5
        columns = torch.where(mirrored, columns.flip(1), columns)
    image, channel = torch.arange(n)[:, None, None, None], torch.arange(c)[None, :, None, None]
    return padded[image, channel, rows[:, None, :, None], columns[:, None, None, :]]


def normalise(pixels: UInt8[Tensor, "n c h w"], spec: DataSpec) -> Float[Tensor, "n c h w"]:
    """Scale pixels so that every channel of the training part has mean 0 and standard deviation 1."""
    mean = torch.tensor(spec.mean)[:, None, None] * 255
    std = torch.tensor(spec.std)[:, None, None] * 255
    return (pixels.float() - mean) / std


def channel_statistics(pixels: Pixels) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Compute mean and standard deviation of each channel, exactly, from counts of the 256 values.

    Args:
        pixels: The training images; of those that stay in their files, some 2,000 say it well enough.

    Returns:
        Means and standard deviations from 0 to 1; a channel that never changes gets 1, so that it can be
        divided by.

    Example:
        >>> channel_statistics(torch.tensor([0, 255], dtype=torch.uint8).reshape(1, 1, 1, 2))
        ((0.5,), (0.5,))
    """
    if isinstance(pixels, ImageFiles):
        pixels = pixels[torch.randperm(len(pixels), generator=generator_of(0))[:2048]]
    values = torch.arange(256, dtype=torch.float64) / 255
    means, stds = [], []
    for channel in range(pixels.shape[1]):
        counts = torch.bincount(pixels[:, channel].flatten(), minlength=256).double()
        shares = counts / counts.sum()
        mean = (shares * values).sum()
        std = (shares * (values - mean) ** 2).sum().sqrt().item()
        means.append(mean.item())
        stds.append(std if std > 1e-6 else 1.0)
    return tuple(means), tuple(stds)
