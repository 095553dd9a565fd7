"""The models of the zoo benchmark: one module a family, each with `NAMES` and `make(name)`."""

FAMILIES = {
    "torchvision": "torchvision_models",
    "timm": "timm_models",
    "transformers": "transformers_types",
    "ultralytics": "ultralytics_models",
}
"""The module of each family."""
