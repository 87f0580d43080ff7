"""One comparison in words that a reader can repeat."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from slimlib.study.claims import Claim
from slimlib.study.names import UNITS, budget_name, interval, joined, network_name, plain_name, signed

STAGES = {"prune": "pruned and fine-tuned", "distill": "distilled", "scratch": "trained from scratch"}


def comparison(claim: Claim, row: Mapping[str, Any]) -> str:
    """ "against uniform on LeNet-5 on MNIST, MACs": what a deciding comparison compares."""
    network = network_name(row["dataset"], row["model"])
    if claim.kind == "paired":
        return f"against {plain_name(row['rival'])}, {network}, {UNITS[row['unit']]}"
    kept = "" if row["budget"] == "any" else f", {budget_name(row['budget'])} kept"
    return f"{network}{kept}, {_percent(row['ratio'])} of a layer removed"


def sentence(claim: Claim, row: Mapping[str, Any]) -> str:
    """One comparison, deciding (`unit`, several budgets) or single (`budget`): effect, interval, n."""
    if claim.kind == "rank":
        return _rank_sentence(claim, row)
    network = network_name(row["dataset"], row["model"])
    if row.get("budget"):
        where = f"at {budget_name(row['budget'])}"
    else:
        shares = [f"{100 * float(budget.partition(':')[2]):g}" for budget in row["budgets"].split(", ")]
        where = f"averaged over budgets of {joined(shares)} % of {UNITS[row['unit']]}"
    ours, rival = plain_name(claim.ours), plain_name(row["rival"])
    if row["mean"] == 0 and row.get("sd") == 0:
        return f"{network}, {STAGES[claim.stage]}, {where}: {ours} and {rival} widths are equal in every seed (n = {row['n']})"
    compared = _compared(row["mean"])
    told = f"{network}, {STAGES[claim.stage]}, {where}: {ours} widths are {compared} {rival} widths"
    if row["n"] < 2:
        return f"{told} (one seed, so no interval)"
    # seeds of published weights repeat the fine-tuning only
    repeats = "fine-tunings of one network" if row["model"].endswith(":pretrained") else "seeds"
    found = f"{_percent(claim.level)} interval {interval(row['low'], row['high'])} points, n = {row['n']} {repeats}"
    return f"{told} ({found}{_chance(claim, row)})"


def _rank_sentence(claim: Claim, row: Mapping[str, Any]) -> str:
    network = network_name(row["dataset"], row["model"])
    at = "" if row["budget"] == "any" else f" at {budget_name(row['budget'])}"
    what = "V / T" if row["rule"] == "neyman_score" else f"what {plain_name(row['rule'])} keeps{at}"
    if row["rule"] == "depth":
        what = "depth alone"
    orders = f"{network}: the order of layers by {what} {_degree(row['spearman'])} their order by accuracy lost"
    told = f"{orders} when {_percent(row['ratio'])} of a layer is removed"
    found = f"Spearman {signed(row['spearman'])}, {_percent(claim.level)} interval {interval(row['low'], row['high'], 1)}"
    within = "" if row["within"] != row["within"] else f"; within stages {signed(row['within'])}, p = {row['p_within']:.2g}"
    more = f"; against depth alone {signed(row['over_depth'])} {interval(row['over_depth_low'], row['over_depth_high'], 1)}"
    more = "" if row["rule"] == "depth" else more
    return f"{told} ({found}, n = {row['n']} layers{_chance(claim, row)}{more}{within})"


def _chance(claim: Claim, row: Mapping[str, Any]) -> str:
    if row["low"] <= 0 <= row["high"]:
        return "; chance is not ruled out"
    # an interval of its own knows nothing of how many comparisons were made
    return f"; corrected for all comparisons, p = {row['p_holm']:.2g}" if row.get("p_holm", 0) > 1 - claim.level else ""


def _degree(rho: float) -> str:
    if rho != rho:
        return "cannot be compared with"
    degrees = ((0.8, "agrees closely with"), (0.5, "agrees in the main with"), (0.2, "agrees weakly with"))
    for least, told in (*degrees, (-0.2, "shows no clear relation to")):
        if rho >= least:
            return told
    return "tends to run against"


def _compared(mean: float) -> str:
    if round(100 * mean, 2) == 0:
        return "as accurate, to the hundredth of a point, as"
    return f"{_plain(abs(mean))} points {'more' if mean > 0 else 'less'} accurate than"


def _percent(value: float) -> str:
    return f"{100 * value:g} %"


def _plain(value: float) -> str:
    return f"{100 * value:.2f}"
