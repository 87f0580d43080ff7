"""What the runs behind the answers were: how many there are, how long the networks were trained, how far they recovered, and
where they go beyond the paper."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from statistics import median
from typing import Any

from slimlib.study.judgement import Judgement
from slimlib.study.names import counted, joined, network_name
from slimlib.study.runs import Run
from slimlib.study.store import network_of
from slimlib.study.untrained import untrained_network


def training(records: Iterable[Mapping[str, Any]]) -> str:
    """For how long the slim networks were trained; empty where none was."""
    epochs: dict[str, dict[int, dict[str, None]]] = {"prune": {}, "distill": {}}
    for record in records:
        run = Run.from_dict(record["run"])
        if run.stage in epochs and run.recipe is not None:
            epochs[run.stage].setdefault(run.recipe.epochs, {})[network_name(run.dataset, run.model)] = None
    told = {stage: joined(f"{counted(number, 'epoch')} ({joined(networks)})" for number, networks in sorted(found.items()))
            for stage, found in epochs.items() if found}
    said = {"prune": "Pruned networks were fine-tuned for {}, so what counts is how far they recover within that time.",
            "distill": "Students were trained for {}."}
    return " ".join([*(said[stage].format(what) for stage, what in told.items()), *_still_lost(records)])


def _still_lost(records: Iterable[Mapping[str, Any]]) -> list[str]:
    """How much of the dense network's accuracy the pruned ones have not recovered: differences between arms are parts of it."""
    lost: dict[str, list[float]] = {}
    for record in records:
        run, metrics = Run.from_dict(record["run"]), record["metrics"]
        if run.stage == "prune" and "dense_test_accuracy" in metrics:
            gap = metrics["dense_test_accuracy"] - metrics["test_accuracy"]
            lost.setdefault(network_name(run.dataset, run.model), []).append(100 * gap)
    told = [f"{median(gaps):.2f} points ({network})" for network, gaps in lost.items()]
    lack = "Half of the pruned networks still lack more than this of the dense network's accuracy:"
    return [f"{lack} {joined(told)}."] if told else []


def beyond_the_paper(judged: Mapping[str, Judgement]) -> list[str]:
    """Where networks are slimmed in more than what the paper says its method is for, convolutional layers: a sentence a network,
    and one that names the claims which no other network decides."""
    on = {name: set(zip(one.deciding["dataset"], one.deciding["model"], strict=True)) for name, one in judged.items()
          if len(one.deciding)}
    slimmed = {network_of(record): list(record["widths"])
               for name in on for record in judged[name].records if "widths" in record}
    shares = {network: found for network, layers in slimmed.items() if (found := _fully_connected(*network, layers))}
    said = [f"The paper says that its method is for convolutional layers only. On {network_name(*network)} we also slim "
            f"{joined(share)}, with {100 * sum(share.values()):.0f} % of the parameters." for network, share in shares.items()]
    if alone := [name for name, networks in on.items() if networks <= shares.keys()]:
        decided = f"{joined(alone)} {'is' if len(alone) == 1 else 'are'} decided"
        said.append(f"{decided} on no network of which convolutional layers alone are slimmed.")
    return said


def _fully_connected(dataset: str, model: str, layers: Iterable[str]) -> dict[str, float]:
    """Those of the layers that are fully connected, each with its share of all parameters of the network."""
    from torch import nn

    network, _ = untrained_network(dataset, model)
    modules = {name: network.get_submodule(name) for name in layers}
    parameters = sum(p.numel() for p in network.parameters())
    return {name: sum(p.numel() for p in module.parameters()) / parameters for name, module in modules.items()
            if isinstance(module, nn.Linear)}


def by_profile(judged: Mapping[str, Judgement]) -> str:
    """ "Of the runs that decide, 593 of 610 of profile laptop and 0 of 1,200 of profile paper are recorded." """
    recorded = {key for one in judged.values() for key in one.by_key}
    planned: dict[str, set[str]] = {}
    for one in judged.values():
        for name in dict.fromkeys(where["profile"] for where in one.claim.runs):
            own = {run.key for run in one.claim.within(name).deciding_runs()} & {run.key for run in one.runs}
            planned.setdefault(name, set()).update(own)
    told = [f"{len(keys & recorded):,} of {len(keys):,} of profile {name}" for name, keys in planned.items()]
    return f"Of the runs that decide, {joined(told)} are recorded."
