"""Channels cut step by step while a network is trained, and penalties that prepare the cuts.

Before some epochs the network is cut **in place**: a trainer holds on to the very objects that it was given,
so the network becomes what `prune` made of it, the optimizer takes over the new parameters with what it
remembers at the positions that stay (`secateur.carry`), and so do moving averages of the weights.

In a loop of one's own:

    steps = ChannelSteps(example_inputs, spread("ratio", 0.5, epochs=(2, 4, 6)))
    steps.attach(model, optimizer)
    for epoch in range(10):
        steps.begin_epoch(epoch)
        for batch in loader:
            ...
            loss.backward()
            steps.pull(progress)     # only with a penalty
            optimizer.step()
"""

import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from secateur.asking import Ask
from secateur.capture.unwrap import unwrap
from secateur.errors import EmptyCutError, NoEffectWarning, RequestError
from secateur.mask.schedule import step_schedules
from secateur.optimizers import carry
from secateur.penalise import Penalty
from secateur.pipeline import prune
from secateur.plans.plan import Plan
from secateur.recovery import choose as choose_steps
from secateur.result import Result
from secateur.score import require_data

_REMOVED = "ratio"
_LEFT = ("macs", "params", "size_bytes", "memory")


def spread(
    budget: str, value: float, epochs: Sequence[int], schedule: str = "agp"
) -> dict[int, dict[str, float]]:
    """Spread a budget over several cuts: what each of them is to be asked for.

    Args:
        budget: "ratio" (the share of the channels that goes), or "macs", "params", "size_bytes" or "memory"
            (the share that stays).
        value: The share in the end, above 0 and below 1.
        epochs: Before which epochs to cut, counted from 0, in rising order.
        schedule: "linear", "geometric" or "agp", as for `secateur.iterate`.

    Returns:
        By epoch the budget of its cut, as a share of what the cuts before have left.

    Raises:
        RequestError: One of them makes no sense.

    Example:
        >>> spread("ratio", 0.75, (3, 6), schedule="geometric")
        {3: {'ratio': 0.5}, 6: {'ratio': 0.5}}
        >>> spread("macs", 0.25, (3, 6), schedule="geometric")
        {3: {'macs': 0.5}, 6: {'macs': 0.5}}
    """
    if budget != _REMOVED and budget not in _LEFT:
        raise RequestError(
            f"a {budget} cannot be spread over steps", do=f"choose {', '.join((_REMOVED, *_LEFT))}"
        )
    if not 0 < value < 1:
        raise RequestError(f"{budget} is {value:g}", ["allowed: above 0 and below 1"], "pass a share")
    if not epochs or list(epochs) != sorted(set(epochs)) or epochs[0] < 0:
        raise RequestError(f"the epochs are {list(epochs)}", do="pass epochs from 0 on, in rising order")
    formula, end = step_schedules[schedule], value if budget == _REMOVED else 1 - value
    cuts, stays = {}, 1.0
    for step, epoch in enumerate(epochs, 1):
        left = (1 - formula(step / len(epochs), 0.0, end)) / stays
        stays *= left
        cuts[epoch] = {budget: 1 - left if budget == _REMOVED else left}
    return cuts


class ChannelSteps:
    """Cuts a network before some epochs of its training, and drives a penalty between the cuts.

    Args:
        example_inputs: As for `prune`.
        cuts: By epoch, counted from 0, the budget of the cut before it: `{3: {"ratio": 0.2}}`, or what
            `spread` returns. Empty for a penalty alone.
        penalty: Makes a penalty for a network, such as
            `lambda net: penalties["bn-l1"].of(net, sc.couple(net, x), 1e-4)`; made anew after each cut.
        part: Name of the network inside of the module that the trainer trains; "" for that module itself.
        data: Batches for criteria and recovery.
        **how: Further words of every `prune`, such as `criterion="taylor"` or `recover=["absorb", "refit"]`.

    Attributes:
        plan: All cuts so far as one plan from the network that was attached; None before the first.
        done: The epochs whose cuts are done.
        result: Of the last cut; its `original` is the network in training, which is cut by now.

    Raises:
        RequestError: Neither cuts nor a penalty were asked for, or a cut makes no sense or lacks data.
        TypeError: `prune` knows no such word.

    Example:
        >>> net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
        >>> optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
        >>> steps = ChannelSteps(torch.zeros(1, 4), {1: {"ratio": 0.5}})
        >>> steps.attach(net, optimizer)
        >>> for epoch in range(2):
        ...     _ = steps.begin_epoch(epoch)
        ...     net(torch.ones(1, 4)).sum().backward()
        ...     optimizer.step()
        >>> net[0].weight.shape, optimizer.state[net[0].weight]["momentum_buffer"].shape
        (torch.Size([4, 4]), torch.Size([4, 4]))
    """

    def __init__(
        self,
        example_inputs: Any,
        cuts: Mapping[int, Mapping[str, Any]] | None = None,
        *,
        penalty: Callable[[nn.Module], Penalty] | None = None,
        part: str = "",
        data: Iterable[Any] | None = None,
        **how: Any,
    ) -> None:
        if not cuts and penalty is None:
            raise RequestError("neither cuts nor a penalty were asked for", do="pass one of them")
        self.cuts = {
            epoch: Ask.of(**cut, **how).filled(has_data=data is not None)
            for epoch, cut in (cuts or {}).items()
        }
        for ask in self.cuts.values():  # better refused here than in the middle of a training
            require_data(ask.criterion, data is not None)
            choose_steps(ask.recover or (), has_data=data is not None)
        self.example_inputs, self.make_penalty, self.part = example_inputs, penalty, part
        self.data = None if data is None else list(data)
        self.plan: Plan | None = None
        self.done: tuple[int, ...] = ()
        self.result: Result | None = None
        self.penalty: Penalty | None = None

    def attach(
        self, model: nn.Module, optimizer: torch.optim.Optimizer | None, averages: Iterable[nn.Module] = ()
    ) -> None:
        """Say what is trained.

        Args:
            model: The module that the trainer trains; cut in place.
            optimizer: What trains it; None where that is made later.
            averages: Moving averages of the module, cut along.
        """
        self.model, self.optimizer = unwrap(model), None if optimizer is None else _inner(optimizer)
        self.averages = [unwrap(each) for each in averages]
        self._make_penalty()

    def begin_epoch(self, epoch: int) -> Result | None:
        """Make the cut that is due before an epoch, once; what was cut, or None.

        Args:
            epoch: Its number, from 0: how many are complete.
        """
        if epoch in self.done or epoch not in self.cuts:
            return None
        self.done = (*self.done, epoch)
        try:
            result = prune(self._network(self.model), self.example_inputs, self.cuts[epoch], data=self.data)
        except EmptyCutError as error:
            warnings.warn(f"before epoch {epoch} nothing was cut: {error}", NoEffectWarning, stacklevel=2)
            return None
        self._take(result)
        return result

    def pull(self, progress: float) -> None:
        """Add the penalty's subgradient, between the backward pass and the optimizer's step.

        Args:
            progress: Share of the training that is done, from 0 to 1.
        """
        if self.penalty is not None:
            self.penalty.step(progress)

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint must hold beside weights: which cuts are done, and their plan as JSON."""
        return {"done": list(self.done), "plan": None if self.plan is None else self.plan.to_json()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take up another's cuts, which the module must have already: see `prepare`.

        Raises:
            RequestError: The module was not prepared.
        """
        plan = None if state["plan"] is None else Plan.from_json(state["plan"])
        if plan != self.plan:
            what = f"the checkpoint was cut before epochs {state['done']}, the module as it is was not"
            raise RequestError(what, do="call prepare with the checkpoint before the training goes on")
        self.done = tuple(state["done"])

    def prepare(self, model: nn.Module, state: Mapping[str, Any]) -> None:
        """Cut an uncut module as it was when `state_dict` was taken, for a checkpoint to fit into it.

        Args:
            model: The module; cut in place.
            state: What `state_dict` returned.
        """
        self.plan = None if state["plan"] is None else Plan.from_json(state["plan"])
        self.load_state_dict(state)
        if self.plan is not None:
            network = self._network(model)
            become(network, self.plan.apply(network))

    def _network(self, model: nn.Module) -> nn.Module:
        return model.get_submodule(self.part)

    def _take(self, result: Result) -> None:
        """Put the cut network in the place of the uncut one, everywhere."""
        for average in self.averages:
            own = self._network(average)
            become(own, result.plan.apply(own))
        if self.optimizer is not None:
            self._carry(self.optimizer, result)
        become(self._network(self.model), result.model)
        self.plan = result.plan if self.plan is None else result.plan.after(self.plan)
        self.result = result
        self._make_penalty()

    def _carry(self, optimizer: torch.optim.Optimizer, result: Result) -> None:
        carried = carry(optimizer, result)
        for group, new in zip(optimizer.param_groups, carried.param_groups, strict=True):
            group["params"] = new["params"]
        optimizer.state.clear()
        optimizer.state.update(carried.state)

    def _make_penalty(self) -> None:
        if self.make_penalty is not None:
            self.penalty = self.make_penalty(self._network(self.model))


def become(model: nn.Module, other: nn.Module) -> None:
    """Make a module what another of its class is, so that all who hold it see the change.

    The two share all that they hold from then on.

    Args:
        model: Changed in place.
        other: What it becomes.

    Raises:
        RequestError: They are of two classes.

    Example:
        >>> layer = nn.Linear(4, 4)
        >>> become(layer, nn.Linear(4, 2))
        >>> layer
        Linear(in_features=4, out_features=2, bias=True)
    """
    if type(model) is not type(other):
        raise RequestError(
            f"a {type(model).__name__} cannot become a {type(other).__name__}",
            do="pass a module of its class",
        )
    object.__setattr__(model, "__dict__", vars(other))


def _inner(optimizer: Any) -> torch.optim.Optimizer:
    """The optimizer inside of a trainer's wrappers."""
    while isinstance(inner := vars(optimizer).get("optimizer"), torch.optim.Optimizer):
        optimizer = inner
    return optimizer
