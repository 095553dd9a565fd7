"""The callbacks in the trainers they are made for; each needs a library that secateur does not require."""

import copy

import pytest
import torch
from torch import nn
from torch.nn.utils import prune as torch_prune
from torch.nn.utils.fusion import fuse_conv_bn_eval

from secateur import mask
from secateur.errors import RequestError

SEEN = torch.linspace(-1, 1, 64).view(8, 8)
SELECT = ["*0", "*2"]
pytestmark = pytest.mark.filterwarnings("ignore")  # the trainers' own


def small():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 8))


def make(model, optimizer):
    return mask.Gradual(
        model, sparsity=0.5, begin=1, end=6, scope="global", select=SELECT, optimizer=optimizer
    )


def same(one, two):
    ours, theirs = one.state_dict(), two.state_dict()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


class Rows(torch.utils.data.Dataset):
    def __len__(self):
        return len(SEEN)

    def __getitem__(self, index):
        return {"x": SEEN[index]}


class Squares(nn.Module):
    """A model as the Trainer of Transformers wants it: it computes its loss."""

    _keys_to_ignore_on_save = None

    def __init__(self):
        super().__init__()
        self.net = small()

    def forward(self, x):
        return {"loss": (self.net(x) - x).square().mean()}


@pytest.fixture
def hf_fit(tmp_path):
    pytest.importorskip("accelerate")
    transformers = pytest.importorskip("transformers")

    def fit(model, *callbacks, **how):
        arguments = transformers.TrainingArguments(
            output_dir=str(tmp_path),
            max_steps=8,
            per_device_train_batch_size=4,
            save_steps=3,
            report_to=[],
            use_cpu=True,
            disable_tqdm=True,
        )
        transformers.Trainer(model, arguments, train_dataset=Rows(), callbacks=[*callbacks]).train(**how)
        return model

    return fit


def test_a_trainer_of_transformers_resumes_bit_by_bit(hf_fit, tmp_path):
    from secateur.mask.callbacks.transformers import MaskCallback

    start, callback = Squares(), MaskCallback(make)
    whole = hf_fit(copy.deepcopy(start), callback)
    assert callback.stepper.steps == 8
    assert mask.report(whole).sparsity == 0.5
    again = MaskCallback(make, select=SELECT)
    resumed = hf_fit(copy.deepcopy(start), again, resume_from_checkpoint=str(tmp_path / "checkpoint-3"))
    assert again.stepper.steps == 8
    same(whole, resumed)


def test_masks_of_a_checkpoint_are_not_lost_in_silence(hf_fit, tmp_path):
    from secateur.mask.callbacks.transformers import MaskCallback

    hf_fit(Squares(), MaskCallback(make))
    with pytest.raises(RequestError, match="masks of 2 tensors"):
        hf_fit(Squares(), MaskCallback(make), resume_from_checkpoint=str(tmp_path / "checkpoint-3"))


def test_a_dense_training_goes_on_with_masks_of_two_callbacks(hf_fit, tmp_path):
    from secateur.mask.callbacks.transformers import MaskCallback

    def second(model, optimizer):
        return mask.Gradual(model, sparsity=0.25, end=2, parameters=("bias",), optimizer=optimizer)

    model = hf_fit(Squares())
    callbacks = [MaskCallback(make), MaskCallback(second, name="biases")]
    hf_fit(model, *callbacks, resume_from_checkpoint=str(tmp_path / "checkpoint-3"))
    assert [callback.stepper.steps for callback in callbacks] == [5, 5]
    assert float((model.net[0].weight == 0).float().mean()) > 0.3
    assert int((model.net[0].bias == 0).sum()) == 4


@pytest.fixture
def lightning_fit(tmp_path):
    lightning = pytest.importorskip("lightning.pytorch")

    class Module(lightning.LightningModule):
        def __init__(self):
            super().__init__()
            self.net = small()

        def training_step(self, batch, index):
            return (self.net(batch) - batch).square().mean()

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=0.05, momentum=0.9)

    def fit(module, *callbacks, epochs=4, ckpt_path=None):
        module = module or Module()
        trainer = lightning.Trainer(
            max_epochs=epochs,
            callbacks=[*callbacks],
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            accelerator="cpu",
            default_root_dir=tmp_path,
        )
        rows = torch.utils.data.DataLoader(SEEN, batch_size=4)
        trainer.fit(module, rows, ckpt_path=ckpt_path, weights_only=True)
        trainer.save_checkpoint(tmp_path / f"{epochs}.ckpt")
        return module

    return fit


def test_a_lightning_callback_is_used_in_two_fits(lightning_fit):
    from secateur.mask.callbacks.lightning import MaskCallback

    module, callback = None, MaskCallback(make)
    for _ in range(2):
        module = lightning_fit(module, callback)
        assert callback.stepper.steps == 8
        assert mask.report(module).sparsity == 0.5
    copy.deepcopy(module)


def test_a_fit_of_lightning_goes_on_bit_by_bit(lightning_fit, tmp_path):
    from secateur.mask.callbacks.lightning import MaskCallback

    whole = lightning_fit(None, MaskCallback(make))
    lightning_fit(None, MaskCallback(make), epochs=2)
    again = MaskCallback(make, select=SELECT)
    resumed = lightning_fit(None, again, ckpt_path=tmp_path / "2.ckpt")
    assert again.stepper.steps == 8
    same(whole, resumed)


def test_a_mask_goes_where_batch_norm_is_fused_into_its_tensor():
    """As ultralytics does before it validates: a new parameter takes the place of the product."""
    torch.manual_seed(0)
    conv, norm = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4).eval()
    nn.init.uniform_(norm.running_var, 0.5, 2)
    mask.prune(conv, "l1", amount=0.5)
    conv.eval()
    x = torch.randn(2, 3, 8, 8)
    expected = norm(conv(x))
    fused = fuse_conv_bn_eval(conv, norm)
    torch.testing.assert_close(fused(x), expected)
    assert fused.weight.count_nonzero() == conv.weight_mask.count_nonzero()
    assert not torch_prune.is_pruned(fused)
    assert set(dict(fused.named_parameters())) == {"weight", "bias"}


def test_a_fused_mask_is_gone_for_all_who_ask_before_the_next_run():
    torch.manual_seed(0)
    conv, norm = nn.Conv2d(3, 4, 3).eval(), nn.BatchNorm2d(4).eval()
    mask.prune(conv, "l1", amount=0.5)
    fused = fuse_conv_bn_eval(conv, norm)
    mask.prune(fused, "identity")
    assert bool(fused.weight_mask.all())
    assert (fused.weight_orig == 0).sum() == 54
    assert torch_prune.is_pruned(fused)
    assert set(dict(fused.named_parameters())) == {"weight_orig", "bias"}


def test_a_masked_tensor_cannot_be_set_to_one_without_its_mask():
    layer = nn.Linear(4, 4)
    mask.prune(layer, "l1", amount=0.5)
    layer.weight = nn.Parameter(torch.ones(4, 4))
    with pytest.raises(RequestError, match="set to a parameter without the mask"):
        layer(torch.ones(1, 4))


def test_two_lightning_callbacks_have_states_of_their_own(lightning_fit):
    from secateur.mask.callbacks.lightning import MaskCallback

    def second(model, optimizer):
        return mask.Gradual(model, sparsity=0.25, end=2, parameters=("bias",), optimizer=optimizer)

    callbacks = [MaskCallback(make), MaskCallback(second, name="biases")]
    whole = lightning_fit(None, *callbacks)
    assert [callback.stepper.steps for callback in callbacks] == [8, 8]
    assert int((whole.net[0].bias == 0).sum()) == 4
    assert float((whole.net[0].weight == 0).float().mean()) > 0.3


@pytest.mark.slow
def test_a_trainer_of_ultralytics_masks_validates_and_saves(tmp_path):
    cv2 = pytest.importorskip("cv2")
    ultralytics = pytest.importorskip("ultralytics")
    from secateur.mask.callbacks.ultralytics import MaskCallbacks

    for part in ("train", "val"):
        for folder in ("images", "labels"):
            (tmp_path / folder / part).mkdir(parents=True)
        for at in range(8):
            pixels = torch.full((64, 64, 3), 30, dtype=torch.uint8)
            pixels[8:24, 4 * at : 4 * at + 16] = 220
            cv2.imwrite(str(tmp_path / "images" / part / f"{at}.png"), pixels.numpy())
            label = f"0 {(4 * at + 8) / 64} 0.25 0.25 0.25\n"
            (tmp_path / "labels" / part / f"{at}.txt").write_text(label)
    data = tmp_path / "data.yaml"
    data.write_text(f"path: {tmp_path}\ntrain: images/train\nval: images/val\nnames: {{0: box}}\n")

    def gradual(model, optimizer):
        return mask.Gradual(model, sparsity=0.7, end=3, scope="global", select=nn.Conv2d, optimizer=optimizer)

    model = ultralytics.YOLO("yolov8n.yaml")
    callbacks = MaskCallbacks(gradual, select=nn.Conv2d)
    callbacks.add_to(model)
    model.train(
        data=str(data), imgsz=64, epochs=2, batch=4, device="cpu", workers=0, project=str(tmp_path / "runs"),
        plots=False, verbose=False, amp=False,
    )  # fmt: skip
    assert callbacks.stepper.steps == 4
    assert mask.report(model.model).sparsity == pytest.approx(0.7, abs=1e-6)
    model.predict(str(tmp_path / "images" / "val" / "0.png"), verbose=False)
