"""Names that the field gives to widths: the one place where a name counts as evidence.

A name alone decides nothing: every width of the old number inside of the module must have become one and the
same.
"""

OF_TORCH = frozenset(
    {
        "in_channels",
        "out_channels",
        "in_features",
        "out_features",
        "num_features",
        "num_channels",
        "embedding_dim",
    }
)
"""Attributes of `torch.nn` that are widths."""

# fmt: off
OF_MODULES = OF_TORCH | {
    "c", "ch", "channels", "chs", "d_model", "dim", "embed_dim", "emb_dim", "feature_dim",
    "filters", "groups", "head_hidden_size", "hidden", "hidden_channels", "hidden_dim",
    "hidden_features", "hidden_size", "in_chs", "in_dim", "in_planes", "inner_channels",
    "inner_dim", "inplanes", "mid_channels", "mid_chs", "mid_features", "n_embd", "n_hidden",
    "num_filters", "num_hidden", "num_hiddens", "out_chs", "out_dim", "out_planes", "planes",
    "units", "width",
}
# fmt: on
"""A module's own width."""

OF_CLASSIFIER = frozenset({"num_features", "head_hidden_size", "embed_dim", "hidden_size"})
"""What timm calls the width that its classifiers read."""

OF_CONFIG = frozenset(
    {"d_ff", "decoder_ffn_dim", "encoder_ffn_dim", "ffn_dim", "intermediate_size", "n_inner"}
)
"""Fields that follow in the config that a model is saved by, in transformers for example: the inner widths of
feed-forward layers. A hidden size does not, because code divides it by the number of heads.
"""

OF_LISTS = {"feature_info": ("module", "num_chs")}
"""Lists that say of modules how wide their outputs are: the keys of an entry for its module and the width."""
