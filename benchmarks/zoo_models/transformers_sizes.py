"""Sizes that the tiny configurations of transformers types share."""

from typing import Any, TypeAlias

Row: TypeAlias = tuple[str, str, dict[str, Any]]
"""Head of the `transformers` package, kind of inputs, what differs from the package's default."""

WIDTH, HEADS, LAYERS, WORDS, POSITIONS = 64, 4, 2, 128, 64

TEXT = {
    "vocab_size": WORDS,
    "hidden_size": WIDTH,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": HEADS,
    "intermediate_size": 2 * WIDTH,
    "max_position_embeddings": POSITIONS,
    "pad_token_id": 0,
}
DECODER = {**TEXT, "bos_token_id": 1, "eos_token_id": 2, "use_cache": False}
GROUPED = {**DECODER, "num_key_value_heads": 2}
IMAGE = {
    "hidden_size": WIDTH,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": HEADS,
    "intermediate_size": 2 * WIDTH,
    "image_size": 32,
    "patch_size": 8,
}
SPEECH = {
    "vocab_size": 32,
    "hidden_size": WIDTH,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": HEADS,
    "intermediate_size": 2 * WIDTH,
    "conv_dim": (32, 32, 32),
    "conv_stride": (5, 2, 2),
    "conv_kernel": (10, 3, 3),
    "num_feat_extract_layers": 3,
    "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 4,
}
PAIR = {
    "vocab_size": WORDS,
    "d_model": WIDTH,
    "encoder_layers": LAYERS,
    "decoder_layers": LAYERS,
    "encoder_attention_heads": HEADS,
    "decoder_attention_heads": HEADS,
    "encoder_ffn_dim": 2 * WIDTH,
    "decoder_ffn_dim": 2 * WIDTH,
    "max_position_embeddings": POSITIONS,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "decoder_start_token_id": 2,
    "forced_eos_token_id": 2,
    "use_cache": False,
}
T5 = {
    "vocab_size": WORDS,
    "d_model": WIDTH,
    "d_kv": 16,
    "d_ff": 2 * WIDTH,
    "num_layers": LAYERS,
    "num_decoder_layers": LAYERS,
    "num_heads": HEADS,
    "use_cache": False,
    "decoder_start_token_id": 0,
}
GPT2 = {
    "vocab_size": WORDS,
    "n_positions": POSITIONS,
    "n_embd": WIDTH,
    "n_layer": LAYERS,
    "n_head": HEADS,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "use_cache": False,
}
TOWERS = {
    "text_config": {
        **{key: value for key, value in TEXT.items() if key != "pad_token_id"},
        "max_position_embeddings": 16,
        "projection_dim": 32,
        "bos_token_id": 1,
        "eos_token_id": 2,
    },
    "vision_config": {**IMAGE, "projection_dim": 32},
}

MASKED, CAUSAL, SEQ2SEQ = "AutoModelForMaskedLM", "AutoModelForCausalLM", "AutoModelForSeq2SeqLM"
SENTENCE, PICTURE = "AutoModelForSequenceClassification", "AutoModelForImageClassification"

DETECTOR = {
    "d_model": WIDTH,
    "encoder_layers": LAYERS,
    "decoder_layers": LAYERS,
    "encoder_attention_heads": HEADS,
    "decoder_attention_heads": HEADS,
    "encoder_ffn_dim": 2 * WIDTH,
    "decoder_ffn_dim": 2 * WIDTH,
    "num_queries": 10,
    "use_timm_backbone": False,
    "use_pretrained_backbone": False,
    "backbone": None,
}
