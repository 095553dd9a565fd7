import pytest
import torch

import secateur as sc
from secateur.errors import RequestError
from secateur.pairing import pair
from secateur.zoo import models

X = torch.zeros(1, 1, 8, 8)


@pytest.fixture
def dense():
    torch.manual_seed(0)
    return models["vgg11"](width=0.125, in_channels=1, image_size=8).eval()


@pytest.fixture
def images():
    torch.manual_seed(1)
    return [torch.randn(64, 1, 8, 8) for _ in range(2)]


def equal(one, other):
    return all(
        torch.equal(a, b) for a, b in zip(one.state_dict().values(), other.state_dict().values(), strict=True)
    )


def test_a_loaded_model_recovers_as_a_fresh_result_does(dense, images, tmp_path):
    fresh = sc.prune(dense, X, ratio=0.5)
    sc.save(fresh, tmp_path)
    loaded = sc.load(tmp_path, dense)
    plan = sc.Plan.from_json((tmp_path / "plan.json").read_text())
    result = pair(dense, loaded, plan, X)
    assert (result.before, result.after) == (fresh.before, fresh.after)
    one, other = (sc.recover(given, images, ["absorb", "refit"]) for given in (fresh, result))
    assert equal(one.model, other.model)
    assert [row.after for row in one.errors] == [row.after for row in other.errors]


def test_two_cuts_in_a_row_pair_with_the_first_model_and_with_the_last(dense, images):
    first = sc.prune(dense, X, ratio=0.3)
    second = sc.prune(first.model, X, ratio=0.3)
    plan = second.plan.after(first.plan)
    for original in (dense, first.model):
        result = pair(original, second.model, plan, X)
        better = sc.recover(result, images, ["refit"])
        assert better.errors[0].after < 0.5 * better.errors[0].before


def test_models_that_do_not_belong_together_are_refused(dense):
    cut = sc.prune(dense, X, ratio=0.5)
    other = models["vgg11"](width=0.25, in_channels=1, image_size=8)
    with pytest.raises(RequestError, match="was not cut from this VGG"):
        pair(other, cut.model, cut.plan, X)
    with pytest.raises(RequestError, match="does not lead from the original to the cut model"):
        pair(dense, dense, cut.plan, X)
    dropped = cut.plan.model_copy(update={"dropped": ("feature.4",)})
    with pytest.raises(RequestError, match=r"blocks of the model were dropped: feature\.4"):
        pair(dense, cut.model, dropped, X)


def test_a_paired_model_that_was_recovered_absorbs_nothing_more(dense, images):
    done = sc.recover(sc.prune(dense, X, ratio=0.5), images, ["absorb"])
    result = pair(dense, done.model, done.plan, X)
    with pytest.raises(
        RequestError, match="'absorb' is for a fresh cut, and the model was recovered or trained"
    ):
        sc.recover(result, images, ["absorb"])
    assert [one.step for one in sc.recover(result, images).errors] == ["refit"]
