"""`secateur prune`: cut a model to a budget, prove it, save it."""

from dataclasses import replace
from typing import Annotated, Any

import torch
import typer
from torch import nn

from secateur.cli.app import commands
from secateur.cli.options import (
    AsJson,
    DataDir,
    Device,
    Download,
    InputShape,
    Macs,
    Memory,
    ModelArguments,
    ModelWord,
    Params,
    Save,
    Seed,
    SizeBytes,
    command_line,
    emit,
    example_input,
    load_data,
    model_arguments,
    open_placed,
    require_other_folder,
    say,
)
from secateur.domains.classification.images import labelled
from secateur.errors import RequestError
from secateur.explanation import explain
from secateur.penalise.scales import prunable_scales
from secateur.penalise.sparsity import near_zero_share
from secateur.pipeline import couple
from secateur.pipeline import prune as prune_model
from secateur.result import Result
from secateur.score import choose
from secateur.score.aggregate import aggregates
from secateur.score.criterion import criteria
from secateur.score.normalise import normalisers
from secateur.train.checkpoint import last_folder
from secateur.write.checkpoint import load_state, read_state, save_model


@commands("prune")
def prune(
    model: ModelWord,
    save: Save,
    arg: ModelArguments = None,
    weights: Annotated[
        str | None, typer.Option(help="State dict to fill the architecture with: .safetensors, or .pth.")
    ] = None,
    ratio: Annotated[
        float | None, typer.Option(help="Share of channels to remove, from 0 to below 1.")
    ] = None,
    macs: Macs = None,
    params: Params = None,
    size_bytes: SizeBytes = None,
    memory: Memory = None,
    latency_ms: Annotated[
        str | None,
        typer.Option(help="Milliseconds that a forward pass may take on this machine, or a share: 50%."),
    ] = None,
    channels: Annotated[
        list[str] | None, typer.Option(help="Share to remove by group, 'layer4.*=0.8'; may be repeated.")
    ] = None,
    criterion: Annotated[str, typer.Option(help=f"How channels are scored: {', '.join(criteria)}.")] = "l2",
    option: Annotated[
        list[str] | None, typer.Option(help="Option of the criterion, such as n=1.5 of ln; may be repeated.")
    ] = None,
    aggregate: Annotated[
        str | None, typer.Option(help=f"How the layers of a group are joined: {', '.join(aggregates)}.")
    ] = None,
    normalise: Annotated[
        str | None, typer.Option(help=f"How groups compare: {', '.join(normalisers)}.")
    ] = None,
    scope: Annotated[str, typer.Option(help="global, local or isomorphic.")] = "global",
    min_keep: Annotated[float, typer.Option(help="Share of each group that always stays.")] = 0.1,
    round_to: Annotated[int, typer.Option(help="Round kept counts up to a multiple of this.")] = 1,
    protect: Annotated[
        list[str] | None, typer.Option(help="Module or parameter pattern to keep whole; may be repeated.")
    ] = None,
    axes: Annotated[
        str, typer.Option(help="Where two axes multiply (heads and widths), cut: heads, widths or both.")
    ] = "heads",
    recover: Annotated[
        list[str] | None,
        typer.Option(
            help="Recovery steps after the cut: absorb, refit, batch-norm; 'absorb,refit' or repeated."
        ),
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(
            help="Images for criteria (with labels) and recovery (without): digits, fashion-mnist, mnist, ..."
        ),
    ] = None,
    images: Annotated[
        int | None, typer.Option(min=1, help="How many training images of --data to draw; 1024 of itself.")
    ] = None,
    data_dir: DataDir = None,
    download: Download = False,
    check: Annotated[bool, typer.Option(help="Prove that masked == cut.")] = True,
    why: Annotated[bool, typer.Option("--explain", help="Say of each group why it has its width.")] = False,
    input_shape: InputShape = None,
    seed: Seed = 0,
    device: Device = "auto",
    as_json: AsJson = False,
) -> None:
    """Cut channels out of a model, prove the result and save it.

    Example: secateur prune runs/sparse --ratio 0.7 --criterion bn-scale --recover absorb,refit --data digits
    --save runs/pruned
    """
    require_other_folder(model, save)
    if last_folder(save) is not None:
        raise RequestError(
            f"{save} holds a training run", do="name another folder: its weights would be lost"
        )
    torch.manual_seed(seed)  # fresh weights are drawn
    opened = open_placed(model, model_arguments(arg), seed, device)
    if weights is not None:
        load_state(opened.model, read_state(weights), weights)
    if data is None and images is not None:
        raise RequestError("--images was given without --data", do="add --data, such as --data digits")
    splits = None if data is None else load_data(data, data_dir, download, seed)
    example = example_input(input_shape, opened, splits)
    if ratio is not None and criterion == "bn-scale":
        _warn_of_cliff(opened.model, example, ratio)
    result = prune_model(
        opened.model,
        example,
        ratio=ratio,
        macs=macs,
        params=params,
        size_bytes=size_bytes,
        memory=memory,
        latency_ms=latency_ms,
        channels=_shares(channels),
        criterion=choose(
            criterion, aggregate=aggregate, normalise=normalise, **model_arguments(option, "--option")
        ),
        scope=scope,
        min_keep=min_keep,
        round_to=round_to,
        protect=protect or (),
        axes=axes,
        data=None if splits is None else labelled(splits.train, images or 1024, seed),
        recover=[step for word in recover for step in word.split(",")] if recover else None,
        check=check,
        seed=seed,
    )
    plan = result.plan.after(opened.plan).model_copy(update={"command": command_line()})
    folder = save_model(result.model, plan, save)
    numbers, lines = _numbers(replace(result, plan=plan), str(folder)), [str(result)]
    if why:
        explanation = explain(plan)
        numbers["explanation"] = explanation.to_dict()
        lines.append(str(explanation))
    emit(numbers, "\n".join([*lines, f"wrote {folder}"]), as_json=as_json)


def _warn_of_cliff(model: nn.Module, example: Any, ratio: float) -> None:
    share = near_zero_share(prunable_scales(model, couple(model, example)))
    if ratio > share:
        say(
            f"warning: only {share * 100:.0f} % of the prunable batch-norm scales are near zero, "
            f"{ratio * 100:.0f} % is beyond the cliff\n  train sparse with a larger --s, or ask for less"
        )


def _shares(words: list[str] | None) -> dict[str, float] | None:
    if not words:
        return None
    shares: dict[str, float] = {}
    for word in words:
        pattern, _, share = word.rpartition("=")
        try:
            shares[pattern] = float(share)
        except ValueError as error:
            raise RequestError(f"--channels is '{word}'", do="write it as pattern=share") from error
    return shares


def _numbers(result: Result, folder: str) -> dict[str, object]:
    verdict = result.verdict
    return {
        "requested": str(result.plan.requested),
        "achieved_ratio": result.plan.achieved,
        "account": None if result.plan.account is None else result.plan.account.model_dump(mode="json"),
        "before": vars(result.before),
        "after": vars(result.after),
        "verdict": verdict.status if verdict else None,
        "relative_error": verdict.relative_error if verdict else None,
        "groups": {group.name: [group.size, len(group.keep)] for group in result.plan.groups},
        "left_alone": dict(result.plan.reasons),
        "recovered": [str(recovery) for recovery in result.recovered],
        "output_errors": [
            {"step": one.step, "before": one.before, "after": one.after} for one in result.errors
        ],
        "saved": folder,
    }
