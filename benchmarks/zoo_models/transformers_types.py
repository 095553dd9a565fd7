"""Tiny random configurations of transformers types, written out; nothing is downloaded."""

from typing import Any

import torch
import transformers
from torch import nn
from transformers import BertModel, LlamaModel, T5Model, ViTModel  # noqa: F401 - loads what all types share

from zoo_models.transformers_decoders import DECODERS
from zoo_models.transformers_encoders import ENCODERS
from zoo_models.transformers_senses import SENSES
from zoo_models.transformers_sizes import DETECTOR, WORDS

TYPES = {**ENCODERS, **DECODERS, **SENSES}

NAMES = tuple(TYPES)


def _ids(length: int = 12) -> torch.Tensor:
    return torch.randint(4, WORDS, (2, length))


def _inputs(kind: str) -> dict[str, torch.Tensor]:
    image = {"pixel_values": torch.randn(2, 3, 32, 32)}
    boxes = torch.randint(0, 30, (2, 12, 2))
    kinds = {
        "text": {"input_ids": _ids()},
        "boxes": {"input_ids": _ids(), "bbox": torch.cat([boxes, boxes + 10], dim=-1)},
        "pair": {"input_ids": _ids(), "decoder_input_ids": _ids(10)},
        "image": image,
        "picture": {"pixel_values": torch.randn(2, 3, 64, 64)},
        "video": {"pixel_values": torch.randn(1, 4, 3, 32, 32)},
        "both": {"input_ids": _ids(), **image},
        "wave": {"input_values": torch.randn(2, 1600)},
        "spectrogram": {"input_values": torch.randn(2, 64, 32)},
        "mel-pair": {"input_features": torch.randn(2, 40, 32), "decoder_input_ids": _ids(10)},
        "whisper": {"input_features": torch.randn(2, 32, 64), "decoder_input_ids": _ids(10)},
        "series": {"past_values": torch.randn(2, 32, 3)},
    }
    return kinds[kind]


def make(name: str) -> tuple[nn.Module, Any]:
    """The model of a type and its example inputs."""
    head, kind, different = TYPES[name]
    if head == "AutoModelForObjectDetection" and not different:
        backbone = transformers.AutoConfig.for_model("resnet", **TYPES["resnet"][2], out_features=["stage4"])
        different = {**DETECTOR, "backbone_config": backbone}
    config = transformers.AutoConfig.for_model(name, **different)
    make_head = getattr(transformers, head)
    make_model = getattr(make_head, "from_config", None) if head.startswith("Auto") else make_head
    return make_model(config).eval(), _inputs(kind)
