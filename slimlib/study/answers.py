"""What the records answer, in sentences short enough to be repeated: the front page, and the first line of each verdict."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from slimlib.study import fragile, rank_answers, setting, wording
from slimlib.study.claims import Claim
from slimlib.study.elsewhere import elsewhere
from slimlib.study.evidence import n_of
from slimlib.study.findings import STAGE_NAMES, effect
from slimlib.study.judgement import Judgement
from slimlib.study.names import UNITS, budget_name, counted, joined, network_name, plain_name, points
from slimlib.study.shapes import drawn, of_comparison, other_cost, same_widths
from slimlib.study.statistics import NOT_SUPPORTED, SUPPORTED
from slimlib.study.tilt_choice import doubts, of_weight

if TYPE_CHECKING:
    import pandas as pd

UNDECIDED = "not told apart from"
NOTABLE = 1.5
"""Times by which two arms must differ in the cost that was not made equal for it to be told."""
MOST = 0.8
"""Share of a mean over budgets from which on one of them is said to make most of it."""
LITTLE = 5
"""Margins within which a rival's distance from the dense network is called little to gain."""


def outcome(row: Mapping[str, Any], margin: float) -> str:
    """How ours stands to a rival in one deciding comparison, finer than its verdict.

    "better than"; "better, by less than matters, than" where a gain of the margin is ruled out as well; "no better than"
    where only that is; "worse than" where the whole interval lies below zero; else undecided.
    """
    if row["verdict"] == SUPPORTED:
        return "better than" if row["high"] >= margin else "better, by less than matters, than"
    if row["verdict"] == NOT_SUPPORTED:
        return "worse than" if row["high"] < 0 else "no better than"
    return UNDECIDED


def answer(judged: Judgement) -> list[str]:
    """What was found, a sentence a network, rival by rival with the verdict first; nothing before a comparison."""
    rows, claim = judged.deciding, judged.claim
    if rows.empty:
        return []
    if claim.kind == "rank":
        return [rank_answers.answer(judged)]
    said = []
    for (dataset, model), here in rows.groupby(["dataset", "model"], sort=False):
        against = "; ".join(_against(judged, rival, part) for rival, part in here.groupby("rival", sort=False))
        network = f"{network_name(dataset, model)}, {STAGE_NAMES[claim.stage]}"
        said.append(f"Widths by {plain_name(claim.ours)} on {network}: {against}.")
    return said


def _against(judged: Judgement, rival: str, rows: pd.DataFrame) -> str:
    """ "*no better than* uniform (means −0.02 and +0.01 points)"; costs apart only where they differ or one is missing."""
    by_outcome: dict[tuple[str, bool], list[dict[str, Any]]] = {}
    for row in rows.to_dict("records"):
        by_outcome.setdefault((outcome(row, judged.claim.margin), row["n"] >= judged.claim.min_seeds), []).append(row)
    said = []
    for (found, _), part in by_outcome.items():
        at = "" if len(part) == len(UNITS) else f" at equal {joined(UNITS[row['unit']] for row in part)}"
        said.append(f"*{found}* {plain_name(rival)}{at} ({'; '.join([_size(judged.claim, part), *_notes(judged, part)])})")
    return "; ".join(said)


def _size(claim: Claim, rows: Sequence[Mapping[str, Any]]) -> str:
    """ "means −0.02 and +0.01 points", at equal MACs and at equal parameters; of too few seeds, their number."""
    if (least := min(row["n"] for row in rows)) < claim.min_seeds:
        return f"{least} of {counted(claim.min_seeds, 'seed')}"
    means = [points(row["mean"]) for row in sorted(rows, key=lambda row: list(UNITS).index(row["unit"]))]
    return f"{means[0]} points" if len(set(means)) == 1 else f"means {joined(means)} points"


def _notes(judged: Judgement, rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """What a reader must know of comparisons before repeating them, units of cost apart: a budget that makes the mean, how little
    there was to gain, the other cost, a doubt."""
    told: dict[str, str] = {}
    for row in rows:
        if row["n"] >= judged.claim.min_seeds and (notes := list(_notes_on(judged, row))):
            told[f"at equal {UNITS[row['unit']]} " if len(rows) > 1 else ""] = ", ".join(notes)
    if len(told) == len(rows) and len(set(told.values())) == 1:  # the same of all
        return [next(iter(told.values()))]
    return [at + notes for at, notes in told.items()]


def _notes_on(judged: Judgement, row: Mapping[str, Any]) -> Iterator[str]:
    if single := _the_one_budget(judged, row):
        yield single
    ruled_out = row["verdict"] == NOT_SUPPORTED and row["high"] > 0
    if ruled_out and (better := _dense_is_better_by(judged, row)) < LITTLE * judged.claim.margin:
        yield f"little to gain: dense {points(better)}"
    unit, ratio = other_cost(judged, row)
    if not 1 / NOTABLE < ratio < NOTABLE:
        yield f"with {ratio:.2g} times the {UNITS[unit]}"
    if row["boot_verdict"] != row["verdict"]:
        yield "the bootstrap interval says otherwise"


def _the_one_budget(judged: Judgement, row: Mapping[str, Any]) -> str:
    """The budget at which most of a mean that matters arises, if one of several does, and what is seen at the others."""
    cells = of_comparison(judged.cells, row).set_index("budget")["mean"]
    if len(cells) < 2 or abs(row["mean"]) <= judged.claim.margin:
        return ""
    parts = cells / (len(cells) * row["mean"])
    if parts.max() < MOST:
        return ""
    rest = dict.fromkeys(points(mean) for mean in sorted(cells.drop(parts.idxmax())))
    return f"most of it at {budget_name(parts.idxmax())}, elsewhere {joined(rest)}"


def _dense_is_better_by(judged: Judgement, row: Mapping[str, Any]) -> float:
    """By how much the dense network is more accurate than the rival, a mean over the pairs of a comparison."""
    rivals = [judged.by_key[key]["metrics"] for key in of_comparison(judged.pairs, row)["key_rival"]]
    return sum(metrics["dense_test_accuracy"] - metrics["test_accuracy"] for metrics in rivals) / len(rivals)


def beside(judged: Judgement, records: Iterable[Mapping[str, Any]]) -> list[str]:
    """What runs of other studies say of a paired claim's arms (`elsewhere`), one sentence a rival."""
    found: dict[str, dict[str, list[str]]] = {}
    for row in elsewhere(judged, records):
        told = f"*{outcome(row, judged.claim.margin)}* {plain_name(row['rival'])} at equal {UNITS[row['unit']]}"
        networks = found.setdefault(row["rival"], {})
        networks.setdefault(network_name(row["dataset"], row["model"]), []).append(f"{told} ({effect(row)} points)")
    ours = plain_name(judged.claim.ours)
    on = [[f"on {network}, {ours} is {joined(told)}" for network, told in networks.items()] for networks in found.values()]
    return [f"This decides nothing, as the claim names other runs: {'; '.join(networks)}." for networks in on]


def front_page(judged: Mapping[str, Judgement]) -> str:
    """The front page's answer as Markdown: an item a claim, the controls, and folded below every number behind the claims."""
    records = {key: record for one in judged.values() for key, record in one.by_key.items()}
    claims = {name: one for name, one in judged.items() if not one.claim.is_control}
    controls = {name: one for name, one in judged.items() if name not in claims}
    every = records.values()
    lines = [_item(name, one, every) for name, one in claims.items()]
    if controls:
        lines += ["", "Controls:", "", *(_item(name, one, every) for name, one in controls.items())]
    told = [setting.by_profile(judged), setting.training(every), *setting.beyond_the_paper(judged)]
    lines += ["", " ".join(filter(None, told))]
    notes = "".join(f"- {name}: {_bracketed(note)}\n" for name in claims for note in doubts(claims[name]) if not of_weight(note))
    numbers = ["```{dropdown} Every comparison of the claims in numbers", wording.digest(claims) + notes + "```"]
    return "\n".join([*lines, "", *numbers]) + "\n"


def _item(name: str, judged: Judgement, records: Iterable[Mapping[str, Any]]) -> str:
    """The claim with its verdict, and below it what was found, network by network, what stands beside it and what leaves it in
    doubt."""
    runs = f", {n_of(judged.recorded, judged.expected, ' planned runs recorded')}" if judged.recorded else ""
    shapes = " ".join([same_widths(judged), *drawn(judged), *wording.starved(judged)]).strip()
    told = [*answer(judged), shapes, *beside(judged, records), *fragile.in_words(judged)]
    below = [f"  - {_bracketed(one)}" for one in told if one]
    return "\n".join([f"- **{name}, the claim:** {judged.claim.title}. **Found:** *{judged.told}*{runs}.", *below])


def _bracketed(text: str) -> str:
    """A bracket would begin a link."""
    return re.sub(r"([\[\]])", r"\\\1", text)
