"""Images and masks in folders.

    mydata/images/1.jpg  mydata/masks/1.png              test and validation images are drawn
    mydata/train/images/1.jpg  mydata/train/masks/1.png  with parts, which may also stand below:
    mydata/images/train/1.jpg  mydata/masks/train/1.png
    mydata/classes.txt                                   a name a line; may be missing

A mask is an image of one channel (grey, or with a palette) whose numbers are classes; 255 is left out.
"""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float, Int64, UInt8
from torch import Tensor

from secateur.domains.classification.files import LARGEST, looked_at
from secateur.domains.classification.images import DataSpec, channel_statistics, normalise
from secateur.domains.classification.pixels import ImageFiles, broken_image_errors, what_is_broken
from secateur.errors import RequestError
from secateur.extras import extra
from secateur.train.own import as_parts, part_named
from secateur.train.parts import Opening, Parts, WholeBatches

IGNORED = 255
"""The number of pixels that belong to no class."""

IMAGES, MASKS = ("images", "image", "imgs", "img"), ("masks", "mask", "labels", "annotations")
_LAYOUT = "put images in a folder images and their masks, of the same names, in a folder masks beside it"
_ENDINGS = (".png", ".bmp", ".tif", ".tiff", ".gif")

Batch = tuple[Float[Tensor, "n c h w"], Int64[Tensor, "n h w"]]


@dataclass(frozen=True, eq=False)
class MaskedImages(WholeBatches):
    """One part: images with their masks, which stay in their files.

    Attributes:
        spec: What this part shares with the others.
        images: The images.
        masks: Their masks.
        binary: Whether 255 is the second of two classes, and not what is left out.
    """

    spec: DataSpec
    images: ImageFiles
    masks: tuple[Path, ...]
    binary: bool = False

    def __len__(self) -> int:
        return len(self.masks)

    def batch(self, chosen: Tensor, generator: torch.Generator | None = None) -> Batch:
        """Some of the images, normalised, with their masks; mirrored together where the generator says so."""
        size = self.images.size
        read = [read_mask(self.masks[at], size, binary=self.binary) for at in chosen.tolist()]
        images, masks = normalise(self.images[chosen], self.spec), torch.stack(read).long()
        if generator is not None and self.spec.flip:
            mirrored = torch.rand(len(images), generator=generator) < 0.5
            images[mirrored], masks[mirrored] = images[mirrored].flip(-1), masks[mirrored].flip(-1)
        return images, masks


def read_mask(path: Path, size: int | None, *, binary: bool = False) -> UInt8[Tensor, "h w"]:
    """Read a mask as a square of class numbers, as `read_image` does an image; None keeps its size.

    Raises:
        RequestError: The file is no image of one channel, or is broken.
    """
    import numpy as np

    with extra("train", "segmentation tasks"):
        from PIL import Image
        from torchvision.transforms.v2 import InterpolationMode
        from torchvision.transforms.v2 import functional as transforms

    try:
        with Image.open(path) as image:
            mode, numbers = image.mode, np.array(image)
    except broken_image_errors() as error:
        what = f"{path} cannot be read as a mask: {what_is_broken(error)}"
        raise RequestError(what, do="replace or delete it") from error
    if mode == "1":
        numbers = numbers.astype(np.uint8)
    if numbers.ndim != 2 or numbers.max(initial=0) > IGNORED:
        what = f"{path} is no mask: it has mode {mode} and numbers up to {numbers.max(initial=0)}"
        raise RequestError(what, do="save it with one channel of 8 bits whose numbers are classes")
    mask = torch.from_numpy(numbers.astype(np.uint8))
    if binary:
        mask = (mask > 0).to(torch.uint8)
    if size is None or mask.shape == (size, size):
        return mask
    nearest = InterpolationMode.NEAREST_EXACT
    scaled = transforms.center_crop(
        transforms.resize(mask[None], [size], interpolation=nearest), [size, size]
    )
    return scaled[0]


def open_folder(word: str, opening: Opening) -> Parts:
    """Open images with masks.

    Args:
        word: The folder.
        opening: Its options are image_size (None for the median of the shorter sides, at most 224), flip
            (mirror training images at random) and binary (255 is the second class, not what is left out).

    Raises:
        RequestError: The folder is laid out in another way, or its masks make no sense.
    """
    known = {"image_size", "flip", "binary"}
    if opening.options.keys() - known:
        what = f"{', '.join(sorted(opening.options.keys() - known))} is no option of a folder of masks"
        raise RequestError(what, do=f"choose from {', '.join(sorted(known))}")
    folder = Path(word)
    pairs = _pairs(folder)
    sides, channels, broken = looked_at([image for image, _, _ in pairs])
    if broken:
        named = [f"{path}: {why}" for path, why in list(broken.items())[:5]]
        raise RequestError(
            f"{len(broken)} of {len(pairs)} images of {folder} cannot be read", named, "mend them"
        )
    size = int(opening.options.get("image_size") or min(LARGEST, round(statistics.median(sides))))
    binary = bool(opening.options.get("binary", False))
    classes = _classes(folder, [mask for _, mask, _ in pairs], binary)
    chosen = _chosen(word, pairs, opening.seed)
    images = {
        part: ImageFiles(tuple(one[0] for one in held), channels, size) for part, held in chosen.items()
    }
    mean, std = channel_statistics(images["train"])
    flip = bool(opening.options.get("flip", False))
    spec = DataSpec(folder.name, channels, size, classes, mean, std, padding=0, flip=flip)
    parts = {
        part: MaskedImages(spec, images[part], tuple(mask for _, mask, _ in held), binary)
        for part, held in chosen.items()
    }
    return Parts(word, **parts, details={"class names": classes})


def _pairs(folder: Path) -> list[tuple[Path, Path, str | None]]:
    """Images with their masks and parts."""
    found, missing = [], []
    for path in sorted(folder.rglob("*")):
        inside = path.relative_to(folder).parts
        at = next((at for at, word in enumerate(inside[:-1]) if word.lower() in IMAGES), None)
        if at is None or not path.is_file() or inside[-1][0] == ".":
            continue
        beside = [
            folder.joinpath(*inside[:at], word, *inside[at + 1 :]).with_suffix(ending)
            for word in MASKS
            for ending in _ENDINGS
        ]
        mask = next((one for one in beside if one.is_file()), None)
        part = next((part for word in inside[:-1] if (part := part_named(word))), None)
        if mask is None:
            missing.append(path)
        else:
            found.append((path, mask, part))
    if missing or not found:
        named = [f"{path} has no mask" for path in missing[:5]]
        raise RequestError(f"{folder} does not hold images with masks", named, _LAYOUT)
    if len({part is None for _, _, part in found}) > 1:
        raise RequestError(f"{folder} holds images within train, val or test and others", do=_LAYOUT)
    return found


def _classes(folder: Path, masks: Sequence[Path], binary: bool) -> tuple[str, ...]:
    """The names of the classes; every mask is looked at."""
    seen: set[int] = set()
    for path in masks:
        seen.update(read_mask(path, None, binary=binary).unique().tolist())
    if seen == {0, IGNORED}:
        what = f"the masks of {folder} hold only 0 and 255, and 255 is what is left out"
        raise RequestError(what, do="if 255 is the second class, pass --data-arg binary=true")
    count = max(seen - {IGNORED}, default=-1) + 1
    listed = folder / "classes.txt"
    if not listed.is_file():
        if count < 2:
            raise RequestError(
                f"the masks of {folder} hold one class", do="number classes from 0 in the masks"
            )
        return tuple(map(str, range(count)))
    names = tuple(line.strip() for line in listed.read_text().splitlines() if line.strip())
    if len(names) < count:
        what = f"{listed} names {len(names)} classes, the masks hold class {count - 1}"
        raise RequestError(what, do="write a name for every class, from 0 on")
    return names


def _chosen(
    word: str, pairs: list[tuple[Path, Path, str | None]], seed: int
) -> dict[str, list[tuple[Path, Path, str | None]]]:
    """The pairs of each part; what is missing is drawn."""
    given: dict[str, list[tuple[Path, Path, str | None]]] = {}
    for pair in pairs:
        given.setdefault(pair[2] or "train", []).append(pair)
    parts = as_parts(word, given, seed)
    return {part: [*getattr(parts, part).dataset] for part in ("train", "validation", "test")}
