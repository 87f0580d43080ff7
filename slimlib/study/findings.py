"""One comparison in words that a reader can repeat: what was found, and what would change its verdict."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from scipy import stats

from slimlib.study.claims import Claim
from slimlib.study.names import UNITS, budget_name, counted, interval, network_name, plain_name, signed
from slimlib.study.statistics import NOT_SUPPORTED, SUPPORTED

STAGES = {"prune": "pruned and fine-tuned", "distill": "distilled", "scratch": "trained from scratch"}
TOO_MANY = 1000
"""Seeds beyond which it is said that no practical number would do."""


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
        where = f"averaged over budgets of {_listed(shares)} % of {UNITS[row['unit']]}"
    ours, rival = plain_name(claim.ours), plain_name(row["rival"])
    if row["mean"] == 0 and row.get("sd") == 0:
        return f"{network}, {STAGES[claim.stage]}, {where}: {ours} and {rival} widths are equal in every seed (n = {row['n']})"
    compared = _compared(row["mean"])
    told = f"{network}, {STAGES[claim.stage]}, {where}: {ours} widths are {compared} {rival} widths"
    if row["n"] < 2:
        return f"{told} (one seed, so no interval)"
    found = f"{_percent(claim.level)} interval {interval(row['low'], row['high'])} points, n = {row['n']} seeds"
    return f"{told} ({found}{_chance(row)})"


def would_change(claim: Claim, row: Mapping[str, Any]) -> str:
    """What it would take for a deciding comparison to be judged otherwise."""
    if claim.kind == "rank":
        return _rank_change(claim, row)
    found, mean, n = row["verdict"], row["mean"], int(row["n"])
    if n < claim.min_seeds:
        return f"{counted(claim.min_seeds - n, 'more seed')} to be judged at all"
    if found == SUPPORTED:
        return f"a mean lower by {_plain(row['low'])} points, at the same spread"
    if found == NOT_SUPPORTED and mean == 0 and row["sd"] == 0:
        return "other widths: here the two rules lead to the same accuracy in every seed"
    if found == NOT_SUPPORTED:
        return f"a mean higher by {_plain(-row['low'])} points, at the same spread"
    if row["low"] > 0:
        return f"a Holm-corrected p of at most {1 - claim.level:.2g}; it is {row['p_holm']:.2g}"
    needs = []
    if mean > 0:
        needs.append((_seeds_for(mean, row["sd"], claim.level), SUPPORTED))
    if mean < claim.margin:
        needs.append((_seeds_for(claim.margin - mean, row["sd"], claim.level), NOT_SUPPORTED))
    seeds, verdict = min(needs)
    told = f"more than {TOO_MANY:,}" if seeds > TOO_MANY else f"about {seeds:,}"
    return f"{told} seeds, to be {verdict} at this mean and spread"


def _seeds_for(distance: float, sd: float, level: float) -> int:
    """The least number of seeds whose t interval, at this standard deviation, is narrower than `distance` to each side."""
    n = 2
    while n <= TOO_MANY and stats.t.ppf((1 + level) / 2, n - 1) * sd / n**0.5 >= distance:
        n += 1
    return n


def _rank_sentence(claim: Claim, row: Mapping[str, Any]) -> str:
    network = network_name(row["dataset"], row["model"])
    at = "" if row["budget"] == "any" else f" at {budget_name(row['budget'])}"
    what = "V / T" if row["rule"] == "neyman_score" else f"what {plain_name(row['rule'])} keeps{at}"
    if row["rule"] == "depth":
        what = "depth alone"
    orders = f"{network}: the order of layers by {what} {_degree(row['spearman'])} their order by accuracy lost"
    told = f"{orders} when {_percent(row['ratio'])} of a layer is removed"
    found = f"Spearman {signed(row['spearman'])}, {_percent(claim.level)} interval {interval(row['low'], row['high'], 1)}"
    within = "" if row["within"] != row["within"] else f"; within stages {signed(row['within'])}"
    return f"{told} ({found}, n = {row['n']} layers{within}{_chance(row)})"


def _rank_change(claim: Claim, row: Mapping[str, Any]) -> str:
    if row["verdict"] == SUPPORTED:
        return f"a coefficient lower by {row['low']:.2f}"
    if row["verdict"] == NOT_SUPPORTED:
        return f"a coefficient higher by {-row['low']:.2f}, at the same spread"
    if row["low"] > 0:
        return f"a Holm-corrected p of at most {1 - claim.level:.2g}; it is {row['p_holm']:.2g}"
    return f"an interval above 0 or below {claim.margin:g}: more layers, so other networks; more images only sharpen the drops"


def _chance(row: Mapping[str, Any]) -> str:
    return "; chance is not ruled out" if row["low"] <= 0 <= row["high"] else ""


def _degree(rho: float) -> str:
    if rho != rho:
        return "cannot be compared with"
    degrees = ((0.8, "agrees closely with"), (0.5, "agrees in the main with"), (0.2, "agrees weakly with"))
    for least, told in (*degrees, (-0.2, "has nothing to do with")):
        if rho >= least:
            return told
    return "is rather the reverse of"


def _compared(mean: float) -> str:
    if round(100 * mean, 2) == 0:
        return "as accurate, to the hundredth of a point, as"
    return f"{_plain(abs(mean))} points {'more' if mean > 0 else 'less'} accurate than"


def _percent(value: float) -> str:
    return f"{100 * value:g} %"


def _plain(value: float) -> str:
    return f"{100 * value:.2f}"


def _listed(parts: list[str]) -> str:
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"
