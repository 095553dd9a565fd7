"""Batches of images with boxes; batch b depends on nothing but the samples, the seed, the epoch and b.

So a resumed run sees what an uninterrupted one would have seen, and worker processes change nothing. An image
that does not decode is left out of its batch, counted and named; it never ends a training.
"""

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from secateur.domains.darknet.data.augment import Augmentation, augment
from secateur.domains.darknet.data.boxes import LabelledImage, Labels
from secateur.domains.darknet.data.images import image_size, read_image
from secateur.domains.darknet.data.letterbox import Letterbox, input_size, rectangle
from secateur.domains.darknet.data.mosaic import mosaic
from secateur.errors import BrokenImageWarning, DataError, RequestError

# Darknet changes the size every ten batches: each change costs new buffers.
_SAME_SIZE = 10


@dataclass(frozen=True, eq=False)
class Frame:
    """Where one image of a batch came from.

    Args:
        sample: The image and its labels as they were read.
        letterbox: How it lies in the input; None for an augmented image, which cannot be mapped back.
    """

    sample: LabelledImage
    letterbox: Letterbox | None


@dataclass(frozen=True, eq=False)
class Batch:
    """Some images with their boxes; `images, targets = batch` takes it apart.

    Args:
        images: Values from 0 to 1.
        targets: A row for each box: index of the image in the batch, class, centre x, centre y, width and
            height as shares of the input. Ignored boxes (difficult, crowd) are not among them.
        frames: Where each image came from.
        broken: Images that were left out, with the reason.
    """

    images: Float[Tensor, "b 3 h w"]
    targets: Float[Tensor, "n 6"]
    frames: tuple[Frame, ...]
    broken: tuple[tuple[str, str], ...] = ()

    def to(self, device: torch.device, **options: Any) -> "Batch":
        """Move images and boxes to a device."""
        images, targets = (each.to(device, **options) for each in (self.images, self.targets))
        return replace(self, images=images, targets=targets)

    def __iter__(self) -> Iterator[Tensor]:
        yield self.images
        yield self.targets

    def __len__(self) -> int:
        return len(self.frames)


@dataclass(frozen=True, eq=False)
class Loader:
    """Goes through the samples once each time it is iterated; made by `loader`.

    Args:
        samples: The images, such as `read("hands.data")["train"]`.
        names: Class names.
        size: Height and width of the network's input in pixels, multiples of 32; `loader` takes one, too.
        batch_size: Images per batch; the last batch may be smaller.
        training: Shuffle and augment; else all images in order, letterboxed.
        augmentation: How training images are changed; None, for `loader`, is `Augmentation()`.
        rectangular: Batches of images of similar aspect in an input no larger than they need.
        sizes: Input sizes to change between every ten batches in training, such as `multi_scale(416)`; empty
            for always `size`.
        seed: Seeds order, sizes and augmentation, together with the epoch.
        epoch: Which time the samples are gone through; see `at_epoch`.
        workers: Processes that prepare batches; 0 prepares them here.
        broken: Images that were left out so far: name and reason. Shared by all epochs of one loader.
    """

    samples: tuple[LabelledImage, ...]
    names: tuple[str, ...]
    size: tuple[int, int]
    batch_size: int
    training: bool
    augmentation: Augmentation
    rectangular: bool
    sizes: tuple[tuple[int, int], ...]
    seed: int
    workers: int
    epoch: int = 0
    broken: dict[str, str] = field(default_factory=dict)

    def at_epoch(self, epoch: int) -> "Loader":
        """Make the loader of another epoch; what it finds broken, this one knows too."""
        return replace(self, epoch=epoch)

    def __len__(self) -> int:
        return -(-len(self.samples) // self.batch_size)

    def __iter__(self) -> Iterator[Batch]:
        found = False
        batches = DataLoader(
            _Epoch(self),
            batch_size=None,
            num_workers=self.workers,
            # Without a generator of its own the loader would draw from the global one.
            generator=torch.Generator().manual_seed(0),
        )
        for batch in batches:
            self._report(batch)
            if len(batch):
                found = True
                yield batch
        if not found:
            reasons = [f"{name}: {reason}" for name, reason in self.broken.items()]
            do = "check the paths in the list, and that the files are images"
            raise DataError(f"none of {len(self.samples):,} images can be read", reasons, do)

    def _report(self, batch: Batch) -> None:
        new = [(name, reason) for name, reason in batch.broken if name not in self.broken]
        self.broken.update(new)
        for name, reason in new:
            what = f"left out {name}: {reason} ({len(self.broken):,} of {len(self.samples):,} images so far)"
            warnings.warn(what, BrokenImageWarning, stacklevel=3)

    def __str__(self) -> str:
        height, width = self.size
        batches = f"{len(self):,} batches of {self.batch_size} at {width} x {height}"
        text = f"{len(self.samples):,} images in {batches}"
        return text + (f", {len(self.broken):,} broken" if self.broken else "")


def loader(
    samples: Sequence[LabelledImage],
    names: Sequence[str],
    size: int | tuple[int, int] = 416,
    batch_size: int = 16,
    *,
    training: bool = False,
    augmentation: Augmentation | None = None,
    rectangular: bool = False,
    sizes: Sequence[tuple[int, int]] = (),
    seed: int = 0,
    workers: int = 0,
) -> Loader:
    """Make batches of labelled images; for the arguments see `Loader`.

    Returns:
        An iterable of `Batch`, with `len`, `at_epoch(n)` and `broken`.

    Raises:
        RequestError: A size that does not fit, no samples, or options that contradict each other.

    Example:
        >>> from secateur.domains.darknet.data.digits import digit_scenes
        >>> scenes = digit_scenes(train=5, valid=0)
        >>> images, targets = next(iter(loader(scenes["train"], scenes.names, 96, 4, training=True)))
        >>> images.shape, targets.shape[1]
        (torch.Size([4, 3, 96, 96]), 6)
    """
    if not samples:
        raise RequestError("there are no images to make batches of", do="pass at least one sample")
    if batch_size < 1:
        raise RequestError(f"the batch size is {batch_size}", do="pass at least 1")
    if augmentation is not None and not training:
        raise RequestError("augmentation is for training", do="pass training=True, or no augmentation")
    if sizes and (rectangular or not training):
        raise RequestError("sizes are for training with square batches", do="leave sizes or rectangular out")
    return Loader(
        tuple(samples),
        tuple(names),
        input_size(size),
        batch_size,
        training,
        augmentation or Augmentation(),
        rectangular,
        tuple(input_size(each) for each in sizes),
        seed,
        workers,
    )


class _Epoch(Dataset[Batch]):
    """The batches of one epoch as items of a map-style data set."""

    def __init__(self, settings: Loader) -> None:
        self.settings = replace(settings, broken={})  # workers must not carry what others found
        self.transform = settings.augmentation.transform() if settings.training else None
        generator = np.random.default_rng((settings.seed, settings.epoch, 0))
        n, size = len(settings.samples), settings.batch_size
        order = generator.permutation(n) if settings.training else np.arange(n)
        if settings.rectangular:
            order = order[np.argsort([self._aspect(index) for index in order], kind="stable")]
        batches = [order[start : start + size] for start in range(0, n, size)]
        shuffled = generator.permutation(len(batches)) if settings.training else range(len(batches))
        self.batches = [batches[index] for index in shuffled]

    def __len__(self) -> int:
        return len(self.batches)

    def __getitem__(self, index: int) -> Batch:
        if index >= len(self):
            raise IndexError(index)
        chosen = [self.settings.samples[i] for i in self.batches[index]]
        generator = np.random.default_rng((self.settings.seed, self.settings.epoch, 1, index))
        loaded, broken = _load(chosen)
        if not loaded:
            return Batch(torch.zeros(0, 3, *self.settings.size), torch.zeros(0, 6), (), tuple(broken))
        size = self._size(index, [pixels for _, pixels in loaded])
        made = []
        with torch.random.fork_rng(devices=[]):
            # torchvision's transforms draw from the global generator: it is seeded here, and put back after.
            torch.manual_seed(int(generator.integers(2**62)))
            for sample, pixels in loaded:
                made.append(self._make(sample, pixels, size, generator))
        return _collate(made, tuple(broken))

    def _size(self, index: int, images: list[Tensor]) -> tuple[int, int]:
        settings = self.settings
        if settings.sizes:
            key = (settings.seed, settings.epoch, 2, index // _SAME_SIZE)
            return settings.sizes[int(np.random.default_rng(key).integers(len(settings.sizes)))]
        if settings.rectangular:
            return rectangle([(image.shape[1], image.shape[2]) for image in images], settings.size)
        return settings.size

    def _make(
        self, sample: LabelledImage, pixels: Tensor, size: tuple[int, int], generator: np.random.Generator
    ) -> tuple[Tensor, Labels, Frame]:
        letterbox = Letterbox((pixels.shape[1], pixels.shape[2]), size)
        if self.transform is None:
            labels = replace(sample.labels, boxes=letterbox.boxes(sample.labels.boxes))
            return letterbox.image(pixels), labels, Frame(sample, letterbox)
        if generator.random() < self.settings.augmentation.mosaic:
            others = self._others(generator)
            image, labels = mosaic([(pixels, sample.labels), *others], size, generator)
        else:
            labels = replace(sample.labels, boxes=letterbox.boxes(sample.labels.boxes))
            image = letterbox.image(pixels)
        image, labels = augment(self.transform, image, labels)
        return image, labels, Frame(sample, None)

    def _others(self, generator: np.random.Generator) -> list[tuple[Tensor, Labels]]:
        """Draw three more images for a mosaic; a broken one is grey here, and reported at its own turn."""
        drawn = [
            self.settings.samples[int(i)] for i in generator.integers(len(self.settings.samples), size=3)
        ]
        others = []
        for sample in drawn:
            loaded, _ = _load([sample])
            grey = torch.full((3, 32, 32), 128, dtype=torch.uint8)
            others.append((loaded[0][1], sample.labels) if loaded else (grey, Labels.of([])))
        return others

    def _aspect(self, index: int) -> float:
        try:
            image = self.settings.samples[index].image
            height, width = image_size(image) if isinstance(image, Path) else image.shape[1:]
        except DataError:
            return 1.0  # it will be left out, wherever it stands
        return height / width


def _load(
    samples: Sequence[LabelledImage],
) -> tuple[list[tuple[LabelledImage, Tensor]], list[tuple[str, str]]]:
    loaded, broken = [], []
    for sample in samples:
        try:
            image = sample.image
            loaded.append((sample, read_image(image) if isinstance(image, Path) else image))
        except DataError as error:
            broken.append((str(sample), str(error).splitlines()[1].strip()))
    return loaded, broken


def _collate(made: list[tuple[Tensor, Labels, Frame]], broken: tuple[tuple[str, str], ...]) -> Batch:
    rows = []
    for index, (_, labels, _) in enumerate(made):
        kept = labels[~labels.ignored]
        head = torch.stack([torch.full((len(kept),), float(index)), kept.classes.float()], 1)
        rows.append(torch.cat([head, kept.boxes], 1))
    images = torch.stack([image for image, _, _ in made])
    return Batch(images, torch.cat(rows), tuple(frame for _, _, frame in made), broken)
