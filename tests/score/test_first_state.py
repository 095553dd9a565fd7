"""Each batch meets the model in its first state, whatever the runs before have left in it."""

import pytest
import torch
from torch import Tensor, nn

import secateur as sc

CRITERIA = ("activation-mean", "apoz", "taylor", "hessian", "fisher", "jacobian", "obs")


class Part(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 4, 1)


class TableBySize(Part):
    """As the anchors of YOLO heads."""

    def __init__(self) -> None:
        super().__init__()
        self.shape, self.table = None, torch.empty(0)

    def forward(self, x: Tensor) -> Tensor:
        y = self.a(x).relu()
        if self.shape != y.shape:
            self.table, self.shape = torch.arange(y.shape[-1]).to(y), y.shape
        return self.b(y * self.table)


class DictBySize(Part):
    def __init__(self) -> None:
        super().__init__()
        self.tables: dict[int, Tensor] = {}

    def forward(self, x: Tensor) -> Tensor:
        y = self.a(x).relu()
        if len(x) not in self.tables:
            self.tables[len(x)] = torch.linspace(1, 2, y.shape[-1]).to(y)
        return self.b(y * self.tables[len(x)])


class Memory(Part):
    """Adds the features of the run before."""

    def __init__(self) -> None:
        super().__init__()
        self.kept: list[Tensor] = []

    def forward(self, x: Tensor) -> Tensor:
        y = self.a(x).relu()
        if self.kept:
            y = y + self.kept[-1]
        self.kept.append(y)
        return self.b(y)


class CountingBuffer(Part):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("runs", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        self.runs += 1
        return self.b(self.a(x).relu() * self.runs)


class CountingTensor(Part):
    """Writes into a tensor that no state dict knows."""

    def __init__(self) -> None:
        super().__init__()
        self.runs = torch.zeros(2)

    def forward(self, x: Tensor) -> Tensor:
        self.runs[1] += 1
        return self.b(self.a(x).relu() * self.runs[1])


class Counter:
    runs = 0


class CountingObject(Part):
    def __init__(self) -> None:
        super().__init__()
        self.counter = Counter()

    def forward(self, x: Tensor) -> Tensor:
        self.counter.runs += 1
        return self.b(self.a(x).relu() * self.counter.runs)


KINDS = (TableBySize, DictBySize, Memory, CountingBuffer, CountingTensor, CountingObject)


def made(kind: type[nn.Module]) -> nn.Module:
    torch.manual_seed(0)
    return kind().eval()


def scores(model: nn.Module, criterion: str, data: list[Tensor]) -> dict[str, tuple[int, ...]]:
    found: dict[str, Tensor] = {}

    def note(view) -> Tensor:
        found[view.name] = chosen.score(view)
        return found[view.name]

    chosen = sc.criterion(criterion)
    noting = sc.criterion(criterion)
    object.__setattr__(noting, "score", note)
    sc.prune(model, data[0], ratio=0.5, criterion=noting, data=data, check=False)
    return found["a"]


@pytest.mark.parametrize("criterion", CRITERIA)
@pytest.mark.parametrize("kind", KINDS)
def test_a_batch_seen_twice_scores_as_seen_once(kind, criterion) -> None:
    x = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(1))
    once, twice = scores(made(kind), criterion, [x]), scores(made(kind), criterion, [x, x.clone(), x.clone()])
    torch.testing.assert_close(once, twice, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("steps", ["absorb", "refit", "batch-norm"])
@pytest.mark.parametrize("kind", KINDS)
def test_recovery_from_a_batch_twice_is_that_from_it_once(kind, steps) -> None:
    x = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(1))
    result = sc.prune(made(kind), x, ratio=0.5)
    once, twice = sc.recover(result, [x], steps).model, sc.recover(result, [x, x.clone()], steps).model
    for one, two in zip(once.parameters(), twice.parameters(), strict=True):
        torch.testing.assert_close(one, two, rtol=1e-4, atol=1e-5)
    for name, buffer in twice.named_buffers():
        assert torch.equal(buffer, result.model.get_buffer(name)), name


@pytest.mark.parametrize("kind", [TableBySize, DictBySize])
def test_a_model_that_ran_before_takes_batches_of_another_size(kind) -> None:
    x = torch.randn(2, 3, 4, 4)
    model = made(kind)
    fresh = made(kind)
    with torch.no_grad():
        model(x)
    batches = [x, torch.randn(5, 3, 4, 4)]
    torch.testing.assert_close(
        scores(model, "activation-mean", batches), scores(fresh, "activation-mean", batches)
    )
    recovered = [sc.recover(sc.prune(held, x, ratio=0.5), batches).model for held in (model, fresh)]
    for one, two in zip(*(held.parameters() for held in recovered), strict=True):
        torch.testing.assert_close(one, two, rtol=1e-4, atol=1e-5)


def test_a_second_run_with_other_numbers_does_not_count() -> None:
    """A first run that makes what the second adds up is another function, not a table found made."""

    class Adds(TableBySize):
        def forward(self, x: Tensor) -> Tensor:
            y = self.a(x).relu()
            if self.shape != y.shape:
                self.table, self.shape = torch.zeros(y.shape[-1]), y.shape
            else:
                self.table = self.table + 1
            return self.b(y + self.table)

    model, x = made(Adds), torch.randn(2, 3, 4, 4)
    model(x)
    with pytest.raises(sc.errors.PathError, match="batch 1"):
        sc.prune(model, x, ratio=0.5, criterion="activation-mean", data=[x, torch.randn(5, 3, 4, 4)])
