"""Annotation formats, one module each: an entry reads a source into `Annotations`.

A reader takes the path and, where the format does not hold them, the class names. It drops what does not fit
and writes down a `Problem` for it; `read` decides whether that is an error.
"""

from collections.abc import Callable
from pathlib import Path

from secateur.domains.darknet.data.boxes import Annotations, check_labels
from secateur.errors import RequestError
from secateur.registry import Registry

__all__ = ["Reader", "formats", "read"]

Reader = Callable[[Path, tuple[str, ...] | None], Annotations]

formats: Registry[Reader] = Registry("annotation format", "secateur.domains.darknet.data.readers")


def read(
    source: Path | str, format: str = "yolo", *, names: tuple[str, ...] | None = None, strict: bool = True
) -> Annotations:
    """Read a labelled data set.

    Args:
        source: The file or folder that the format starts from.
        format: A registered name: "yolo", "coco", "voc" or "oxford-hand".
        names: Class names in their order, where the source does not hold them or some are to be left out.
        strict: Refuse a data set with a label that does not fit; else leave such labels out and keep them in
            `problems`.

    Returns:
        Images and labels by part.

    Raises:
        RequestError: There is no such source, or an unknown format.
        DataError: The source cannot be read, or (strict) labels do not fit; see `check_labels`.
    """
    path = Path(source)
    if not path.exists():
        raise RequestError(f"there is no {path}", do=f"pass the file or folder of a {format} data set")
    annotations = formats[format](path, names)
    if strict:
        check_labels(annotations)
    return annotations
