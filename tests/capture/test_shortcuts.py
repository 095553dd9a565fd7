"""Short ways of the recorder predict what the operators themselves give."""

import random

import pytest
import torch
from torch import nn
from torch._prims_common import suggest_memory_format
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from secateur.capture import capture, shortcuts
from secateur.capture.strides import is_channels_last, is_viewable, strides_of
from secateur.errors import CaptureError


class Joined(nn.Module):
    def __init__(self, dim, change):
        super().__init__()
        self.dim, self.change = dim, change

    def forward(self, *tensors):
        return torch.cat([self.change(tensor) for tensor in tensors], self.dim) * 1


def same(tensor):
    return tensor


@pytest.mark.parametrize(
    ("shapes", "dim", "change"),
    [
        (((2, 3, 4), (2, 5, 4)), 1, same),
        (((2, 3, 4), (2, 3, 1)), -1, same),
        (((2, 3), (4, 3), (1, 3)), 0, same),
        (((2, 3),), 1, same),
        (((0,), (2, 3)), 1, same),
        (((2, 3, 4), (2, 3, 4)), 1, lambda tensor: tensor.transpose(1, 2)),
        (((2, 3, 4, 5), (2, 6, 4, 5)), 1, lambda tensor: tensor.to(memory_format=torch.channels_last)),
        (((2, 3), (2, 3)), 1, lambda tensor: tensor.expand(4, 2, 3)),
    ],
)
def test_a_concatenation_has_the_shape_and_type_that_it_has_on_real_tensors(shapes, dim, change):
    model = Joined(dim, change)
    inputs = tuple(torch.zeros(shape) for shape in shapes)
    graphs = [capture(model, inputs, substrate) for substrate in ("fake", "real")]
    fake, real = ([graph.values[node.outputs[0].value] for node in graph.nodes] for graph in graphs)
    assert fake == real


def test_a_concatenation_of_two_types_is_of_the_wider_one():
    inputs = (torch.zeros(2, 3), torch.zeros(2, 3, dtype=torch.float64))
    graph = capture(Joined(1, same), inputs, "fake")
    assert graph.values[graph.outputs[0]].dtype == "float64"


@pytest.mark.parametrize(
    ("shapes", "dim"), [(((2, 3), (4, 3)), 1), (((2, 3), (2, 3)), 2), (((2, 3), (2,)), 0)]
)
def test_a_concatenation_that_does_not_fit_is_refused(shapes, dim):
    with pytest.raises(CaptureError, match="does not run"):
        capture(Joined(dim, same), tuple(torch.zeros(shape) for shape in shapes))


class Cache(nn.Module):
    """Starts from an empty tensor on the input's device, as the caches of language models do."""

    def forward(self, x):
        return torch.cat([torch.tensor([], dtype=x.dtype, device=x.device), x], -1)


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_a_tensor_made_on_the_inputs_device_is_recorded_on_fake_tensors(device):
    graph = capture(Cache(), torch.zeros(2, 3, device=device), "fake")
    assert graph.nodes[-1].op == "aten.cat"
    assert graph.values[graph.outputs[0]].shape == (2, 3)


CALLS = {
    "add": lambda x, y: x + y,
    "add of a row": lambda x, y: x + y[0],
    "add of a number": lambda x, y: x + 2,
    "sub of another rank": lambda x, y: x[0] - y,
    "mul of another type": lambda x, y: x * y.double(),
    "mul of integers": lambda x, y: x.long() * y.long(),
    "div of integers": lambda x, y: x.long() / 3,
    "add of a half and a float": lambda x, y: x.half() + y[0, 0, 0],
    "mul by a complex number": lambda x, y: x * 2j,
    "transposed sum": lambda x, y: x.transpose(1, 2) + y.transpose(1, 2),
    "gelu": lambda x, y: F.gelu(x, approximate="tanh"),
    "silu": lambda x, y: F.silu(x.transpose(0, 1)),
    "power": lambda x, y: x**2,
    "cat": lambda x, y: torch.cat([x, y], 1),
    "linear": lambda x, y: F.linear(x, y[0, 0], x[0, 0, :, 0]),
    "linear of a transpose": lambda x, y: F.linear(x.transpose(1, 2), y[0, 0], None),
    "linear of a row": lambda x, y: F.linear(x[0, 0, 0], y[0, 0]),
    "layer norm": lambda x, y: F.layer_norm(x, [5]),
    "layer norm of a transpose": lambda x, y: F.layer_norm(x.transpose(2, 3), [4], y[0, 0, :, 0], None),
    "layer norm over two": lambda x, y: F.layer_norm(x, [4, 5], y[0, 0]),
    "batch norm": lambda x, y: F.batch_norm(x, y[0, :, 0, 0], y[1, :, 0, 0].exp()),
    "batch norm of a transpose": lambda x, y: F.batch_norm(x.transpose(2, 3), y[0, :, 0, 0], y[1, :, 0, 0]),
    "cat of a transpose": lambda x, y: torch.cat([x[0].transpose(0, 1), y[0].transpose(0, 1)], 2),
    "cat of expanded rows": lambda x, y: torch.cat([x[0, :1].expand(2, -1, -1), y[0, :2]], 1),
    "cat of channels last": lambda x, y: torch.cat([x.to(memory_format=torch.channels_last), y], 1),
    "stack": lambda x, y: torch.stack([x, y], -2),
    "stack of a transpose": lambda x, y: torch.stack([x[0].transpose(0, 1), y[0].transpose(0, 1)]),
    "stack of channels last": lambda x, y: torch.stack([x.to(memory_format=torch.channels_last), y]),
    "clamp": lambda x, y: [x.clamp(0, 1), x.clamp(max=1), x.clamp_min(0.5), x.long().clamp(0, 2.5)],
    "activations": lambda x, y: [
        change(x.transpose(1, 2)) for change in (F.elu, F.selu, F.softplus, torch.log1p)
    ],
    "functions": lambda x, y: [
        change(x) for change in (torch.abs, torch.sin, torch.cos, torch.erf, torch.log)
    ],
    "functions of integers": lambda x, y: [
        change(x.long()) for change in (torch.abs, torch.sin, torch.log1p)
    ],
    "larger of a row": lambda x, y: [torch.maximum(x, y[0]), torch.minimum(x[0], y)],
    "one minus": lambda x, y: [1 - x.transpose(0, 1), 1 - x.half(), 1.5 - x.long()],
    "two types": lambda x, y: [
        x + y.long(),
        x.double() * y[0],
        x.half() - y,
        x.bool() + y,
        x.long() / y[0, 0],
    ],
    "a number of another type": lambda x, y: [
        x * y[0, 0, 0, 0].double(),
        x + torch.tensor(2),
        3 * x.sum().long(),
    ],
    "two types, transposed": lambda x, y: x.transpose(1, 2) + y.transpose(1, 2).long(),
    "comparisons": lambda x, y: [x < y, x[0] >= y, x.long() == 1, x.transpose(0, 1) != 2.5, x.half() > y],
    "logic": lambda x, y: [(x > 0) & (y > 0)[0], ~(x > 0), torch.logical_or(x > 0, y > 1), x.long() & 3],
    "chosen": lambda x, y: [
        torch.where(x > 0, x, y[0]),
        torch.where(x > 0, x, 1.0),
        torch.where(x > 0, 1, y),
    ],
    "chosen from two types": lambda x, y: torch.where(x > 0, x.double(), y),
    "filled": lambda x, y: [
        x.masked_fill(y[0] > 0, -1.5),
        x[0].masked_fill(y > 0, 1),
        x.long().masked_fill(y > 0, 2),
    ],
    "filled by the lowest": lambda x, y: x.transpose(1, 2).masked_fill(y.transpose(1, 2) > 0, float("-inf")),
    "rms norm": lambda x, y: [F.rms_norm(x, [5], y[0, 0, 0]), F.rms_norm(x, [4, 5])],
    "rms norm of a transpose": lambda x, y: F.rms_norm(x.transpose(1, 2), [5]),
    "log of a softmax": lambda x, y: [F.log_softmax(x, 1), F.log_softmax(x.transpose(1, 3), -1)],
    "doubles": lambda x, y: [x.double(), x.transpose(1, 2).double(), x.bool(), x.long().float()],
    "group norm": lambda x, y: F.group_norm(x, 3, y[0, :, 0, 0], y[1, :, 0, 0]),
    "group norm of channels last": lambda x, y: F.group_norm(x.to(memory_format=torch.channels_last), 3),
    "group norm of a pixel": lambda x, y: F.group_norm(x[..., :1, :1].contiguous(), 3),
    "group norm of a row": lambda x, y: F.group_norm(x.flatten(2), 1),
    "group norm of a transpose": lambda x, y: F.group_norm(x.transpose(2, 3), 1),
    "nearest, twice": lambda x, y: F.interpolate(x, scale_factor=2),
    "nearest by odd factors": lambda x, y: F.interpolate(x, scale_factor=(1.3, 0.7)),
    "nearest to a size": lambda x, y: F.interpolate(x, (7, 3)),
    "nearest of channels last": lambda x, y: F.interpolate(x.to(memory_format=torch.channels_last), (7, 3)),
    "nearest of a pixel": lambda x, y: F.interpolate(x[..., :1, :1].contiguous(), (2, 3)),
    "nearest of one channel": lambda x, y: F.interpolate(x[:, :1].contiguous(), (2, 3)),
    "bilinear": lambda x, y: F.interpolate(x, scale_factor=1.6, mode="bilinear"),
    "bilinear to a size": lambda x, y: F.interpolate(x, (7, 3), mode="bilinear", align_corners=True),
    "bilinear of channels last": lambda x, y: F.interpolate(
        x.to(memory_format=torch.channels_last), (7, 3), mode="bilinear"
    ),
    "expanded like another": lambda x, y: [x[:1].expand_as(y), torch.ops.aten.alias(x.transpose(0, 1))],
    "attention": lambda x, y: F.scaled_dot_product_attention(x, y[:, :, :3], y[:, :, :3]),
    "attention of transposes": lambda x, y: F.scaled_dot_product_attention(
        *(one.transpose(1, 2) for one in (x, y, y))
    ),
    "attention of pieces": lambda x, y: F.scaled_dot_product_attention(
        *torch.cat([x, y], 1).repeat(1, 1, 1, 3).view(2, 6, 4, 3, 5).permute(3, 0, 2, 1, 4).unbind()
    ),
    "attention under masks": lambda x, y: [
        F.scaled_dot_product_attention(x.transpose(1, 2), *[y.transpose(1, 2)] * 2, attn_mask=mask)
        for mask in (x[0, :, 0, :3] > 0, x[:, :1, 0, :3].unsqueeze(1), x[:1, :1, :1, :3])
    ],
    "attention, causal": lambda x, y: F.scaled_dot_product_attention(x, y, y, is_causal=True, scale=2.0),
    "attention that drops": lambda x, y: [
        F.scaled_dot_product_attention(one, y, y, dropout_p=0.1) for one in (x, x + 1)
    ],
    "attention that drops, transposed": lambda x, y: F.scaled_dot_product_attention(
        *(one.transpose(1, 2) for one in (x, y, y)), dropout_p=0.5
    ),
    "attention to narrow values": lambda x, y: F.scaled_dot_product_attention(x, y, y[..., :2]),
    "attention of three dims": lambda x, y: F.scaled_dot_product_attention(*(one[0] for one in (x, y, y))),
    "attention of shared heads": lambda x, y: F.scaled_dot_product_attention(
        x, y[:, :1], y[:, :1], enable_gqa=True
    ),
    "attention to one example": lambda x, y: F.scaled_dot_product_attention(x, y[:1], y[:1]),
    "attention in halves": lambda x, y: F.scaled_dot_product_attention(
        *(one.transpose(1, 2).bfloat16() for one in (x, y, y))
    ),
    "conv": lambda x, y: F.conv2d(x, y[:, :, :2, :3].contiguous(), padding=1),
    "conv of channels last": lambda x, y: F.conv2d(x.to(memory_format=torch.channels_last), y[:, :, :2, :3]),
    "matmul": lambda x, y: x @ y.transpose(2, 3),
    "matmul of a contiguous": lambda x, y: x @ y.transpose(2, 3).contiguous(),
    "einsum": lambda x, y: torch.einsum("bchw,dchw->bd", x, y),
    "softmax": lambda x, y: x.softmax(1),
    "softmax of a transpose": lambda x, y: x.transpose(1, 3).softmax(-1),
    "views": lambda x, y: x.flatten(1).unsqueeze(2).view(2, -1, 5, 1).transpose(1, 2).select(0, 1),
    "reshape that copies": lambda x, y: x.transpose(1, 2).reshape(2, -1),
    "reshapes": lambda x, y: [
        x.transpose(1, 2).reshape(2, -1),
        x.transpose(1, 2).reshape(2, 4, 15),
        x[:, :, 1:].reshape(-1, 5),
        x.permute(3, 0, 2, 1).reshape(5, 2, -1),
    ],
    "permuted": lambda x, y: [x.permute(3, -4, 2, 1), x.transpose(1, 2)[1:].permute(0, 2, 1, 3)],
    "pieces": lambda x, y: [*x.chunk(2, 1), *x.unbind(0), *x.split([1, 3], 2), *x.tensor_split([2], 3)],
    "slices": lambda x, y: x[:, 1:, ::2].permute(3, 0, 1, 2).squeeze(1),
    "unflatten": lambda x, y: x.unflatten(2, (2, 2)),
    "conv with strides": lambda x, y: F.conv2d(x, y[:, :, :2, :3].contiguous(), None, (2, 1), (1, 2), (1, 2)),
    "conv of groups": lambda x, y: F.conv2d(x, y[:, :1].reshape(2, 1, 4, 5)[[0, 1, 0]], groups=3),
    "conv of one pixel": lambda x, y: F.conv2d(x[:, :, :1, :1].contiguous(), y[:, :, :1, :1].contiguous()),
    "conv of one channel": lambda x, y: F.conv2d(x[:, :1].contiguous(), y[:, :1, :2, :2].contiguous()),
    "conv padded by a word": lambda x, y: F.conv2d(x, y[:, :, :3, :3].contiguous(), padding="same"),
    "conv of a picture": lambda x, y: F.conv2d(x[0], y[:, :, :2, :2].contiguous()),
    "conv of one dim": lambda x, y: F.conv1d(x[0], y[0, :, :, :2].contiguous(), stride=2, padding=3),
    "conv of three dims": lambda x, y: F.conv3d(x[None], y[None, :, :2, :2, :2].contiguous()),
    "relu in place": lambda x, y: x.mul(1).relu_(),
    "hardtanh in place": lambda x, y: F.hardtanh(x * 1, 0, 6, inplace=True),
    "silu in place on a transpose": lambda x, y: F.silu(x.mul(1).transpose(1, 3), inplace=True),
    "add in place": lambda x, y: x.mul(1).add_(y, alpha=2),
    "add of a row in place": lambda x, y: x.mul(1).add_(y[0]),
    "add of a number in place": lambda x, y: x.mul(1).add_(3),
    "add of doubles in place": lambda x, y: x.mul(1).add_(y.double()),
    "mul in place of integers": lambda x, y: x.long().mul_(2),
    "max pool": lambda x, y: F.max_pool2d(x, 3, 2, 1),
    "max pool, rounded up": lambda x, y: F.max_pool2d(x, 2, 2, ceil_mode=True),
    "max pool of a wide window": lambda x, y: F.max_pool2d(
        x, (2, 3), stride=(1, 2), padding=(1, 1), dilation=(2, 1)
    ),
    "max pool of channels last": lambda x, y: F.max_pool2d(x.to(memory_format=torch.channels_last), 2),
    "max pool of a picture": lambda x, y: F.max_pool2d(x[0], 2),
    "average pool": lambda x, y: F.avg_pool2d(x, 2, count_include_pad=False),
    "average pool, rounded up": lambda x, y: F.avg_pool2d(x, 3, 2, 1, True),
    "average pool by a divisor": lambda x, y: F.avg_pool2d(x, 2, 1, divisor_override=3),
    "adaptive pool": lambda x, y: F.adaptive_avg_pool2d(x, (3, 2)),
    "adaptive pool to a pixel": lambda x, y: F.adaptive_avg_pool2d(x, 1),
    "adaptive pool of one dim": lambda x, y: F.adaptive_avg_pool2d(x, (None, 1)),
    "mean": lambda x, y: x.mean((2, 3)),
    "mean that keeps": lambda x, y: x.mean(-1, keepdim=True),
    "mean in doubles": lambda x, y: x.mean((1,), dtype=torch.float64),
    "mean of a transpose": lambda x, y: x.transpose(1, 3).mean(1),
    "mean of all": lambda x, y: x.mean(),
    "embedding": lambda x, y: F.embedding(torch.tensor([[1, 0, 2]]), y[0, 0]),
    "embedding of a transpose": lambda x, y: F.embedding(torch.tensor([1, 0]), y[0, 0].t()),
    "sum of a transpose and a contiguous": lambda x, y: x.transpose(1, 3) + y[:, :1, :1, :1],
    "product of a row and channels last": lambda x, y: (
        y[0, :, :1, :1] * x.to(memory_format=torch.channels_last)
    ),
    "neg of a slice": lambda x, y: -x.transpose(1, 2)[..., 2:],
    "add in place to channels last": lambda x, y: x.to(memory_format=torch.channels_last).add_(y),
    "addmm": lambda x, y: torch.addmm(y[0, 0, 0], x[0, 0], y[0, 0].t() @ y[0, 0]),
    "addmm of a transpose": lambda x, y: torch.addmm(y[0, 0, :, 0], x[0, 0], y[0, 0].t()),
    "addmm of matrices": lambda x, y: torch.addmm(y[0, 0], x[0, 0, :, :4], y[0, 0], beta=2),
    "expand": lambda x, y: x[:, :1].expand(-1, 4, -1, -1),
    "expand of a row": lambda x, y: x[0, 0].expand(2, 3, 4, 5).flatten(0, 1),
    "detach": lambda x, y: x.transpose(1, 2).detach(),
    "placed": lambda x, y: x.to(device="cpu", dtype=torch.float32),
    "placed with another type": lambda x, y: x.to(device="cpu", dtype=torch.float64),
    "placed, copied": lambda x, y: x.transpose(1, 2).to(device="cpu", copy=True),
    "neg": lambda x, y: -x,
    "relu in place in channels last": lambda x, y: x.to(memory_format=torch.channels_last).relu_(),
    "bmm": lambda x, y: x[0].bmm(y[0].transpose(1, 2).contiguous()),
    "matmul of a row": lambda x, y: x[0, 0, 0] @ y[0, 0].t(),
    "dropout": lambda x, y: F.dropout(x, 0.5, training=False),
    "dropout in training": lambda x, y: F.dropout(x, 0.5),
    "dropout of a transpose": lambda x, y: F.dropout(x.transpose(1, 3), 0.5),
    "dropout of nothing": lambda x, y: F.dropout(x, 0.0),
    "the same type": lambda x, y: x.to(torch.float32),
    "the same type, copied": lambda x, y: x.transpose(1, 2).to(torch.float32, copy=True),
    "dense of a transpose": lambda x, y: x.transpose(1, 2).contiguous(),
    "dense in channels last": lambda x, y: x.contiguous(memory_format=torch.channels_last),
}


@pytest.mark.parametrize(("device", "is_kept"), [("cpu", True), ("cuda", False)])
def test_a_norm_over_groups_keeps_channels_last_on_a_cpu_alone(device, is_kept):
    with FakeTensorMode(), torch.inference_mode(), ShortWays():
        x = torch.empty(2, 4, 3, 3, device=device, memory_format=torch.channels_last)
        made = F.group_norm(x, 2)
    assert made.is_contiguous(memory_format=torch.channels_last) == is_kept
    assert (made.device.type, made.is_contiguous()) == (device, not is_kept)


@pytest.mark.parametrize("seed", range(4))
def test_channels_last_are_told_as_pytorch_does(seed):
    numbers = random.Random(seed)
    for _ in range(300):
        shape = [numbers.choice([1, 1, 2, 3]) for _ in range(numbers.choice([3, 4, 4, 5]))]
        tensor = scattered(numbers, shape)
        wanted = suggest_memory_format(tensor) is not torch.contiguous_format
        assert is_channels_last(tensor) == wanted, (tensor.shape, tensor.stride())


@pytest.mark.parametrize("seed", range(4))
def test_what_can_be_viewed_is_told_as_pytorch_does(seed):
    numbers, seen = random.Random(seed), set()
    for _ in range(500):
        tensor = scattered(numbers, [numbers.choice([1, 2, 2, 3, 4]) for _ in range(numbers.randint(0, 4))])
        factors = [factor for size in tensor.shape for factor in ((2, 2) if size == 4 else (size,))]
        shape = [1] * numbers.randint(0, 2)
        for factor in factors:
            if shape and numbers.random() < 0.5:
                shape[-1] *= factor
            else:
                shape.append(factor)
        try:
            is_view = tensor.view(shape) is not None
        except RuntimeError:
            is_view = False
        seen.add(is_view)
        assert is_viewable(tensor, shape) == is_view, (tensor.shape, tensor.stride(), shape)
    assert len(seen) == 2


def scattered(numbers, shape):
    """A tensor that can be broadcast to a shape, its dims in any order, with gaps and repeats in memory."""
    sizes = [1 if numbers.random() < 0.2 else size for size in shape]
    sizes = sizes[numbers.choice([0, 0, 0, 1, len(sizes)]) :]
    order = numbers.sample(range(len(sizes)), len(sizes))
    tensor = torch.zeros([sizes[at] * numbers.choice([1, 1, 2]) for at in order])
    for dim, at in enumerate(order):
        step = numbers.choice([1, tensor.shape[dim] // sizes[at]])
        tensor = tensor[(slice(None),) * dim + (slice(0, sizes[at] * step, step),)]
    tensor = tensor.permute([order.index(at) for at in range(len(sizes))])
    return tensor.expand(shape) if numbers.random() < 0.1 else tensor


@pytest.mark.parametrize("seed", range(12))
def test_element_wise_results_are_laid_out_as_tensor_iterator_does(seed):
    numbers, seen = random.Random(seed), 0
    for _ in range(200):
        shape = [numbers.choice([1, 1, 2, 3, 4]) for _ in range(numbers.randint(1, 5))]
        tensors = [scattered(numbers, shape) for _ in range(numbers.randint(1, 3))]
        if not all(tensor.is_contiguous() for tensor in tensors):
            call = (torch.neg, torch.add, torch.addcmul)[len(tensors) - 1]
            real, seen = call(*tensors), seen + 1
            assert tuple(strides_of(real.shape, tensors)) == real.stride(), [one.stride() for one in tensors]
    assert seen > 50


class ShortWays(TorchDispatchMode):
    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        return shortcuts.run(func, args, kwargs or {})


def laid_out(result):
    parts = result if isinstance(result, (list, tuple)) else [result]
    return [(part.shape, part.stride(), part.dtype, part.device, part.storage_offset()) for part in parts]


@pytest.mark.parametrize("name", CALLS)
def test_a_short_way_lays_out_its_result_as_the_operator_does(name):
    x, y = torch.randn(2, 3, 4, 5), torch.randn(2, 3, 4, 5)
    with torch.inference_mode():
        real = CALLS[name](x, y)
        with FakeTensorMode() as mode:
            inputs = [mode.from_tensor(tensor) for tensor in (x, y)]
            with ShortWays():
                fake = CALLS[name](*inputs)
    assert laid_out(fake) == laid_out(real)


@pytest.mark.parametrize(
    "call",
    [
        lambda x: x.relu_(),
        lambda x: x.add_(x[0]),
        lambda x: F.dropout(x, 0.5, training=False),
        lambda x: F.dropout(x, 0.0, training=True),
        lambda x: x.to(torch.float32),
        lambda x: torch.ops.aten.to.dtype_layout(x, dtype=torch.float32, layout=torch.strided),
        lambda x: x.contiguous(),
    ],
)
def test_what_is_written_in_place_or_left_alone_is_the_tensor_itself(call):
    with FakeTensorMode(), torch.inference_mode(), ShortWays():
        x = torch.empty(2, 3, 4)
        assert call(x) is x


@pytest.mark.parametrize(
    "call",
    [
        lambda x: F.conv2d(x, x.new_zeros(2, 3, 5, 6)),
        lambda x: F.conv1d(x, x.new_zeros(4, 3, 1, 1)),
        lambda x: F.max_pool2d(x, 2, padding=2),
        lambda x: F.max_pool2d(x, 7),
        lambda x: x.mean((1, 1)),
        lambda x: x.mean(4),
        lambda x: x.long().mean(1),
        lambda x: x.add_(x.new_zeros(2, 2, 3, 4, 5)),
        lambda x: x @ x,
        lambda x: torch.addmm(x[0, 0, 0], x[0, 0], x[0, 0]),
        lambda x: F.dropout(x, 1.5, training=False),
        lambda x: F.embedding(torch.tensor([0.5]), x[0, 0]),
        lambda x: F.linear(x, x.new_zeros(7, 4)),
        lambda x: F.linear(x, x.new_zeros(7, 5), x.new_zeros(6)),
        lambda x: F.layer_norm(x, [4]),
        lambda x: F.batch_norm(x, x.new_zeros(4), x.new_zeros(4)),
        lambda x: x + x.new_zeros(2, 3, 4, 6),
        lambda x: torch.cat([x, x.new_zeros(2, 3, 4, 6)], 1),
        lambda x: F.conv2d(x, x.new_zeros(2, 4, 1, 1)),
        lambda x: x.view(2, 7, -1),
        lambda x: F.interpolate(x, (0, 3)),
        lambda x: F.scaled_dot_product_attention(x, x, x, attn_mask=x[0, 0, :, :4], is_causal=True),
        lambda x: F.scaled_dot_product_attention(x, x[..., :4], x),
        lambda x: F.scaled_dot_product_attention(x, x, x, attn_mask=x[0, 0, :, :3]),
        lambda x: x.reshape(7, -1),
        lambda x: x.transpose(1, 2).reshape(-1, 7),
        lambda x: x.permute(0, 1, 2),
        lambda x: x.masked_fill(x[:, :2] > 0, 0.0),
        lambda x: F.rms_norm(x, [4]),
        lambda x: x > x[:, :2],
        lambda x: F.group_norm(x, 2),
        lambda x: F.group_norm(x, 3, x.new_zeros(4)),
        lambda x: torch.stack([x, x.new_zeros(2, 3, 4, 6)]),
        lambda x: torch.stack([x, x], 6),
        lambda x: x[:1].expand_as(x.new_zeros(2, 4, 4, 5)),
    ],
)
def test_a_short_way_refuses_what_the_operator_refuses(call):
    with pytest.raises(CaptureError, match="does not run"):
        capture(Called(call), torch.zeros(2, 3, 4, 5), "fake")


class Called(nn.Module):
    def __init__(self, call):
        super().__init__()
        self.call = call

    def forward(self, x):
        return self.call(x)


def test_a_view_shares_the_storage_of_what_it_shows():
    with FakeTensorMode(), torch.inference_mode(), ShortWays():
        x = torch.empty(2, 3, 4)
        views = [x.view(6, 4), x.transpose(0, 1), x[0], x.flatten(1), *x.unbind(1)]
        assert all(view.untyped_storage()._cdata == x.untyped_storage()._cdata for view in views)


@pytest.mark.parametrize("outputs", [12, 14])
def test_a_grouped_product_in_float32_is_predicted_as_a_cpu_makes_it(outputs):
    class Grouped(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.randn(2, outputs, 8))
            self.register_buffer("ends", torch.tensor([2, 6], dtype=torch.int32))

        def forward(self, x):
            return torch._grouped_mm(x, self.weight.transpose(1, 2), offs=self.ends).contiguous() + 1

    model, x = Grouped(), torch.randn(6, 8)
    real = capture(model, x, "real")
    for found in (capture(model, x), capture(model.to("meta"), x.to("meta"))):
        assert found.substrate == "fake"
        assert [node.op for node in found.nodes] == [node.op for node in real.nodes]
        assert [value.shape for value in found.values] == [value.shape for value in real.values]
