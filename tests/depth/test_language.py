"""Dropped layers of language models: caches, generation and configs, against models that are built anew."""

import copy

import pytest
import torch

import secateur as sc

transformers = pytest.importorskip("transformers")

TINY = {
    "vocab_size": 61,
    "hidden_size": 32,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 48,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": None,
}
SLIDING = ["sliding_attention", "full_attention"] * 2
SEQ2SEQ = {
    "vocab_size": 61,
    "d_model": 32,
    "encoder_layers": 3,
    "decoder_layers": 3,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 48,
    "decoder_ffn_dim": 48,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": None,
    "decoder_start_token_id": 2,
    "forced_eos_token_id": None,
}
GPT2 = {"vocab_size": 61, "n_positions": 64, "n_embd": 32, "n_layer": 4, "n_head": 4, "bos_token_id": 1}
CAUSAL = {
    "llama": (TINY, "model.layers"),
    "gemma3_text": (
        {
            **TINY,
            "head_dim": 8,
            "sliding_window": 4,
            "layer_types": ["sliding_attention", "full_attention"] * 2,
        },
        "model.layers",
    ),
    "gpt2": ({**GPT2, "eos_token_id": None, "pad_token_id": 0}, "transformer.h"),
    "bloom": (
        {
            **{key: TINY[key] for key in ("vocab_size", "hidden_size", "pad_token_id", "bos_token_id")},
            "n_layer": 4,
            "n_head": 4,
            "eos_token_id": None,
        },
        "transformer.h",
    ),
    "gpt_neo": (
        {
            "vocab_size": 61,
            "hidden_size": 32,
            "num_layers": 4,
            "num_heads": 4,
            "window_size": 4,
            "attention_types": [[["global", "local"], 2]],
            "max_position_embeddings": 64,
            "bos_token_id": 1,
            "eos_token_id": None,
            "pad_token_id": 0,
        },
        "transformer.h",
    ),
}
IDS = torch.randint(3, 61, (2, 9), generator=torch.Generator().manual_seed(1))
PROMPT = torch.randint(3, 61, (3, 12), generator=torch.Generator().manual_seed(2))
PADDED = torch.ones_like(PROMPT)
PADDED[0, :3], PADDED[1, :1] = 0, 0


def made(auto, kind, config):
    """A tiny model with weights in which no layer is close to nothing."""
    torch.manual_seed(0)
    model = auto.from_config(transformers.AutoConfig.for_model(kind, **config)).double().eval()
    with torch.no_grad():
        for held in model.parameters():
            held.copy_(torch.randn_like(held) * 0.25 + (held.dim() == 1))
    model.generation_config.eos_token_id = None
    return model


def words(model, **asked):
    given = {"inputs": PROMPT, "attention_mask": PADDED, "pad_token_id": 0, "do_sample": False}
    return model.generate(**given, max_new_tokens=6, min_new_tokens=6, **asked)


def logits(model, **given):
    with torch.no_grad():
        return model(**given).logits


def require_close(one, two):
    torch.testing.assert_close(one, two, rtol=1e-4, atol=1e-4)  # parts of them compute in float32


def rebuilt(model):
    """The same class from the config as it is saved, with the same weights."""
    config = type(model.config).from_dict(copy.deepcopy(model.config.to_dict()))
    other = type(model)(config).double().eval()
    other.load_state_dict(model.state_dict())
    return other


@pytest.mark.parametrize("which", [(0,), (1, 2), (3,)])
@pytest.mark.parametrize("kind", CAUSAL)
def test_a_shorter_decoder_is_the_one_that_its_config_builds(kind, which, tmp_path):
    config, layers = CAUSAL[kind]
    model = made(transformers.AutoModelForCausalLM, kind, config)
    result = sc.drop_blocks(model, {"input_ids": IDS}, blocks=[f"{layers}.{at}" for at in which])
    assert result.verdict.exact
    assert not result.notes
    cut = result.model
    assert cut.config.num_hidden_layers == 4 - len(which)
    assert model.config.num_hidden_layers == 4
    masked = copy.deepcopy(model)
    hooks = [
        masked.get_submodule(f"{layers}.{at}").register_forward_hook(
            lambda _, args, output: (args[0], *output[1:]) if isinstance(output, tuple) else args[0]
        )
        for at in which
    ]
    assert len(hooks) == len(which)
    expected = logits(cut, input_ids=IDS)
    require_close(logits(masked, input_ids=IDS), expected)
    require_close(logits(rebuilt(cut), input_ids=IDS), expected)
    cut.save_pretrained(tmp_path)
    saved = type(model).from_pretrained(tmp_path, dtype=torch.float64).eval()
    require_close(logits(saved, input_ids=IDS), expected)
    free = words(cut, use_cache=False)
    for asked in ({}, {"cache_implementation": "static"}, {"prefill_chunk_size": 5}):
        if kind == "gpt_neo" and "cache_implementation" in asked:
            continue  # as little as the original does
        assert torch.equal(words(cut, use_cache=True, **asked), free), asked
    helper = copy.deepcopy(cut)
    one = PROMPT[2:]
    given = {"inputs": one, "attention_mask": torch.ones_like(one), "pad_token_id": 0, "do_sample": False}
    plain = cut.generate(**given, max_new_tokens=6)
    assert torch.equal(cut.generate(**given, max_new_tokens=6, assistant_model=helper), plain)


@pytest.mark.parametrize("side", ["encoder", "decoder"])
@pytest.mark.parametrize("kind", ["bart", "pegasus"])
def test_encoder_and_decoder_are_counted_apart(kind, side):
    """Both have three layers in the config; only the number of one becomes less."""
    model = made(transformers.AutoModelForSeq2SeqLM, kind, SEQ2SEQ)
    given = {"input_ids": IDS, "decoder_input_ids": IDS[:, :7]}
    result = sc.drop_blocks(model, given, blocks=[f"model.{side}.layers.0"])
    assert result.verdict.passed
    cut = result.model
    counts = {"encoder": cut.config.encoder_layers, "decoder": cut.config.decoder_layers}
    assert counts == {"encoder": 3, "decoder": 3, side: 2}
    require_close(logits(rebuilt(cut), **given), logits(cut, **given))
    assert torch.equal(words(cut, use_cache=True), words(cut, use_cache=False))


def test_configs_of_their_own_are_renumbered_too():
    """T5 gives its decoder a copy of the config."""
    config = {
        "vocab_size": 61,
        "d_model": 32,
        "num_layers": 3,
        "num_decoder_layers": 3,
        "num_heads": 4,
        "d_kv": 8,
        "d_ff": 48,
        "pad_token_id": 0,
        "decoder_start_token_id": 0,
        "eos_token_id": None,
    }
    model = made(transformers.AutoModelForSeq2SeqLM, "t5", config)
    given = {"input_ids": IDS, "decoder_input_ids": IDS[:, :7]}
    result = sc.drop_blocks(model, given, blocks=["decoder.block.1"])
    cut = result.model
    assert (cut.config.num_layers, cut.config.num_decoder_layers) == (3, 2)
    assert (cut.decoder.config.num_layers, model.decoder.config.num_layers) == (2, 3)
    require_close(logits(rebuilt(cut), **given), logits(cut, **given))
    assert torch.equal(words(cut, use_cache=True), words(cut, use_cache=False))
    shared = sc.drop_blocks(model, given, blocks=["encoder.block.1"])
    assert any("generate fails with a cache" in limit for limit in shared.verdict.limits)


def test_thresholds_and_indices_of_layers_are_found_by_building():
    """Which layers are dense says a bound here and a list of numbers there."""
    experts = {"num_experts_per_tok": 2, "moe_intermediate_size": 16, "shared_expert_intermediate_size": 16}
    config = {**TINY, **experts, "num_experts": 4, "mlp_only_layers": [1, 3]}
    model = made(transformers.AutoModelForCausalLM, "qwen2_moe", config).float()
    result = sc.drop_blocks(model, {"input_ids": IDS}, blocks=["model.layers.0"])
    assert result.model.config.mlp_only_layers == [0, 2]
    assert not result.notes
    low = {"q_lora_rank": 8, "kv_lora_rank": 8, "qk_rope_head_dim": 8, "qk_nope_head_dim": 8, "v_head_dim": 8}
    config = {**TINY, **low, "num_key_value_heads": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
    config |= {"first_k_dense_replace": 2, "n_routed_experts": 4, "n_group": 1, "topk_group": 1}
    model = made(transformers.AutoModelForCausalLM, "deepseek_v3", config).float()
    result = sc.drop_blocks(model, {"input_ids": IDS}, blocks=["model.layers.1"])
    assert result.model.config.first_k_dense_replace == 1
    assert not result.notes


def test_what_a_config_cannot_say_is_told():
    """Layers keep their scale, which a model built anew would take from their number."""
    config = {**GPT2, "eos_token_id": None, "pad_token_id": 0, "scale_attn_by_inverse_layer_idx": True}
    model = made(transformers.AutoModelForCausalLM, "gpt2", config)
    result = sc.drop_blocks(model, {"input_ids": IDS}, blocks=["transformer.h.1"])
    scale = model.transformer.h[2].attn.scaling
    assert result.model.transformer.h[1].attn.scaling == scale
    assert result.verdict.exact
    assert "transformer.h.1.attn.scaling" in result.notes[0]
    assert torch.equal(words(result.model, use_cache=True), words(result.model, use_cache=False))


def test_a_model_inside_of_another_is_renumbered():
    class Wrapper(torch.nn.Module):
        def __init__(self, inner):
            super().__init__()
            self.inner = inner

        def forward(self, input_ids):
            return self.inner(input_ids=input_ids, use_cache=False).logits

    config, _ = CAUSAL["llama"]
    model = Wrapper(made(transformers.AutoModelForCausalLM, "llama", config))
    cut = sc.drop_blocks(model, IDS, blocks=["inner.model.layers.0"]).model.inner
    assert cut.config.num_hidden_layers == 3
    assert cut.model.config is cut.config
    assert torch.equal(words(cut, use_cache=True), words(cut, use_cache=False))


def test_heads_that_align_words_with_sounds_are_renumbered():
    config = {**SEQ2SEQ, "num_mel_bins": 8, "max_source_positions": 10, "max_target_positions": 32}
    config |= {"begin_suppress_tokens": None, "suppress_tokens": None}
    del config["max_position_embeddings"]
    model = made(transformers.AutoModelForSpeechSeq2Seq, "whisper", config)
    model.generation_config.alignment_heads = [[0, 1], [1, 3], [2, 2]]
    given = {"input_features": torch.randn(1, 8, 20, dtype=torch.float64), "decoder_input_ids": IDS[:1, :7]}
    cut = sc.drop_blocks(model, given, blocks=["model.decoder.layers.1"]).model
    assert cut.generation_config.alignment_heads == [[0, 1], [1, 2]]
    assert model.generation_config.alignment_heads == [[0, 1], [1, 3], [2, 2]]
    cut = sc.drop_blocks(model, given, blocks=["model.encoder.layers.1"]).model
    assert cut.generation_config.alignment_heads == [[0, 1], [1, 3], [2, 2]]
