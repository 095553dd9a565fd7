"""Small data sets of coloured shapes for Ultralytics: boxes, masks, keypoints, rotated boxes, classes."""

import math
import random
from pathlib import Path

from PIL import Image, ImageDraw

CLASSES = ("square", "disc")
KEYPOINTS = 17
_COLOURS = ((220, 60, 40), (40, 120, 220))


def write_scenes(folder: Path, task: str, *, count: int = 8, side: int = 64, seed: int = 0) -> Path:
    """Write images and labels, `count` for training and as many for validation.

    Args:
        folder: Where to write.
        task: "detect", "segment", "pose", "obb" or "classify".
        count: Images of each part.
        side: Of an image, in pixels.
        seed: For the shapes.

    Returns:
        What `data=` of Ultralytics takes: a YAML file; for "classify" the folder.
    """
    draw = random.Random(seed)
    for part in ("train", "val"):
        for number in range(count):
            if task == "classify":
                kind = number % len(CLASSES)
                place = folder / part / CLASSES[kind]
                place.mkdir(parents=True, exist_ok=True)
                scene(draw, side, [kind])[0].save(place / f"{number}.png")
                continue
            for kind in ("images", "labels"):
                (folder / kind / part).mkdir(parents=True, exist_ok=True)
            image, outlines = scene(
                draw, side, [draw.randrange(len(CLASSES)) for _ in range(draw.randint(1, 3))]
            )
            image.save(folder / "images" / part / f"{number}.png")
            lines = [label(task, kind, outline, side) for kind, outline in outlines]
            (folder / "labels" / part / f"{number}.txt").write_text("".join(f"{line}\n" for line in lines))
    if task == "classify":
        return folder
    text = f"path: {folder.resolve()}\ntrain: images/train\nval: images/val\n"
    text += f"names: {{{', '.join(f'{at}: {name}' for at, name in enumerate(CLASSES))}}}\n"
    text += f"kpt_shape: [{KEYPOINTS}, 3]\n" if task == "pose" else ""
    (folder / "data.yaml").write_text(text)
    return folder / "data.yaml"


Outline = list[tuple[float, float]]


def scene(draw: random.Random, side: int, kinds: list[int]) -> tuple[Image.Image, list[tuple[int, Outline]]]:
    """An image with a shape of each of some kinds, and their outlines in pixels."""
    image = Image.new("RGB", (side, side), (30, 30, 30))
    pen, outlines = ImageDraw.Draw(image), []
    for kind in kinds:
        radius, turn = side * draw.uniform(0.12, 0.2), draw.uniform(0, 2 * math.pi)
        x, y = (draw.uniform(radius, side - radius) for _ in range(2))
        corners = 4 if CLASSES[kind] == "square" else 24
        angles = [turn + 2 * math.pi * at / corners for at in range(corners)]
        outline = [(x + radius * math.cos(a), y + radius * math.sin(a)) for a in angles]
        pen.polygon(outline, fill=_COLOURS[kind])
        outlines.append((kind, outline))
    return image, outlines


def label(task: str, kind: int, outline: Outline, side: int) -> str:
    """One line of a label file: numbers relative to the side."""
    xs, ys = ([min(max(point[dim] / side, 0.0), 1.0) for point in outline] for dim in (0, 1))
    box = [(min(xs) + max(xs)) / 2, (min(ys) + max(ys)) / 2, max(xs) - min(xs), max(ys) - min(ys)]
    points = list(zip(xs, ys, strict=True))
    step = len(points) / 4
    numbers = {
        "detect": box,
        "segment": [number for point in points for number in point],
        "obb": [number for at in range(4) for number in points[int(at * step)]],
        "pose": box + [number for at in range(KEYPOINTS) for number in (*points[at % len(points)], 2)],
    }[task]
    return " ".join([str(kind), *(f"{number:.5f}" for number in numbers)])
