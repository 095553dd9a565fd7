"""A cut network as Darknet's files: new `filters=`, everything else as it was, and the weights."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from secateur.domains.darknet.cfg import Config, write_cfg
from secateur.domains.darknet.network import Darknet
from secateur.domains.darknet.sections.convolutional import Convolutional
from secateur.domains.darknet.weights import save_weights
from secateur.errors import ExportError, RequestError
from secateur.exports.format import ExportSubject, Format, formats
from secateur.extras import extra

__all__ = ["export", "save_darknet"]


def export(model: Darknet, config: Config | None = None) -> Config:
    """Write the cfg of a network that was cut.

    Args:
        model: A network, cut or not.
        config: The cfg it was built from; None takes `model.config`.

    Returns:
        The same cfg with the network's own `filters`, and `groups` of grouped convolutions. Anchors, classes,
        comments and training settings stay. Where nothing was cut it is the same cfg.

    Raises:
        RequestError: A layer has no channel left, or the cfg is not that of this network: built from it, a
            network would have other shapes.

    Example:
        >>> import secateur as sc
        >>> model = Darknet("digits")
        >>> cut = sc.prune(model, torch.zeros(1, 3, 32, 32), ratio=0.5, scope="local", check=False).model
        >>> model.config.layer(0)["filters"], export(cut).layer(0)["filters"]
        ('16', '8')
    """
    written = config or model.config
    if len(model.layers) != len(written.sections):
        what = f"{written.name} has {len(written.sections)} layers, the network {len(model.layers)}"
        raise RequestError(what, do="pass the cfg that the network was built from")
    for index, layer in enumerate(model.layers):
        if not isinstance(layer, Convolutional):
            continue
        filters, groups = layer.conv.weight.shape[0], layer.conv.groups
        if not filters:
            do = "keep a channel, or remove the layer from the cfg"
            raise written.error("no channel is left", index, "filters", do=do)
        values = {"filters": filters}
        if written.layer(index).get("groups", "1") != str(groups):
            values["groups"] = groups
        written = written.replaced(index, **values)
    _require_same_shapes(model, written)
    return written


def save_darknet(model: Darknet, path: Path | str) -> tuple[Path, Path]:
    """Write a network, cut or not, as a cfg and its weights.

    Args:
        model: The network.
        path: A folder (one that exists, or a name that ends with a slash) gets files named as the network's
            cfg; anything else is the files' name without `.cfg` and `.weights`.

    Returns:
        The cfg's and the weights' path.

    Raises:
        RequestError: The format cannot say what the network is.
        SecateurError: The files cannot be written.
    """
    target = Path(path)
    if target.is_dir() or str(path).endswith(("/", os.sep)):
        target = target / Path(model.config.name).stem
    config = export(model)
    weights = save_weights(model, target.with_name(f"{target.name}.weights"))
    return write_cfg(config, target.with_name(f"{target.name}.cfg")), weights


def _write(subject: ExportSubject, path: Path) -> Sequence[str]:
    """Write a subject as a cfg and its weights."""
    with extra("video", "Darknet files that are read back"):
        import cv2
    if not hasattr(cv2.dnn, "readNetFromDarknet"):
        do = "pip install 'secateur[video]', or write them unread: secateur.domains.darknet.save_darknet"
        raise ExportError(f"OpenCV {cv2.__version__} reads no Darknet files, those below 5 do", do=do)
    if not isinstance(subject.model, Darknet):
        what = f"Darknet has no words for {type(subject.model).__name__}"
        raise ExportError(what, do="export a network of secateur.domains.darknet, or choose another format")
    save_darknet(subject.model, path.with_suffix(""))
    return [f"the weights lie beside it, in {path.with_suffix('.weights').name}"]


def _maps(subject: ExportSubject) -> Mapping[str, Any]:
    """The layers whose outputs are the raw maps."""
    assert isinstance(subject.model, Darknet)
    return {"maps": [head.index - 1 for head in subject.model.heads]}


formats.add(
    "darknet",
    Format(
        what="a cfg and its weights, for Darknet; read back by OpenCV",
        suffix=".cfg",
        write=_write,
        reader=Path(__file__).with_name("opencv_reader.py"),
        extra="video",
        about=_maps,
        needs_norms="its cfg says of each layer whether it has one, and stays as it is",
    ),
)


def _require_same_shapes(model: Darknet, config: Config) -> None:
    with torch.device("meta"):
        rebuilt = Darknet(config)
    ours, theirs = model.state_dict(), rebuilt.state_dict()
    differing = [
        f"{name}: {tuple(ours[name].shape) if name in ours else 'missing'} in the network,"
        f" {tuple(theirs[name].shape) if name in theirs else 'missing'} by the cfg"
        for name in sorted(ours.keys() | theirs.keys())
        if name not in ours or name not in theirs or ours[name].shape != theirs[name].shape
    ]
    if differing:
        what = f"{len(differing)} tensors of the network have other shapes than {config.name} can say"
        raise RequestError(what, differing, "pass the cfg that the network was built from")
