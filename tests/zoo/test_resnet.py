import pytest
import torch

from secateur.zoo import models


@pytest.mark.parametrize(("name", "count"), [("resnet18", 11_173_962), ("resnet20", 272_474)])
def test_parameters_are_those_of_the_published_networks(name, count):
    assert sum(parameter.numel() for parameter in models[name]().parameters()) == count


@pytest.mark.parametrize(("name", "sizes"), [("resnet18", (32, 16, 8, 4)), ("resnet20", (32, 16, 8))])
def test_every_stage_but_the_first_halves_the_map(name, sizes):
    model, seen = models[name](width=1 / 16).eval(), []
    for stage in model.stages:
        model.get_submodule(stage).register_forward_hook(lambda _, __, out: seen.append(out.shape[-1]))
    with torch.inference_mode():
        model(torch.zeros(1, 3, 32, 32))
    assert tuple(seen) == sizes


def test_width_and_gamma():
    model = models["resnet20"](width=0.25, gamma=0.5)
    assert [model.get_submodule(stage)[0].conv1.out_channels for stage in model.stages] == [4, 8, 16]
    assert all(
        (value == 0.5).all() for name, value in model.named_parameters() if name.endswith("bn1.weight")
    )
