"""Multiply-adds against the clock: slimmed networks of equal MACs, timed side by side."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

import slimlib
from slimlib import latency
from slimlib.study.names import counted, model_name, plain_name

if TYPE_CHECKING:
    import pandas as pd
    import torch


def slimmed(
    network: torch.nn.Module, example_input: torch.Tensor, rules: Iterable[str], keeps: Iterable[float], round_to: int = 8,
    coupling: str = "joint",
) -> tuple[dict[str, torch.nn.Module], pd.DataFrame]:  # fmt: skip
    """The dense network and its slimmed versions, and one row for each: model (its name), arm, rounded, kept_macs,
    kept_params, budget.

    Each rule answers each share of the MACs in `keeps`, once with widths as they come and once with widths that are
    multiples of `round_to` (1: not a second time). Widths as they come are filled up to the budget, so that rules are compared
    at equal MACs; rounded ones lie on the rule's path, as `plan_widths` gives them. The first network is the dense one.
    """
    import pandas as pd

    networks, keeps = {"dense": network}, list(keeps)
    rows = [{"model": "dense", "arm": "dense", "rounded": False, "budget": 1.0, "kept_macs": 1.0, "kept_params": 1.0}]
    for rule in rules:
        for multiple in (1, round_to) if round_to > 1 else (1,):
            path = slimlib.width_path(network, example_input, rule=rule, coupling=coupling, round_to=multiple)
            for keep in keeps:
                plan = path.plan(keep_macs=keep, fill=multiple == 1)
                name = f"{plain_name(rule)}, {100 * keep:g} %" + (f", multiples of {multiple}" if multiple > 1 else "")
                networks[name] = slimlib.prune(network, plan)
                row = {"model": name, "arm": rule, "rounded": multiple > 1, "budget": keep}
                rows.append(row | {"kept_macs": plan.keep_macs, "kept_params": plan.keep_params})
    return networks, pd.DataFrame(rows)


def timed(
    name: str, networks: dict[str, torch.nn.Module], costs: pd.DataFrame, example_input: torch.Tensor,
    batch_sizes: Iterable[int], repeats: int, limit_s: float = 30.0,
    threads: int | None = None,
) -> pd.DataFrame:  # fmt: skip
    """`latency.measure` of the networks beside their costs.

    `realised` is the saved share of the time divided by the saved share of the MACs: 1 where every multiply-add saved
    is time saved, 0 where none is, negative where the smaller network is slower.
    """
    measured = latency.measure(networks, example_input, batch_sizes, repeats, limit_s=limit_s, threads=threads)
    table = measured.merge(costs, on="model", sort=False)
    table.insert(0, "network", model_name(name))
    table["realised"] = (1 - table["relative"]) / (1 - table["kept_macs"]).where(table["kept_macs"] < 1)
    return table


BUSY = 1.5
"""Ratio of the dense network's own quartiles above which a machine was too busy for its times to be told."""


def busy(first: Mapping[str, float] | pd.Series) -> bool:
    """Whether the first network's own times spread too far to conclude anything: its row of a table of times, with the quartiles
    `ms_low` and `ms_high`."""
    return bool(first["ms_high"] > BUSY * first["ms_low"])


def findings(table: pd.DataFrame) -> list[str]:
    """What the clock says, one sentence a network, device and batch size; that it says nothing, where it does not."""
    said = []
    for (device, network, batch), part in table.groupby(["device", "network", "batch_size"], sort=False):
        slim, dense = part[part["arm"] != "dense"], part[part["arm"] == "dense"].iloc[0]
        if slim["realised"].isna().all():  # nothing was slimmed, or nothing saved
            continue
        share, varies = slim["realised"], dense["ms_high"] / dense["ms_low"]
        told = f"{network}, {device.upper()}, batch of {batch}: "
        if "rounds" in part and dense["rounds"] < 5:
            said.append(told + f"only {dense['rounds']} rounds were made, so nothing is concluded.")
            continue
        if busy(dense):
            told += f"the machine was busy. The dense network's own times vary by a factor of {varies:.1f} from quartile to "
            said.append(told + "quartile, so nothing is concluded; run this page again on an idle machine.")
            continue
        told += f"the slimmed networks keep {_span(slim['kept_macs'])} of the MACs "
        told += f"and take {_span(slim['relative'])} of the time. For each percent of MACs saved, "
        median, least, most = (f"{value:.2f}".replace("-", "−") for value in (share.median(), share.min(), share.max()))
        told += f"{median} percent of the time is saved (median; {least} to {most})."
        said.append(told + _at_equal_macs(slim[~slim["rounded"]]) + _rounding(slim))
    return said


def _at_equal_macs(slim: pd.DataFrame) -> str:
    """How far apart rules lie that keep the same MACs: the budget at which slowest and fastest differ most."""
    if slim["arm"].nunique() < 2:
        return ""
    by_budget = slim.groupby("budget")["relative"].agg(lambda r: r.max() / r.min())
    budget, ratio = by_budget.idxmax(), by_budget.max()
    part = slim[slim["budget"] == budget].sort_values("relative")
    fast, slow = part.iloc[0], part.iloc[-1]
    clear = slow["relative_low"] > fast["relative_high"]
    doubt = "" if clear else ", though their quartiles overlap"
    arms = f"{plain_name(slow['arm'])} slower than {plain_name(fast['arm'])}"
    shares = f"{100 * slow['relative']:.0f} against {100 * fast['relative']:.0f} % of the time"
    return f" At equal MACs rules differ by a factor of up to {ratio:.2f} ({arms} at {100 * budget:g} %: {shares}{doubt})."


def _rounding(slim: pd.DataFrame) -> str:
    """What rounding changes, pair by pair: networks of one rule and budget, whose widths were rounded and were not."""
    both = slim.pivot(index=["arm", "budget"], columns="rounded", values="realised").reindex(columns=[False, True]).dropna()
    if both.empty:
        return ""
    gains = both[True] - both[False]
    way = "more" if gains.median() >= 0 else "less"
    return (f" With rounded widths {abs(gains.median()):.2f} percent {way} is saved for each percent of MACs (median of "
            f"{counted(len(gains), 'pair')} of one rule and budget; more in {(gains > 0).sum()}).")


def _span(values: pd.Series) -> str:
    least, most = (f"{100 * value:.0f}" for value in (values.min(), values.max()))
    return f"{least} %" if least == most else f"{least} to {most} %"
