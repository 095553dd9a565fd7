"""Maker: builds a model again, on the meta device, from the config that it holds with some fields changed."""

import copy
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from secateur.architecture import tensor_shapes
from secateur.capture.outside import outside_kept
from secateur.capture.randomness import OwnNumbers
from secateur.capture.saves import rewrite
from secateur.configs.records import Path, records_of
from secateur.cut.shorten import put


@dataclass(frozen=True, eq=False)
class Maker:
    """Builds a module like one from a config that it holds.

    Attributes:
        module: The module; its class is called with nothing but the config.
        config: The config; not changed.
        attribute: What the module calls it.
    """

    module: nn.Module
    config: Any
    attribute: str

    @classmethod
    def of(cls, module: nn.Module) -> "Maker | None":
        """The maker of a module; None if it is not built from a config that it holds."""
        names = tensor_shapes(module).keys()
        for attribute, record in records_of(module):
            maker = cls(module, record, attribute)
            made = maker.make({})
            if made is not None and tensor_shapes(made).keys() == names:
                return maker
        return None

    def make(self, edits: Mapping[Path, Any]) -> nn.Module | None:
        """Build it on the meta device from a config with other fields; None if that cannot be built."""
        try:
            with (
                outside_kept(self.module, constructs=True),
                _shared_kept(self.module),
                OwnNumbers(),
                torch.device("meta"),
            ):
                return type(self.module)(self._config(edits))
        except Exception:  # noqa: BLE001 - a foreign constructor may raise anything
            return None

    def _config(self, edits: Mapping[Path, Any]) -> Any:
        """The config as it would be after saving and loading."""
        config = copy.deepcopy(self.config)
        for path, value in edits.items():
            put(config, path, value)
        kind: Any = config.__class__  # of a linked config the class that it extends
        if hasattr(config, "to_dict") and hasattr(kind, "from_dict"):
            return kind.from_dict(copy.deepcopy(config.to_dict()))
        return config


@contextmanager
def _shared_kept(model: nn.Module) -> Iterator[None]:
    """Put back the modules that classes hold, such as an activation for all layers: each model has them.

    A constructor sets the mode of all that its model has, and may give it new weights.
    """
    kinds = dict.fromkeys(kind for one in model.modules() for kind in type(one).__mro__)
    shared = [held for kind in kinds for held in vars(kind).values() if isinstance(held, nn.Module)]
    parts = dict.fromkeys(part for one in shared for part in one.modules())
    modes = {part: part.training for part in parts}
    tensors = {held: held.detach().clone() for one in shared for held in (*one.parameters(), *one.buffers())}
    with torch.autograd._unsafe_preserve_version_counter(tuple(tensors)):
        try:
            yield
        finally:
            for part, mode in modes.items():
                part.training = mode
            for held, before in tensors.items():
                rewrite(held, before)
