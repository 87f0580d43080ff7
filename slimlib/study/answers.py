"""What the records answer, in sentences short enough to be repeated: the front page, and the first line of each verdict."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from slimlib.study import budgets, wording
from slimlib.study.claims import Claim
from slimlib.study.evidence import n_of
from slimlib.study.findings import STAGE_NAMES
from slimlib.study.judgement import Judgement
from slimlib.study.names import UNITS, budget_name, counted, interval, joined, network_name, plain_name, points
from slimlib.study.pairing import differences
from slimlib.study.runs import Run
from slimlib.study.shapes import alike, of_comparison, other_cost
from slimlib.study.statistics import NOT_SUPPORTED, SUPPORTED, paired
from slimlib.study.store import to_frame
from slimlib.study.tilt_choice import doubts, of_weight

if TYPE_CHECKING:
    import pandas as pd

UNDECIDED = "not yet told apart from"
NOTABLE = 1.5
"""Times by which two arms must differ in the cost that was not made equal for it to be told."""
MOST = 0.8
"""Share of a mean over budgets from which on one of them is said to make most of it."""
NEARLY_ALWAYS = 0.9
"""Share of the cases in which two arms have the same widths from which on their comparison is said to test hardly anything."""


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
        return [_answer_by_rank(judged)]
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
    """What a reader must know of comparisons before repeating them: a budget that makes the mean, the other cost, a doubt."""
    told, enough = [], [row for row in rows if row["n"] >= judged.claim.min_seeds]
    at = {row["unit"]: f"at equal {UNITS[row['unit']]} " if len(rows) > 1 else "" for row in enough}
    single = {row["unit"]: budget for row in enough if (budget := _the_one_budget(judged, row))}
    if single and len(single) == len(enough):
        told.append(f"most of it at {joined(map(budget_name, single.values()))}")
    else:
        told += [f"{at[unit]}most of it at {budget_name(budget)}" for unit, budget in single.items()]
    for row in enough:
        unit, ratio = other_cost(judged, row)
        if not 1 / NOTABLE < ratio < NOTABLE:
            told.append(f"{at[row['unit']]}with {ratio:.2g} times the {UNITS[unit]}")
    told += [f"{at[row['unit']]}the bootstrap interval says otherwise" for row in enough if row["boot_verdict"] != row["verdict"]]
    return told


def _the_one_budget(judged: Judgement, row: Mapping[str, Any]) -> str | None:
    """The budget at which most of a mean over several arises, if there is one and the mean matters."""
    cells = of_comparison(judged.cells, row)
    if len(cells) < 2 or abs(row["mean"]) <= judged.claim.margin:
        return None
    parts = cells.set_index("budget")["mean"] / (len(cells) * row["mean"])
    return parts.idxmax() if parts.max() >= MOST else None


def _answer_by_rank(judged: Judgement) -> str:
    rows, ours = judged.deciding, judged.claim.ours
    what = "V / T" if ours == "neyman_score" else f"what {plain_name(ours)} keeps"
    networks = "; ".join(f"{network_name(*which)} {int((part['verdict'] == SUPPORTED).sum())} of {len(part)}"
                         for which, part in rows.groupby(["dataset", "model"], sort=False))
    agree, not_so = (int((rows["verdict"] == verdict).sum()) for verdict in (SUPPORTED, NOT_SUPPORTED))
    more, less = (int(found.sum()) or "none" for found in (rows["over_depth_low"] > 0, rows["over_depth_high"] < 0))
    return (f"The order of the layers by {what} goes together with that by their sensitivity in *{agree} of {len(rows)}* "
            f"comparisons, which are views of the same layers ({networks}); in {not_so or 'none'} a coefficient of "
            f"{judged.claim.margin:g} is ruled out. By intervals not corrected for their number, it does better than depth alone "
            f"in *{more}* of them, and worse in *{less}*.")


def same_widths(judged: Judgement) -> str:
    """That two arms were nearly always given the same widths, so that their comparison could hardly test anything."""
    for rival in judged.claim.rivals if judged.claim.kind == "paired" else ():
        found = alike(judged, rival)
        if found["pairs"] and found["equal"] >= NEARLY_ALWAYS * found["pairs"]:
            return f"The widths are the same in {found['equal']} of {found['pairs']} cases, so hardly anything was tested."
    return ""


def beside(judged: Judgement, records: Iterable[Mapping[str, Any]]) -> list[str]:
    """What records of other studies say of a paired claim's arms, on networks that the claim is not about: it decides nothing.

    One sentence a rival and network with enough seeds, single budgets with their own intervals.
    """
    claim = judged.claim
    if claim.kind != "paired":
        return []
    own = {(run.dataset, run.model) for run in judged.runs}
    others = {record["key"]: record for record in records if (run := record["run"])["stage"] == claim.stage
              and (run["dataset"], run["model"]) not in own and claim.criterion in (None, run["criterion"])}
    frame, said = to_frame(others.values()), []
    for rival in claim.rivals if others else ():
        pairs = differences(frame, claim.ours, rival, claim.metric)
        for (dataset, model), part in pairs.groupby(["dataset", "model"], sort=False):
            cells = {budget: paired(cell["difference"], claim.level, claim.margin) for budget, cell in part.groupby("budget")}
            told = [f"{points(one.mean)} {interval(one.low, one.high)} at {budget_name(budget)}"
                    for budget in sorted(cells, key=budgets.parse) if (one := cells[budget]).n >= claim.min_seeds]
            if told:
                said.append("This decides nothing, as the claim was written for other networks: on "
                            f"{network_name(dataset, model)} against {plain_name(rival)}, in points, {joined(told)}.")
    return said


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
    return " ".join(said[stage].format(what) for stage, what in told.items())


def front_page(judged: Mapping[str, Judgement]) -> str:
    """The front page's answer as Markdown: an item a claim, the controls, and folded below every number behind the claims."""
    records = {key: record for one in judged.values() for key, record in one.by_key.items()}
    claims = {name: one for name, one in judged.items() if not one.claim.is_control}
    controls = {name: one for name, one in judged.items() if name not in claims}
    every = records.values()
    noted = {name: doubts(one) for name, one in judged.items()}
    lines = [_item(name, one, every, noted[name]) for name, one in claims.items()]
    if controls:
        lines += ["", "Controls:", "", *(_item(name, one, every, noted[name]) for name, one in controls.items())]
    if trained := training(every):
        lines += ["", trained]
    notes = "".join(f"- {name}: {_bracketed(note)}\n" for name in claims for note in noted[name] if not of_weight(note))
    numbers = ["```{dropdown} Every comparison of the claims in numbers", wording.digest(claims) + notes + "```"]
    return "\n".join([*lines, "", *numbers]) + "\n"


def _item(name: str, judged: Judgement, records: Iterable[Mapping[str, Any]], noted: Iterable[str]) -> str:
    """The claim with its verdict, and below it what was found, network by network, and what stands beside it; of the doubts that
    were ``noted``, those of weight."""
    runs = f", {n_of(judged.recorded, judged.expected, ' planned runs recorded')}" if judged.recorded else ""
    shapes = " ".join([same_widths(judged), *wording.starved(judged)]).strip()
    told = [*answer(judged), shapes, *beside(judged, records), *filter(of_weight, noted)]
    below = [f"  - {_bracketed(one)}" for one in told if one]
    return "\n".join([f"- **{name}, the claim:** {judged.claim.title}. **Found:** *{judged.told}*{runs}.", *below])


def _bracketed(text: str) -> str:
    """A bracket would begin a link."""
    return re.sub(r"([\[\]])", r"\\\1", text)
