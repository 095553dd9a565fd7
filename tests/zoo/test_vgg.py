import pytest
import torch
from torch import nn

from secateur.zoo import models


def parameters(model):
    return sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize(
    ("name", "plain", "with_bias"), [("vgg16", 14_724_042, 14_728_266), ("vgg19", 20_035_018, 20_040_522)]
)
def test_parameters_are_those_of_the_published_networks(name, plain, with_bias):
    assert parameters(models[name]()) == plain
    assert parameters(models[name](bias=True)) == with_bias


@pytest.mark.parametrize("image_size", [8, 28, 32])
@pytest.mark.parametrize("in_channels", [1, 3])
@pytest.mark.parametrize("name", list(models))
def test_every_model_takes_every_image_size(name, in_channels, image_size):
    model = models[name](width=1 / 16, in_channels=in_channels, num_classes=7, image_size=image_size).eval()
    with torch.inference_mode():
        logits = model(torch.randn(2, in_channels, image_size, image_size))
    assert logits.shape == (2, 7)
    assert logits.isfinite().all()


@pytest.mark.parametrize("name", [name for name in models if name.startswith("vgg")])
def test_state_dict_names_do_not_depend_on_the_image_size(name):
    small, large = (models[name](width=1 / 16, image_size=size).state_dict() for size in (8, 32))
    assert list(small) == list(large)
    assert next(iter(large)) == "feature.0.weight"
    assert "classifier.bias" in large


def test_gamma_sets_every_batch_norm_scale():
    scales = [m.weight for m in models["vgg13"](gamma=0.5).modules() if isinstance(m, nn.BatchNorm2d)]
    assert len(scales) == 10
    assert all((scale == 0.5).all() for scale in scales)


def test_width_multiplies_the_channels_and_never_reaches_zero():
    convolutions = [m for m in models["vgg11"](width=0.25).feature if isinstance(m, nn.Conv2d)]
    assert [m.out_channels for m in convolutions] == [16, 32, 64, 64, 128, 128, 128, 128]
    assert all(m.bias is None for m in convolutions)
    assert min(m.out_channels for m in models["vgg11"](width=1e-6).feature if isinstance(m, nn.Conv2d)) == 1
