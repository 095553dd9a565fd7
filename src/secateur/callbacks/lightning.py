"""Channels and penalties as a callback of Lightning's `Trainer`."""

import importlib
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import nn

from secateur.callbacks.channels import ChannelSteps
from secateur.errors import CheckpointError, RequestError
from secateur.plans.plan import Plan
from secateur.write.pickles import require_short_names

# Without the library there is no Trainer to call us, and any base class will do.
_Base: Any = importlib.import_module("lightning.pytorch").Callback if find_spec("lightning") else object


class CutModule:
    """A LightningModule whose checkpoints hold the plans of the cut networks in it.

    `load_from_checkpoint` makes a fresh module, whose networks are uncut; they are cut before they are filled
    with the checkpoint's values. So it is where a fit, test or prediction starts from `ckpt_path`.

        class Classifier(CutModule, LightningModule): ...

    Example:
        >>> import secateur as sc
        >>> class Module(CutModule, nn.Module):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
        >>> module, fresh, checkpoint = Module(), Module(), {}
        >>> module.net = sc.prune(module.net, torch.zeros(1, 4), ratio=0.5).model
        >>> module.on_save_checkpoint(checkpoint)
        >>> fresh.on_load_checkpoint(checkpoint)
        >>> fresh.net[0]
        Linear(in_features=4, out_features=4, bias=True)
    """

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Write the plans down; called by Lightning."""
        _call_next(super(), "on_save_checkpoint", checkpoint)
        plans = {name: Plan.of(part) for name, part in _as_module(self).named_modules()}
        checkpoint[_PLANS] = {name: plan.to_json() for name, plan in plans.items() if plan is not None}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Cut what was cut; called by Lightning before it fills in the values.

        Raises:
            CheckpointError: A network is another one than the one that was cut.
        """
        module = _as_module(self)
        for name, text in checkpoint.get(_PLANS, {}).items():
            plan, network = (
                Plan.from_json(text, f"the checkpoint's plan of {name}"),
                module.get_submodule(name),
            )
            known = Plan.of(network)
            if known is None or not known.makes_what(plan):
                module.set_submodule(name, plan.apply(network))
        _call_next(super(), "on_load_checkpoint", checkpoint)


_PLANS = "secateur_plans"


def _as_module(module: Any) -> nn.Module:
    held: nn.Module = module
    return held


def _call_next(following: Any, name: str, checkpoint: dict[str, Any]) -> None:
    """Call a hook of the next class, if that has it."""
    hook = getattr(following, name, None)
    if hook is not None:
        hook(checkpoint)


class ChannelCallback(_Base):
    """Drives `ChannelSteps` from a `Trainer`.

    A fit with `ckpt_path` goes on where that one stood; the module is cut by it, with `prepare`, before.

    Args:
        steps: What is cut when; its `part` names the network inside of the LightningModule.
        name: Tells several callbacks of one trainer apart in its checkpoints.

    Raises:
        RequestError: `steps` names no part: a LightningModule itself cannot be recorded.
    """

    def __init__(self, steps: ChannelSteps, *, name: str = "channels") -> None:
        super().__init__()
        if not steps.part:
            what = "a LightningModule cannot be cut itself: it holds its trainer"
            raise RequestError(what, do='name the network inside of it: ChannelSteps(..., part="net")')
        self.steps, self.name = steps, name

    @property
    def state_key(self) -> str:
        """Where a checkpoint holds the state of this callback."""
        return f"secateur.{self.name}"

    def state_dict(self) -> dict[str, Any]:
        """What the trainer writes into its checkpoints."""
        return self.steps.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Called where a fit goes on from a checkpoint, before it starts."""
        self.steps.load_state_dict(state_dict)

    def prepare(self, pl_module: nn.Module, checkpoint: Path | str) -> None:
        """Cut a fresh module as the one of a checkpoint was, before a fit goes on from that.

        Raises:
            CheckpointError: The checkpoint says nothing of cuts.
        """
        require_short_names(Path(checkpoint))
        held = torch.load(checkpoint, map_location="cpu", mmap=True, weights_only=True)
        told = held.get("callbacks", {}).get(self.state_key)
        if told is None:
            do = "name a checkpoint of a fit with this callback"
            raise CheckpointError(f"{checkpoint} says nothing of cuts", do=do)
        self.steps.prepare(pl_module, told)

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Take note of what is trained; the optimizer exists by now."""
        if len(trainer.optimizers) != 1:
            what = f"the module has {len(trainer.optimizers)} optimizers"
            raise RequestError(what, do="drive ChannelSteps in a loop of your own")
        self.steps.attach(pl_module, trainer.optimizers[0])

    def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
        """Make the cut that is due."""
        self.steps.begin_epoch(trainer.current_epoch)

    def on_before_optimizer_step(self, trainer: Any, pl_module: Any, optimizer: Any) -> None:
        """Add the penalty; gradients are unscaled by now."""
        self.steps.pull(trainer.global_step / max(trainer.estimated_stepping_batches, 1))
