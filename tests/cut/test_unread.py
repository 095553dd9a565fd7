"""Integers that no record reads follow the cut where there is no doubt; what may be stale is told."""

import copy
from types import SimpleNamespace

import pytest
import torch
from torch import nn

import secateur as sc
from secateur import pipeline
from secateur.cut.unread import follow_unread, stale_integers
from secateur.settle import Settler


class Unit(nn.Module):
    def __init__(self, c1, c2, k=1):
        super().__init__()
        self.conv = nn.Conv2d(c1, c2, k, padding=k // 2)

    def forward(self, x):
        return self.conv(x).relu()


class Foldable(nn.Module):
    """Two branches that are folded into one by integers which forward does not read."""

    def __init__(self, width, hidden):
        super().__init__()
        self.in_chs, self.deep = width, hidden * 2
        self.one, self.three = nn.Conv2d(width, hidden, 1), nn.Conv2d(width, hidden, 3, padding=1)

    def forward(self, x):
        return self.one(x) + self.three(x)

    def folded(self):
        made = nn.Conv2d(self.in_chs, self.deep // 2, 3, padding=1)
        with torch.no_grad():
            made.weight.copy_(self.three.weight)
            made.weight[:, :, 1:2, 1:2] += self.one.weight
            made.bias.copy_(self.one.bias + self.three.bias)
        return made


class Split(nn.Module):
    """Like C2f of Ultralytics: the exporter sets the other forward, which reads another integer."""

    def __init__(self, c1, c2, e=0.5):
        super().__init__()
        self.c = int(c2 * e)
        self.cv1, self.cv2 = Unit(c1, 2 * self.c), Unit(3 * self.c, c2)
        self.m = Unit(self.c, self.c, 3)

    def forward(self, x):
        y = list(self.cv1(x).chunk(2, 1))
        return self.cv2(torch.cat([*y, self.m(y[-1])], 1))

    def forward_split(self, x):
        y = list(self.cv1(x).split((self.c, self.c), 1))
        return self.cv2(torch.cat([*y, self.m(y[-1])], 1))


class Headed(nn.Module):
    """Like timm's networks: the width of the features and a classifier that is made anew."""

    def __init__(self, width=12, classes=5):
        super().__init__()
        self.num_features = 2 * width
        self.body = nn.Sequential(Unit(3, width), Unit(width, self.num_features))
        self.fc = nn.Linear(self.num_features, classes)

    def get_classifier(self):
        return self.fc

    def reset_classifier(self, classes):
        self.fc = nn.Linear(self.num_features, classes)

    def forward(self, x):
        return self.fc(self.body(x).mean((2, 3)))


class Net(nn.Module):
    def __init__(self, block):
        super().__init__()
        self.stem, self.block, self.head = Unit(3, 8), block, nn.Conv2d(block_width(block), 2, 1)

    def forward(self, x):
        return self.head(self.block(self.stem(x)).relu())


def block_width(block):
    return block.cv2.conv.out_channels if isinstance(block, Split) else block.one.out_channels


@pytest.fixture
def x():
    return torch.randn(2, 3, 6, 6, generator=torch.Generator().manual_seed(0))


def test_branches_can_be_folded_after_the_cut(x):
    result = sc.prune(Net(Foldable(8, 10)).eval(), x, ratio=0.5)
    block = result.model.block
    assert (block.in_chs, block.deep) == (4, 10)
    inner = torch.randn(2, 4, 5, 5)
    torch.testing.assert_close(block.folded()(inner), block(inner), rtol=1e-4, atol=1e-5)
    assert (result.original.block.in_chs, result.original.block.deep) == (8, 20)


def test_an_exporter_may_set_another_forward(x):
    result = sc.prune(Net(Split(8, 12)).eval(), x, ratio=0.34)
    block = result.model.block
    assert block.c == block.cv1.conv.out_channels // 2 < 6
    other = copy.deepcopy(result.model)
    other.block.forward = other.block.forward_split
    torch.testing.assert_close(other(x), result.model(x))


def test_a_new_classifier_fits(x):
    result = sc.prune(Headed().eval(), x, ratio=0.5, scope="local")
    model = result.model
    assert model.num_features == model.fc.in_features == 12
    model.reset_classifier(7)
    assert model(x).shape == (2, 7)


def test_what_forward_reads_is_left_to_the_record(x):
    """The same integer read by code that needs the old number stays."""

    class Reading(Headed):
        def forward(self, x):
            return super().forward(x) * self.num_features

    result = sc.prune(Reading().eval(), x, ratio=0.5, scope="local")
    assert result.verdict.passed
    assert result.model.fc.in_features == 12
    assert result.model.num_features == 24


def test_widths_that_disagree_stay_and_are_told():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.width, self.loose = 8, 8
            self.a, self.b = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 1)

    known = {"a": {"out_channels": 4}, "b": {"in_channels": 4, "out_channels": 6}}
    assert follow_unread(Two(), known) == {}
    told = stale_integers(Two(), known)
    assert [one.partition(" =")[0] for one in told] == ["width", "loose"]
    assert "as wide as a was" in told[0]


def test_an_assignment_in_a_branch_or_a_loop_is_no_evidence():
    class Branching(nn.Module):
        def __init__(self, width, *, wide):
            super().__init__()
            inner = width
            if wide:
                inner = width + 4
            self.first = inner
            for _ in range(2):
                inner = inner + 1
            self.conv = nn.Conv2d(3, inner, 1)

    known = {"conv": {"out_channels": 7}}
    assert follow_unread(Branching(8, wide=False), known) == {}


def test_results_tell_what_may_be_stale(x):
    model = Headed().eval()
    model.strides = 12
    result = sc.prune(model, x, ratio=0.5, scope="local")
    assert [one.partition(" =")[0] for one in result.unchanged_integers] == ["strides"]


class Pyramid(nn.Module):
    """Like timm's networks, which say of some modules how wide their outputs are."""

    def __init__(self):
        super().__init__()
        self.stem, self.body, self.head = Unit(3, 8), Unit(8, 12), nn.Conv2d(12, 2, 1)
        self.feature_info = [
            {"module": "stem", "num_chs": 8, "reduction": 1},
            {"module": "body.conv", "num_chs": 12, "reduction": 1},
            {"module": "gone", "num_chs": 12, "reduction": 1},
        ]

    def forward(self, x):
        return self.head(self.body(self.stem(x)))


class Necked(nn.Module):
    """A network that reads the list of another one inside of it."""

    def __init__(self):
        super().__init__()
        self.backbone = Pyramid()
        self.tail = nn.Conv2d(2, 3, 1)

    def forward(self, x):
        return self.tail(self.backbone(x))


@pytest.mark.parametrize("kind", [Pyramid, Necked])
def test_lists_of_the_widths_of_modules_follow(x, kind, tmp_path):
    model = kind().eval()
    result = sc.prune(model, x, ratio=0.5, scope="local")
    name = "backbone" if kind is Necked else ""
    for cut in (result.model, sc.load(sc.save(result, tmp_path), kind())):
        assert [one["num_chs"] for one in cut.get_submodule(name).feature_info] == [4, 6, 12]
        assert [one["reduction"] for one in cut.get_submodule(name).feature_info] == [1, 1, 1]
    assert [one["num_chs"] for one in model.get_submodule(name).feature_info] == [8, 12, 12]
    (told,) = result.unchanged_integers
    assert told.startswith(f"{name}.feature_info.2.num_chs = 12, as wide as".lstrip("."))
    assert told.endswith("necks and decoders that are built by it may fail")


def test_a_width_in_a_list_is_not_taken_for_the_height_of_the_image():
    x = torch.zeros(2, 3, 8, 8)  # stem is 8 wide, as high and as broad as the image
    result = sc.prune(Pyramid().eval(), x, channels={"stem.conv": 0.5})
    assert [one["num_chs"] for one in result.model.feature_info] == [4, 12, 12]
    result = sc.prune(Pyramid().eval(), x, channels={"body.conv": 0.5})
    assert [one["num_chs"] for one in result.model.feature_info] == [8, 6, 12]


class Rows(nn.Module):
    """Brings its numbers into a row; with one channel left they lie in one, and no call is made."""

    def __init__(self):
        super().__init__()
        self.inner, self.stem, self.head = nn.Conv2d(3, 2, 1), nn.Conv2d(2, 8, 1), nn.Conv2d(8, 2, 1)
        self.feature_info = [{"module": "stem", "num_chs": 8}]

    def forward(self, x):
        y = self.inner(x).permute(0, 2, 3, 1).contiguous()
        return self.head(self.stem(y.permute(0, 3, 1, 2).contiguous()).relu())


def test_a_list_is_read_by_the_modules_of_a_record_that_lacks_calls():
    result = sc.prune(Rows().eval(), torch.rand(1, 3, 6, 6), channels={"inner": 0.5, "stem": 0.5})
    assert len(result.model.inner.weight) == 1
    assert result.model.feature_info == [{"module": "stem", "num_chs": 4}]


def test_a_list_that_names_an_identity_goes_by_all_widths_of_its_size(x):
    model = Pyramid().eval()
    model.gone = nn.Identity()
    result = sc.prune(model, x, ratio=0.5, scope="local")
    assert [one["num_chs"] for one in result.model.feature_info] == [4, 6, 6]
    assert result.unchanged_integers == ()


class Configured(nn.Module):
    """Like a model of transformers, which is saved by its config."""

    def __init__(self, config):
        super().__init__()
        self.config = config
        self.embed = nn.Linear(3, config.hidden_size)
        self.layers = nn.ModuleList(
            nn.ModuleList(
                [
                    nn.Linear(config.hidden_size, config.intermediate_size),
                    nn.Linear(config.intermediate_size, config.hidden_size),
                ]
            )
            for _ in range(2)
        )
        self.head = nn.Linear(config.hidden_size, 2)

    def save_pretrained(self):
        return dict(vars(self.config))

    def forward(self, x):
        x = self.embed(x)
        for up, down in self.layers:
            x = x + down(up(x).relu())
        return self.head(x)


def test_a_config_follows_where_all_layers_have_one_width_again():
    config = SimpleNamespace(hidden_size=8, intermediate_size=20, num_attention_heads=2)
    model, x = Configured(config).eval(), torch.randn(4, 3)
    result = sc.prune(model, x, ratio=0.5, scope="local")
    assert result.model.save_pretrained()["intermediate_size"] == 10
    assert result.model.layers[0][0].out_features == 10
    assert (config.hidden_size, config.intermediate_size) == (8, 20)
    # a model built from these numbers is the cut one (secateur.configs), so the hidden size follows, too
    assert result.model.config.hidden_size == 4
    assert result.unchanged_integers == ()


def test_a_config_of_layers_that_differ_stays_and_is_told():
    config = SimpleNamespace(hidden_size=8, intermediate_size=20, num_attention_heads=2)
    model, x = Configured(config).eval(), torch.randn(4, 3)
    result = sc.prune(model, x, channels={"layers.0.0": 0.5, "layers.1.0": 0.25})
    assert result.model.config.intermediate_size == 20
    assert any(one.startswith("config.intermediate_size = 20") for one in result.unchanged_integers)


class Deciding(nn.Module):
    """Its forward asks how wide its layer is, and takes another path if that has changed."""

    def __init__(self):
        super().__init__()
        self.one = nn.Conv2d(3, 8, 1)
        self.num_features = 8
        self.two = nn.Conv2d(8, 4, 1)

    def forward(self, x):
        y = self.one(x)
        return self.two(y if self.num_features == 8 else y.relu())


@pytest.mark.parametrize(("make", "tries"), [(lambda: Foldable(3, 8), 1), (Deciding, 2)])
def test_a_cut_is_recorded_once_unless_an_integer_changes_the_path(make, tries, x, monkeypatch):
    class Counted(Settler):
        made = 0

        def _try(self, *args):
            Counted.made += 1
            return super()._try(*args)

    monkeypatch.setattr(pipeline, "Settler", Counted)
    model = nn.Sequential(make(), nn.Conv2d(8 if make is not Deciding else 4, 2, 1)).eval()
    result = sc.prune(model, x, ratio=0.5)
    assert Counted.made == tries
    assert result.verdict.exact
    assert (result.plan.attributes.get("0", {}) == {}) == (make is Deciding)
