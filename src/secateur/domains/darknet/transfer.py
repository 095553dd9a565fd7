"""Start a training from weights of another network, or of the beginning of one."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from secateur.domains.darknet.header import Header
from secateur.domains.darknet.network import Darknet
from secateur.domains.darknet.weights import load_darknet, load_weights
from secateur.errors import RequestError

__all__ = ["Transferred", "transfer"]


@dataclass(frozen=True)
class Transferred:
    """What was taken over.

    Attributes:
        source: The file.
        taken: Names of the tensors that were.
        left: Names of those that keep their initial values.
    """

    source: str
    taken: tuple[str, ...]
    left: tuple[str, ...]

    def __str__(self) -> str:
        held = sorted({int(name.split(".")[1]) for name in self.left})
        rest = f"; layers {', '.join(map(str, held))} start anew" if held else ""
        return f"{self.source}: took {len(self.taken)} of {len(self.taken) + len(self.left)} tensors{rest}"


def transfer(model: Darknet, weights: Path | str, config: Path | str | None = None) -> Transferred:
    """Fill a network, in place, with what fits of a file.

    Args:
        model: The network to fill.
        weights: Weights of this cfg or its beginning (`darknet53.conv.74`), or of `config`.
        config: The cfg that the weights belong to, if it is another: tensors of the same layer number, name
            and shape are taken. A trained network has counted its images; a new one begins at 0.

    Returns:
        What was taken and what was not.

    Raises:
        CheckpointError: The file does not fit its cfg.
        RequestError: No tensor of the other network fits.

    Example:
        >>> import tempfile
        >>> from secateur.domains.darknet import save_weights
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     file = save_weights(Darknet("digits"), Path(folder, "digits.conv.20"))
        ...     print(transfer(Darknet("digits"), file))
        digits.conv.20: took 75 of 99 tensors; layers 20, 21, 24, 27, 28, 29 start anew
    """
    own = {name: value for name, value in model.state_dict().items() if _is_stored(name)}
    source = Path(weights)
    if config is None:
        filled = _watched(model, lambda: load_weights(model, source))
        left = [name for name in own if name not in filled]
    else:
        other = load_darknet(config, source).state_dict()
        left = [name for name in own if name not in other or other[name].shape != own[name].shape]
        if len(left) == len(own):
            what = f"no tensor of {config} has the number and shape of one of {model.config.name}"
            raise RequestError(what, do="choose weights of a network that begins alike")
        with torch.no_grad():
            for name in own.keys() - set(left):
                own[name].copy_(other[name])
    model.header = Header()
    taken = tuple(name for name in own if name not in set(left))
    return Transferred(source.name, taken, tuple(left))


def _is_stored(name: str) -> bool:
    return not name.endswith("num_batches_tracked")


def _watched(model: nn.Module, fill: Callable[[], object]) -> set[str]:
    """The tensors that a function writes to."""
    tensors: dict[str, Tensor] = dict(model.state_dict(keep_vars=True))
    before = {name: tensor._version for name, tensor in tensors.items()}
    fill()
    return {name for name, tensor in tensors.items() if tensor._version != before[name]}
