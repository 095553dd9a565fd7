"""A detection data set that needs no download: real handwritten digits, pasted into made-up scenes.

The digits are the 1,797 that come with scikit-learn (8x8 pixels, enlarged smoothly); a fixed fifth of every
class appears only in the validation scenes. Each scene has a textured background of two colours, clutter (pen
strokes and torn-off pieces of digits, which are no objects) and up to 6 digits of 0.24 to 0.5 of the side,
slightly turned, in an ink that stands out from the background, and now and then overlapping a little. What
the set cannot show: photographs, perspective, thousands of classes. Scene i of a part depends on nothing but
(seed, part, i, size).

References:
    Alpaydin and Kaynak, "Optical Recognition of Handwritten Digits", UCI Machine Learning Repository, 1998.
    https://doi.org/10.24432/C50P49
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from secateur.domains.darknet.data.boxes import Annotations, LabelledImage, Labels
from secateur.domains.darknet.data.conversion import Conversion, write_yolo
from secateur.errors import RequestError

_Grey = NDArray[np.float32]
_Rgb = NDArray[np.float32]

_HELD_OUT = 0.2
_DIGITS_IN_SCENE = (2, 6)
_SIDES = (0.24, 0.5)
_OVERLAP = 0.12
"""Largest share of the smaller of two boxes that the other may cover."""


def digit_scenes(*, train: int = 1000, valid: int = 250, size: int = 96, seed: int = 0) -> Annotations:
    """Draw digit scenes in memory.

    Args:
        train: Training scenes.
        valid: Validation scenes, of digits that no training scene has.
        size: Side of the scenes in pixels, at least 48.
        seed: Another seed draws other scenes from the same digits.

    Returns:
        The parts "train" and "valid", ten classes "0" to "9".

    Raises:
        RequestError: Scenes too small to read digits in.

    Example:
        >>> scenes = digit_scenes(train=2, valid=1)
        >>> print(scenes)
        digit scenes (seed 0): 2 train (10 boxes) + 1 valid (4 boxes) images, 10 classes
    """
    if size < 48 or min(train, valid) < 0:
        what = f"{train} + {valid} scenes of {size} pixels cannot be drawn"
        raise RequestError(what, ["allowed: at least 0 scenes of 48 pixels"], "pass size=96")
    parts = {}
    for number, (part, count) in enumerate((("train", train), ("valid", valid))):
        digits = _digits()[number]
        drawn = []
        for index in range(count):
            generator = np.random.default_rng((seed, number, index, size))
            pixels, labels = _scene(digits, size, generator)
            drawn.append(
                LabelledImage(torch.from_numpy(pixels).permute(2, 0, 1), labels, f"{part}-{index:05d}")
            )
        parts[part] = tuple(drawn)
    return Annotations(tuple("0123456789"), parts, source=f"digit scenes (seed {seed})")


def make_digits(
    folder: Path | str, *, images: int = 1000, valid: int = 250, size: int = 96, seed: int = 0
) -> Conversion:
    """Write digit scenes as a Darknet data set: PNG files, label files, lists, names and `.data`.

    Args:
        folder: The folder to write; it must be empty or new. The `.data` file gets its name.
        images: Training scenes.
        valid: Validation scenes.
        size: Side of the scenes in pixels.
        seed: Another seed draws other scenes; the same seed writes the same bytes.

    Returns:
        What was written; it prints well.

    Raises:
        RequestError: The folder is not empty, or the scenes are too small.
    """
    return write_yolo(digit_scenes(train=images, valid=valid, size=size, seed=seed), Path(folder))


@dataclass(frozen=True, eq=False)
class _Digits:
    glyphs: tuple[_Grey, ...]
    classes: tuple[int, ...]


@cache
def _digits() -> tuple[_Digits, _Digits]:
    """Part the digits into those of the training and those of the validation scenes."""
    from sklearn.datasets import load_digits  # costs half a second, and only this data set needs it

    bunch = load_digits()
    images = (bunch.images / 16).astype(np.float32)
    training: list[int] = []
    held_out: list[int] = []
    for digit in range(10):
        members = np.random.default_rng(digit).permutation(np.flatnonzero(bunch.target == digit))
        count = round(len(members) * _HELD_OUT)
        held_out += members[:count].tolist()
        training += members[count:].tolist()
    made = [
        _Digits(tuple(images[i] for i in indices), tuple(int(bunch.target[i]) for i in indices))
        for indices in (training, held_out)
    ]
    return made[0], made[1]


def _scene(digits: _Digits, size: int, generator: np.random.Generator) -> tuple[NDArray[np.uint8], Labels]:
    canvas = _background(size, generator)
    for _ in range(generator.integers(1, 4)):
        _paste_stroke(canvas, generator)
    for _ in range(generator.integers(0, 3)):
        _paste_piece(canvas, digits, generator)
    rows: list[tuple[int, tuple[float, ...]]] = []
    taken: list[tuple[int, int, int, int]] = []
    for _ in range(generator.integers(_DIGITS_IN_SCENE[0], _DIGITS_IN_SCENE[1] + 1)):
        index = int(generator.integers(len(digits.glyphs)))
        ink = _glyph(digits.glyphs[index], size, generator)
        place = _place(ink.shape, size, taken, generator)
        if place is None:
            continue
        top, left = place
        height, width = ink.shape
        _blend(canvas, ink, top, left, generator)
        taken.append((top, left, top + height, left + width))
        box = ((left + width / 2) / size, (top + height / 2) / size, width / size, height / size)
        rows.append((digits.classes[index], box))
    noise = generator.standard_normal(canvas.shape, dtype=np.float32)
    canvas += np.float32(generator.uniform(2, 8)) * noise
    return canvas.clip(0, 255).astype(np.uint8), Labels.of(rows)


def _background(size: int, generator: np.random.Generator) -> _Rgb:
    """Mix two colours by clouds of three sizes and, half of the time, stripes."""
    mix = np.zeros((size, size), dtype=np.float32)
    for cells, weight in ((3, 0.5), (8, 0.3), (24, 0.2)):
        mix += weight * _resize(generator.random((cells, cells), dtype=np.float32), (size, size))
    if generator.random() < 0.5:
        angle, waves = generator.uniform(0, np.pi), generator.uniform(3, 10)
        steps = np.arange(size, dtype=np.float32) * np.float32(2 * np.pi * waves / size)
        mix += np.float32(0.15) * np.sin(
            steps[:, None] * np.float32(np.sin(angle)) + steps * np.float32(np.cos(angle))
        )
    first = generator.uniform(20, 235, 3)
    second = np.clip(first + generator.uniform(-70, 70, 3), 0, 255)
    share = mix.clip(0, 1)[..., None]
    return first.astype(np.float32) + (second - first).astype(np.float32) * share


def _glyph(pixels: _Grey, size: int, generator: np.random.Generator) -> _Grey:
    """Enlarge a digit smoothly, turn it a little, and cut it to its ink; values are how much ink there is."""
    height = size * generator.uniform(*_SIDES)
    width = height * generator.uniform(0.8, 1.1)
    padded = np.pad(pixels, 1)
    # The ink of an 8x8 digit fills its height, so 10 padded rows are 10/8 of the height asked for.
    large = _resize(padded, (round(height * 10 / 8), round(width * 10 / 8)))
    turned = Image.fromarray(large).rotate(generator.uniform(-12, 12), Image.Resampling.BILINEAR)
    ink = ((np.asarray(turned) - np.float32(0.35)) / np.float32(0.3)).clip(0, 1)
    rows, columns = np.flatnonzero(ink.max(1) > 0.3), np.flatnonzero(ink.max(0) > 0.3)
    return ink[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]


def _place(
    shape: Sequence[int], size: int, taken: list[tuple[int, int, int, int]], generator: np.random.Generator
) -> tuple[int, int] | None:
    """Find a place inside the scene that covers no other digit by much; None after twenty tries."""
    height, width = shape
    for _ in range(20):
        top = int(generator.integers(0, max(1, size - height + 1)))
        left = int(generator.integers(0, max(1, size - width + 1)))
        if all(_covered((top, left, top + height, left + width), other) <= _OVERLAP for other in taken):
            return top, left
    return None


def _covered(one: tuple[int, int, int, int], other: tuple[int, int, int, int]) -> float:
    height = min(one[2], other[2]) - max(one[0], other[0])
    width = min(one[3], other[3]) - max(one[1], other[1])
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (one, other)]
    return max(0, height) * max(0, width) / min(areas)


def _blend(canvas: _Rgb, ink: _Grey, top: int, left: int, generator: np.random.Generator) -> None:
    """Paint ink of a colour that stands out from what is there."""
    height, width = ink.shape
    window = canvas[top : top + height, left : left + width]
    below = window[::3, ::3].mean((0, 1))  # a third of the rows and columns is enough to judge by
    side = -1 if below.mean() > generator.uniform(90, 165) else 1
    colour = np.clip(below + side * generator.uniform(85, 160) + generator.uniform(-40, 40, 3), 0, 255)
    share = ink[..., None] * np.float32(generator.uniform(0.85, 1.0))
    window += (colour.astype(np.float32) - window) * share


def _paste_stroke(canvas: _Rgb, generator: np.random.Generator) -> None:
    """Paint one bent pen stroke."""
    size = canvas.shape[0]
    width = max(2, round(size * generator.uniform(0.015, 0.045)))
    start, middle = generator.uniform(0, size, (2, 2))
    end = middle + generator.uniform(-size / 3, size / 3, 2)
    t = np.linspace(0, 1, 12)[:, None]
    curve = (1 - t) ** 2 * start + 2 * t * (1 - t) * middle + t**2 * end
    # Only the part of the canvas that the stroke lies in is drawn and blended.
    low = np.clip(np.floor(curve.min(0) - width), 0, size - 1).astype(int)
    high = np.clip(np.ceil(curve.max(0) + width), low + 1, size).astype(int)
    scale = 2  # drawn twice as large and shrunk: Pillow's lines have no smooth edges
    columns, rows = (high - low).tolist()
    sheet = Image.new("L", (columns * scale, rows * scale))
    points = [(float(x), float(y)) for x, y in (curve - low) * scale]
    ImageDraw.Draw(sheet).line(points, fill=255, width=width * scale, joint="curve")
    ink = np.asarray(sheet.reduce(scale), dtype=np.float32) * np.float32(generator.uniform(0.4, 0.8) / 255)
    _blend(canvas, ink, int(low[1]), int(low[0]), generator)


def _paste_piece(canvas: _Rgb, digits: _Digits, generator: np.random.Generator) -> None:
    """Paint less than half of a digit: it looks like one, and is none."""
    size = canvas.shape[0]
    ink = _glyph(digits.glyphs[int(generator.integers(len(digits.glyphs)))], size, generator)
    height, width = ink.shape
    share = generator.uniform(0.25, 0.4)
    if generator.random() < 0.5:
        ink = ink[: max(2, round(height * share))]
    else:
        ink = ink[:, : max(2, round(width * share))]
    if generator.random() < 0.5:
        ink = np.rot90(ink)
    top = int(generator.integers(0, max(1, size - ink.shape[0] + 1)))
    left = int(generator.integers(0, max(1, size - ink.shape[1] + 1)))
    _blend(canvas, ink, top, left, generator)


def _resize(grid: _Grey, shape: tuple[int, int]) -> _Grey:
    return np.asarray(Image.fromarray(grid).resize((shape[1], shape[0]), Image.Resampling.BICUBIC))
