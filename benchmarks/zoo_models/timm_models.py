"""One small architecture of every module of `timm.models`: the smallest by parameters, with random weights.

Names that begin with "test_" are timm's own toy models and do not count. A row is: module, architecture, side
of the image (its own where it is fixed, else small), and what differs from the architecture's defaults.
The list was made by building every registered architecture of timm 1.0.31 on the meta device.
"""

from typing import Any

import timm
import torch
from torch import nn

ROWS: tuple[tuple[str, str, int, dict[str, Any]], ...] = (
    ("beit", "beit_base_patch16_224", 224, {}),  # 86.5 M
    ("byoanet", "halonet_h1", 256, {}),  # 8.1 M
    ("byobnet", "mobileone_s1", 96, {}),  # 4.8 M
    ("cait", "cait_xxs24_224", 224, {}),  # 12.0 M
    ("coat", "coat_tiny", 224, {}),  # 5.5 M
    ("convit", "convit_tiny", 224, {}),  # 5.7 M
    ("convmixer", "convmixer_768_32", 96, {}),  # 21.1 M
    ("convnext", "convnext_zepto_rms", 96, {}),  # 2.2 M
    ("cpubone", "cpubone_nano", 96, {}),  # 6.5 M
    ("crossvit", "crossvit_tiny_240", 240, {}),  # 7.0 M
    ("csatv2", "csatv2", 96, {}),  # 11.1 M
    ("cspnet", "cs3darknet_focus_s", 96, {}),  # 3.3 M
    ("cspnext", "cspnext_tiny", 96, {}),  # 2.7 M
    ("davit", "davit_tiny", 96, {}),  # 28.4 M
    ("deepseek_vit", "deepseek_vit_412m", 98, {"depth": 2}),  # 411.8 M
    ("deit", "deit_tiny_patch16_224", 224, {}),  # 5.7 M
    ("densenet", "densenet121", 96, {}),  # 8.0 M
    ("dla", "dla46x_c", 96, {}),  # 1.1 M
    ("dpn", "dpn48b", 96, {}),  # 9.1 M
    ("edgenext", "edgenext_xx_small", 96, {}),  # 1.3 M
    ("efficientformer", "efficientformer_l1", 224, {}),  # 12.3 M
    ("efficientformer_v2", "efficientformerv2_s0", 224, {}),  # 3.6 M
    ("efficientnet", "mobilenetv2_035", 96, {}),  # 1.7 M
    ("efficientvim", "efficientvim_m1", 96, {}),  # 6.7 M
    ("efficientvit_mit", "efficientvit_b0", 96, {}),  # 3.4 M
    ("efficientvit_msra", "efficientvit_m0", 224, {}),  # 2.3 M
    ("eva", "vit_tiny_patch16_dinov3_qkvb", 256, {}),  # 5.5 M
    ("fasternet", "fasternet_t0", 96, {}),  # 3.9 M
    ("fastvit", "fastvit_t8", 96, {}),  # 4.0 M
    ("focalnet", "focalnet_tiny_srf", 96, {}),  # 28.4 M
    ("gcvit", "gcvit_xxtiny", 224, {}),  # 12.0 M
    ("gemma4_vit", "gemma4_vit_167m", 96, {"depth": 2}),  # 167.4 M
    ("ghostnet", "ghostnet_050", 96, {}),  # 2.6 M
    ("hardcorenas", "hardcorenas_b", 96, {}),  # 5.2 M
    ("hgnet", "hgnetv2_b0", 96, {}),  # 6.0 M
    ("hiera", "hiera_tiny_224", 224, {}),  # 27.9 M
    ("hieradet_sam2", "sam2_hiera_tiny", 96, {}),  # 26.9 M
    ("hrnet", "hrnet_w18_small", 96, {}),  # 13.2 M
    ("iformer", "iformer_t", 96, {}),  # 2.9 M
    ("inception_next", "inception_next_atto", 96, {}),  # 4.2 M
    ("inception_resnet_v2", "inception_resnet_v2", 96, {}),  # 55.8 M
    ("inception_v3", "inception_v3", 96, {}),  # 23.8 M
    ("inception_v4", "inception_v4", 96, {}),  # 42.7 M
    ("lcnetv2", "lcnetv2_small", 96, {}),  # 4.1 M
    ("levit", "levit_128s", 224, {}),  # 7.8 M
    ("lowformer", "lowformer_b0", 96, {}),  # 14.1 M
    ("mambaout", "mambaout_femto", 96, {}),  # 7.3 M
    ("maxxvit", "maxvit_pico_rw_256", 256, {}),  # 7.5 M
    ("metaformer", "poolformerv2_s12", 96, {}),  # 11.9 M
    ("mlp_mixer", "gmlp_ti16_224", 224, {}),  # 5.9 M
    ("mobilenetv3", "mobilenetv3_small_050", 96, {}),  # 1.6 M
    ("mobilenetv5", "mobilenetv5_base", 96, {}),  # 82.6 M
    ("mobilevit", "mobilevit_xxs", 96, {}),  # 1.3 M
    ("mvitv2", "mvitv2_tiny", 224, {}),  # 24.2 M
    ("naflexvit", "naflexvit_base_patch16_parfac_gap", 96, {}),  # 86.5 M
    ("nasnet", "nasnetalarge", 96, {}),  # 88.8 M
    ("nest", "nest_tiny", 224, {}),  # 17.1 M
    ("nextvit", "nextvit_small", 96, {}),  # 31.8 M
    ("nfnet", "nf_regnet_b0", 96, {}),  # 8.8 M
    ("pit", "pit_ti_224", 224, {}),  # 4.8 M
    ("pnasnet", "pnasnet5large", 96, {}),  # 86.1 M
    ("pvt_v2", "pvt_v2_b0", 96, {}),  # 3.7 M
    ("qwen3_vit", "qwen3_vit_88m", 96, {"depth": 2}),  # 87.4 M
    ("rdnet", "rdnet_tiny", 96, {}),  # 23.9 M
    ("regnet", "regnetx_002", 96, {}),  # 2.7 M
    ("repghost", "repghostnet_050", 96, {}),  # 2.3 M
    ("repvit", "repvit_m1", 96, {}),  # 5.5 M
    ("res2net", "res2next50", 96, {}),  # 24.7 M
    ("resnest", "resnest14d", 96, {}),  # 10.6 M
    ("resnet", "resnet10t", 96, {}),  # 5.4 M
    ("resnetv2", "resnetv2_18", 96, {}),  # 11.7 M
    ("rexnet", "rexnet_100", 96, {}),  # 4.8 M
    ("selecsls", "selecsls42", 96, {}),  # 30.4 M
    ("senet", "legacy_seresnet18", 96, {}),  # 11.8 M
    ("sequencer", "sequencer2d_s", 224, {}),  # 27.7 M
    ("shvit", "shvit_s1", 96, {}),  # 6.3 M
    ("sknet", "skresnet18", 96, {}),  # 12.0 M
    ("starnet", "starnet_s050", 96, {}),  # 0.5 M
    ("swiftformer", "swiftformer_xs", 224, {}),  # 3.5 M
    ("swin_transformer", "swin_tiny_patch4_window7_224", 224, {}),  # 28.3 M
    ("swin_transformer_v2", "swinv2_tiny_window16_256", 256, {}),  # 28.3 M
    ("swin_transformer_v2_cr", "swinv2_cr_tiny_224", 224, {}),  # 28.3 M
    ("tiny_vit", "tiny_vit_5m_224", 96, {}),  # 12.1 M
    ("tnt", "tnt_s_legacy_patch16_224", 224, {}),  # 23.8 M
    ("tresnet", "tresnet_m", 96, {}),  # 31.4 M
    ("twins", "twins_svt_small", 224, {}),  # 24.1 M
    ("vgg", "vgg11", 96, {}),  # 132.9 M
    ("visformer", "visformer_tiny", 224, {}),  # 10.3 M
    ("vision_transformer", "vit_tiny_patch16_224", 224, {}),  # 5.7 M
    ("vision_transformer_hybrid", "vit_tiny_r_s16_p8_224", 224, {}),  # 6.3 M
    ("vision_transformer_relpos", "vit_srelpos_small_patch16_224", 224, {}),  # 22.0 M
    ("vision_transformer_sam", "samvit_base_patch16_224", 224, {}),  # 86.5 M
    ("vitamin", "vitamin_small_224", 224, {}),  # 22.2 M
    ("volo", "volo_d1_224", 224, {}),  # 26.6 M
    ("vovnet", "ese_vovnet19b_slim_dw", 96, {}),  # 1.9 M
    ("xception", "legacy_xception", 96, {}),  # 22.9 M
    ("xception_aligned", "xception41p", 96, {}),  # 26.9 M
    ("xcit", "xcit_nano_12_p8_224", 224, {}),  # 3.0 M
)

NAMES = tuple(f"{module}.{name}" for module, name, _, _ in ROWS)


def make(name: str) -> tuple[nn.Module, torch.Tensor]:
    """The architecture of a row, in eval mode, and an image."""
    _, architecture, side, different = ROWS[NAMES.index(name)]
    model = timm.create_model(architecture, pretrained=False, **different)
    return model.eval(), torch.rand(1, 3, side, side)
