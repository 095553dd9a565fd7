"""Networks of PyTorch's libraries, and patterns of published code, that write while they run.

Each entry says what it writes; `mode` is the one in which a user's run writes. Sizes are small.
"""

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn import functional
from torch.nn.utils import prune

TEXT = torch.arange(24).reshape(2, 12) % 9 + 1


@dataclass(frozen=True)
class Writer:
    """A network that writes while it runs.

    Attributes:
        package: Where its code comes from.
        writes: What it writes, in words.
        make: Makes the network and an input.
        training: It writes in training mode only.
        slow: All verbs together take more than five seconds.
    """

    package: str
    writes: str
    make: Callable[[], tuple[nn.Module, Any]]
    training: bool = False
    slow: bool = False


class Classifier(nn.Module):
    """Two layers, a norm and a head, the first of which is given."""

    def __init__(self, first: nn.Module, norm: nn.Module | None = None) -> None:
        super().__init__()
        self.first, self.norm, self.second = first, norm or nn.BatchNorm2d(12), nn.Conv2d(12, 8, 3)
        self.head = nn.Linear(8, 3)

    def forward(self, x):
        y = self.second(self.norm(self.first(x)).relu()).relu()
        return self.head(y.mean((2, 3)))


def classifier(first, norm=None):
    return Classifier(first, norm), torch.randn(4, 3, 8, 8)


def old_spectral_norm():
    return classifier(nn.utils.spectral_norm(nn.Conv2d(3, 12, 3)))


def spectral_norm():
    return classifier(nn.utils.parametrizations.spectral_norm(nn.Conv2d(3, 12, 3)))


def old_masks():
    conv = nn.Conv2d(3, 12, 3)
    prune.l1_unstructured(conv, "weight", 0.25)
    return classifier(conv)


def cumulative_norm():
    return classifier(nn.Conv2d(3, 12, 3), nn.BatchNorm2d(12, momentum=None))


class Tokens(nn.Module):
    """A table of which every row that is read is cut to a length, and two layers."""

    def __init__(self):
        super().__init__()
        self.table = nn.Embedding(11, 8, max_norm=0.5)
        self.hidden, self.head = nn.Linear(8, 12), nn.Linear(12, 3)

    def forward(self, x):
        return self.head(self.hidden(self.table(x)).relu())


def max_norm_table():
    return Tokens(), TEXT


class MaxNormConv(nn.Conv2d):
    """EEGNet's spatial filters, as in braindecode and in arl-eegmodels' ports."""

    def forward(self, x):
        self.weight.data = torch.renorm(self.weight.data, p=2, dim=0, maxnorm=0.5)
        return super().forward(x)


def eegnet():
    return classifier(MaxNormConv(3, 12, 3))


class MaskedConv(nn.Conv2d):
    """PixelCNN's first layer."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.register_buffer("mask", torch.ones_like(self.weight))
        self.mask[:, :, self.kernel_size[0] // 2, self.kernel_size[1] // 2 :] = 0
        self.mask[:, :, self.kernel_size[0] // 2 + 1 :] = 0

    def forward(self, x):
        self.weight.data *= self.mask
        return super().forward(x)


def pixelcnn():
    return classifier(MaskedConv(3, 12, 3))


class Contrast(nn.Module):
    """MoCo: a slow twin of the encoder follows it, and a queue holds its keys."""

    def __init__(self):
        super().__init__()
        self.encoder_q = classifier(nn.Conv2d(3, 12, 3))[0]
        self.encoder_k = copy.deepcopy(self.encoder_q).requires_grad_(False)
        for held in self.encoder_k.parameters():
            held.data.add_(0.1)
        self.register_buffer("queue", functional.normalize(torch.randn(3, 8), dim=0))
        self.register_buffer("queue_ptr", torch.zeros(1, dtype=torch.long))

    @torch.no_grad()
    def _momentum_update_key_encoder(self):
        for fast, slow in zip(self.encoder_q.parameters(), self.encoder_k.parameters(), strict=True):
            slow.data = slow.data * 0.9 + fast.data * 0.1

    @torch.no_grad()
    def _dequeue_and_enqueue(self, keys):
        start = int(self.queue_ptr)
        self.queue[:, start : start + keys.shape[0]] = keys.T
        self.queue_ptr[0] = (start + keys.shape[0]) % self.queue.shape[1]

    def forward(self, x):
        queries = functional.normalize(self.encoder_q(x), dim=1)
        with torch.no_grad():
            self._momentum_update_key_encoder()
            keys = functional.normalize(self.encoder_k(x), dim=1)
        near = (queries * keys).sum(1, keepdim=True)
        logits = torch.cat([near, queries @ self.queue.clone().detach()], dim=1)
        self._dequeue_and_enqueue(keys)
        return logits


def moco():
    return Contrast(), torch.randn(4, 3, 8, 8)


class Codebook(nn.Module):
    """The quantiser of a VQ-VAE whose codes follow what they are given, as exponential means."""

    def __init__(self, codes=6, width=8):
        super().__init__()
        self.register_buffer("embed", torch.randn(codes, width))
        self.register_buffer("cluster_size", torch.ones(codes))
        self.register_buffer("embed_avg", self.embed.clone())

    def forward(self, x):
        flat = x.movedim(1, -1).flatten(0, -2)
        nearest = torch.cdist(flat, self.embed).argmin(1)
        chosen = functional.one_hot(nearest, len(self.embed)).type_as(flat)
        if self.training:
            self.cluster_size.data.mul_(0.9).add_(chosen.sum(0), alpha=0.1)
            self.embed_avg.data.mul_(0.9).add_(chosen.T @ flat.detach(), alpha=0.1)
            self.embed.data.copy_(self.embed_avg / (self.cluster_size[:, None] + 1e-5))
        found = self.embed[nearest].view(x.movedim(1, -1).shape).movedim(-1, 1)
        return x + (found - x).detach()


class AutoEncoder(nn.Module):
    def __init__(self):
        super().__init__()
        self.encoder = nn.Sequential(nn.Conv2d(3, 12, 3), nn.ReLU(), nn.Conv2d(12, 8, 1))
        self.codebook = Codebook()
        self.decoder = nn.Sequential(nn.Conv2d(8, 12, 3), nn.ReLU(), nn.Conv2d(12, 3, 1))

    def forward(self, x):
        return self.decoder(self.codebook(self.encoder(x)))


def vq_vae():
    return AutoEncoder(), torch.randn(2, 3, 8, 8)


class Quantised(nn.Conv2d):
    """A layer whose step size the first batch sets, as in LSQ."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.alpha = nn.Parameter(torch.ones(1))
        self.register_buffer("init_state", torch.zeros(1))

    def forward(self, x):
        if self.init_state == 0:
            self.alpha.data.copy_(2 * self.weight.abs().mean() / 7**0.5)
            self.init_state.fill_(1)
        steps = (self.weight / self.alpha).clamp(-8, 7)
        rounded = steps + (steps.round() - steps).detach()
        return self._conv_forward(x, rounded * self.alpha, self.bias)


def lsq():
    return classifier(Quantised(3, 12, 3))


def levit():
    from timm.models.levit import Levit

    sizes = {"embed_dim": (16, 24), "key_dim": 8, "depth": (1, 1), "num_heads": (2, 3), "num_classes": 5}
    return Levit(img_size=64, **sizes), torch.randn(1, 3, 64, 64)


def evonorm():
    from timm.layers import EvoNorm2dB0

    return classifier(nn.Conv2d(3, 12, 3), EvoNorm2dB0(12))


def dynamic_rope():
    from transformers import LlamaConfig, LlamaForCausalLM

    settings = LlamaConfig(
        vocab_size=11,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=8,
        rope_parameters={"rope_type": "dynamic", "factor": 2.0, "rope_theta": 10000.0},
    )
    return LlamaForCausalLM(settings), {"input_ids": TEXT}


def big_bird():
    from transformers import BigBirdConfig, BigBirdModel

    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 24}
    settings = BigBirdConfig(vocab_size=11, max_position_embeddings=64, block_size=4, **sizes)
    return BigBirdModel(settings), {"input_ids": TEXT}


def conformer():
    from transformers import Wav2Vec2ConformerConfig, Wav2Vec2ConformerModel

    settings = Wav2Vec2ConformerConfig(
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=24,
        conv_dim=(8, 8),
        conv_stride=(4, 2),
        conv_kernel=(6, 3),
        num_conv_pos_embeddings=4,
        num_conv_pos_embedding_groups=2,
        position_embeddings_type="rotary",
        mask_time_prob=0.0,
    )
    return Wav2Vec2ConformerModel(settings), torch.randn(1, 400)


def yolo():
    from ultralytics.nn.tasks import DetectionModel

    layers = [[-1, 1, "Conv", [8, 3, 2]], [-1, 1, "Conv", [16, 3, 2]], [-1, 1, "C2f", [16, True]]]
    layers += [[-1, 1, "Conv", [24, 3, 2]]]
    cfg = {"nc": 3, "depth_multiple": 1.0, "width_multiple": 1.0}
    cfg |= {"backbone": layers, "head": [[[2, 3], 1, "Detect", ["nc"]]]}
    return DetectionModel(cfg, verbose=False), torch.randn(1, 3, 64, 64)


def faster_rcnn():
    from torchvision.models.detection import FasterRCNN
    from torchvision.models.detection.anchor_utils import AnchorGenerator
    from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
    from torchvision.ops import MultiScaleRoIAlign

    backbone = nn.Sequential(nn.Conv2d(3, 8, 3, stride=4), nn.ReLU(), nn.Conv2d(8, 8, 3, stride=4))
    backbone.out_channels = 8
    model = FasterRCNN(
        backbone,
        rpn_anchor_generator=AnchorGenerator(((16, 32),), ((1.0,),)),
        box_roi_pool=MultiScaleRoIAlign(["0"], 3, 2),
        box_head=TwoMLPHead(72, 16),
        box_predictor=FastRCNNPredictor(16, 3),
        min_size=64,
        max_size=64,
    )
    return model, ([torch.rand(3, 64, 64)],)


WRITERS: dict[str, Writer] = {
    "spectral_norm (hooks)": Writer("torch", "`weight`, `weight_u`, `weight_v`", old_spectral_norm, True),
    "spectral_norm (parametrization)": Writer("torch", "`_u`, `_v`", spectral_norm, True),
    "prune masks": Writer("torch", "`weight`, from a hook", old_masks),
    "BatchNorm2d(momentum=None)": Writer("torch", "running statistics, counter", cumulative_norm, True),
    "Embedding(max_norm=...)": Writer("torch", "rows of its weight", max_norm_table),
    "EEGNet": Writer("braindecode's pattern", "`weight.data`", eegnet),
    "PixelCNN": Writer("a pattern", "`weight.data`", pixelcnn),
    "MoCo": Writer("moco's code", "`data` of the slow encoder, queue, pointer", moco),
    "VQ-VAE": Writer("a pattern", "codebook and its means", vq_vae, True),
    "LSQ": Writer("a pattern", "step size, a flag", lsq),
    "LeViT": Writer("timm", "`attention_bias_cache`", levit, slow=True),
    "EvoNorm2dB0": Writer("timm", "running variance", evonorm, True),
    "Llama, dynamic rope": Writer(
        "transformers", "`inv_freq`, `max_seq_len_cached`", dynamic_rope, slow=True
    ),
    "BigBird, short text": Writer("transformers", "`attention_type` of all layers", big_bird, slow=True),
    "Wav2Vec2-Conformer": Writer("transformers", "a table of positions and its length", conformer, slow=True),
    "YOLOv8": Writer("ultralytics", "`anchors`, `strides`, `shape` of the head", yolo, slow=True),
    "Faster R-CNN": Writer("torchvision", "`scales`, `map_levels` of its pooler", faster_rcnn, slow=True),
}
