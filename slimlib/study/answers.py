"""What the records answer, in sentences short enough to be repeated: the front page, and the first line of each verdict."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from slimlib.study import budgets, wording
from slimlib.study.findings import STAGES
from slimlib.study.judgement import Judgement
from slimlib.study.names import UNITS, budget_name, counted, interval, joined, network_name, plain_name, points
from slimlib.study.runs import Run
from slimlib.study.shapes import alike
from slimlib.study.statistics import NOT_SUPPORTED, SUPPORTED, differences, paired
from slimlib.study.store import to_frame

if TYPE_CHECKING:
    import pandas as pd

UNDECIDED = "not yet told apart from"


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


def answer(judged: Judgement) -> str:
    """One sentence a claim: what was found, network by network and rival by rival, verdict first; empty before a comparison."""
    rows, claim = judged.deciding, judged.claim
    if rows.empty:
        return ""
    if claim.kind == "rank":
        return _answer_by_rank(judged)
    said = []
    for (dataset, model), here in rows.groupby(["dataset", "model"], sort=False):
        against = [_against(claim.margin, rival, part) for rival, part in here.groupby("rival", sort=False)]
        said.append(f"on {network_name(dataset, model)} {joined(against)}")
    return f"{_capital(plain_name(claim.ours))} widths, {STAGES[claim.stage]}, are {'; '.join(said)}."


def _against(margin: float, rival: str, rows: pd.DataFrame) -> str:
    """ "*no better than* uniform (−0.02 to +0.01 points)"; units of cost apart only where they differ or one is missing."""
    by_outcome: dict[str, list[dict[str, Any]]] = {}
    for row in rows.to_dict("records"):
        by_outcome.setdefault(outcome(row, margin), []).append(row)
    said = []
    for found, part in by_outcome.items():
        low, high = (points(pick(row["mean"] for row in part)) for pick in (min, max))
        size = low if low == high else f"{low} to {high}"
        at = "" if len(part) == len(UNITS) else f" at equal {joined(UNITS[row['unit']] for row in part)}"
        said.append(f"*{found}* {plain_name(rival)}{at} ({size} points)")
    return joined(said)


def _answer_by_rank(judged: Judgement) -> str:
    rows, ours = judged.deciding, judged.claim.ours
    networks = rows[["dataset", "model"]].drop_duplicates()
    what = "V / T" if ours == "neyman_score" else f"What {plain_name(ours)} keeps"
    agree, beyond = int((rows["verdict"] == SUPPORTED).sum()), int((rows["over_depth_low"] > 0).sum())
    return (f"{what} orders the layers of {counted(len(networks), 'network')} as their sensitivity does in "
            f"*{agree} of {len(rows)}* comparisons (views of the same layers), and says more than depth alone in *{beyond}*.")


def same_widths(judged: Judgement, at_least: float = 0.9) -> str:
    """That two arms were nearly always given the same widths, so that their comparison could hardly test anything."""
    for rival in judged.claim.rivals if judged.claim.kind == "paired" else ():
        found = alike(judged, rival)
        if found["pairs"] and found["equal"] >= at_least * found["pairs"]:
            return f"The widths are the same in {found['equal']} of {found['pairs']} cases, so hardly anything was tested."
    return ""


def beside(judged: Judgement, records: Iterable[Mapping[str, Any]]) -> list[str]:
    """What records of other studies say of a paired claim's arms, on networks that the claim is not about: it decides nothing.

    One sentence a rival and network with enough seeds, single budgets with their own intervals.
    """
    claim = judged.claim
    if claim.kind != "paired":
        return []
    own = {(run.dataset, run.model) for run in claim.deciding_runs()}
    others = [record for record in records if (run := record["run"])["stage"] == claim.stage
              and (run["dataset"], run["model"]) not in own and claim.criterion in (None, run["criterion"])]
    said = []
    for rival in claim.rivals if others else ():
        pairs = differences(to_frame(others), claim.ours, rival, claim.metric)
        for (dataset, model), part in pairs.groupby(["dataset", "model"], sort=False):
            cells = {budget: paired(cell["difference"], claim.level, claim.margin) for budget, cell in part.groupby("budget")}
            told = [f"{points(one.mean)} {interval(one.low, one.high)} at {budget_name(budget)}"
                    for budget in sorted(cells, key=budgets.parse) if (one := cells[budget]).n >= claim.min_seeds]
            if told:
                said.append(f"Beside the claim, deciding nothing: on {network_name(dataset, model)} against {plain_name(rival)} "
                            f"{joined(told)}.")
    return said


def training(records: Iterable[Mapping[str, Any]]) -> str:
    """For how long the pruned networks were fine-tuned; empty where none was."""
    epochs: dict[int, dict[str, None]] = {}
    for record in records:
        run = Run.from_dict(record["run"])
        if run.stage == "prune" and run.recipe is not None:
            epochs.setdefault(run.recipe.epochs, {})[network_name(run.dataset, run.model)] = None
    if not epochs:
        return ""
    told = joined(f"{counted(number, 'epoch')} ({joined(networks)})" for number, networks in sorted(epochs.items()))
    return f"Pruned networks were fine-tuned for {told}: it counts who recovers within that time."


def front_page(judged: Mapping[str, Judgement]) -> str:
    """The front page's answer as Markdown: an item a claim, the controls, and folded below every number behind them."""
    records = {record["key"]: record for one in judged.values() for record in one.records}
    claims = {name: one for name, one in judged.items() if name.startswith("C")}
    controls = {name: one for name, one in judged.items() if name not in claims}
    lines = [_item(name, one, records.values()) for name, one in claims.items()]
    if controls:
        lines += ["", "Controls:", "", *(_item(name, one, ()) for name, one in controls.items())]
    if trained := training(records.values()):
        lines += ["", trained]
    return "\n".join([*lines, "", "```{dropdown} Every comparison in numbers", wording.digest(claims) + "```"]) + "\n"


def _item(name: str, judged: Judgement, records: Iterable[Mapping[str, Any]]) -> str:
    told = [answer(judged), wording.undecided(judged), same_widths(judged), *wording.starved(judged), *beside(judged, records)]
    text = " ".join(filter(None, [*told, f"({name}: {judged.told})"]))
    return f"- **{judged.claim.title}?** " + re.sub(r"([\[\]])", r"\\\1", text)  # a bracket would begin a link


def _capital(text: str) -> str:
    return text[0].upper() + text[1:]
