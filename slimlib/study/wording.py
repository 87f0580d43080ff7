"""Verdicts in words that a reader can repeat, made from the numbers of a judgement and from nothing else."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from slimlib.study.changes import nearest, would_change
from slimlib.study.deciding import MIXED
from slimlib.study.evidence import n_of
from slimlib.study.findings import comparison, effect
from slimlib.study.judgement import NO_EVIDENCE, Judgement
from slimlib.study.names import budget_name, capital, counted, joined, network_name, plain_name, points, signed
from slimlib.study.runs import Run
from slimlib.study.shapes import STARVED, hardly_differ, narrowest
from slimlib.study.statistics import INCONCLUSIVE, NOT_SUPPORTED, SUPPORTED

if TYPE_CHECKING:
    import pandas as pd
    from IPython.display import Markdown


def summary(judged: Judgement) -> str:
    """The verdict on a claim in two or three sentences: what was found against each rival, then what is missing."""
    profiles = dict.fromkeys(where["profile"] for where in judged.claim.runs)
    of = f"profile{'s' * (len(profiles) > 1)} {joined(profiles)}"
    runs = n_of(judged.recorded, judged.expected, f" runs are recorded ({of})")
    if judged.deciding.empty:
        return " ".join(filter(None, [f"{judged.told}. {runs}; no comparison that decides can be made.", undecided(judged)]))
    return f"{judged.told}. {found(judged)} {runs}."


def found(judged: Judgement) -> str:
    """ "On LeNet-5 on MNIST: against uniform, supported in 2 of 3 comparisons, ... (+0.03 to +0.64 points, ...); against ...".

    Rivals apart, as a gain over one says nothing of another. Then whatever a reader has to know to make sense of it.
    """
    rows, claim = judged.deciding, judged.claim
    if rows.empty:
        return undecided(judged)
    networks = joined(dict.fromkeys(network_name(d, m) for d, m in zip(rows["dataset"], rows["model"], strict=True)))
    if claim.kind == "rank":
        more, less = int((rows["over_depth_low"] > 0).sum()), int((rows["over_depth_high"] < 0).sum())
        depth = "; by intervals that are not corrected it orders the layers better than depth alone "
        depth += f"in {more} of {len(rows)}, worse in {less}"
        told = f"{_counts(rows)} ({effects(judged)}){depth}"
    else:
        parts = rows.groupby("rival", sort=False)
        told = "; ".join(f"against {plain_name(rival)}, {_counts(part)} ({_points(part, judged.cells)})" for rival, part in parts)
    return " ".join(filter(None, [f"On {networks}: {told}.", undecided(judged), *bootstrapped(judged), *starved(judged),
                                  *reading(judged)]))


def bootstrapped(judged: Judgement) -> list[str]:
    """Where the bootstrap interval in the place of the t interval would lead to another verdict, and in how many comparisons it
    only stands otherwise to zero or to the margin."""
    rows = judged.deciding.to_dict("records") if judged.claim.kind == "paired" else []
    rows = [row for row in rows if row["n"] >= judged.claim.min_seeds]  # no verdict is given of fewer
    other = [comparison(judged.claim, row) for row in rows if row["boot_verdict"] != row["verdict"]]
    alone = sum(not row["agree"] and row["boot_verdict"] == row["verdict"] for row in rows)
    said = [f"The t and the bootstrap interval lead to different verdicts {'; '.join(other)}."] if other else []
    if alone:
        said.append(f"In {alone} of {len(rows)} comparisons only one of the t and the bootstrap interval leaves out zero, or the "
                    "margin; as Holm's p is asked for as well, this changes no verdict.")
    return said


def undecided(judged: Judgement) -> str:
    """What is recorded of a paired claim at single budgets, while its comparison lacks seeds or budgets to be made."""
    if judged.claim.kind != "paired" or judged.cells.empty:
        return ""
    names = ["rival", "dataset", "model", "unit"]
    enough = [row for row in judged.deciding.to_dict("records") if row["n"] >= judged.claim.min_seeds]
    decided = {tuple(row[name] for name in names) for row in enough}
    said = []
    for cell in judged.cells.to_dict("records"):
        if tuple(cell[name] for name in names) not in decided:
            network = network_name(cell["dataset"], cell["model"])
            said.append(f"{plain_name(cell['rival'])} on {network}, {budget_name(cell['budget'])}: {effect(cell)} points, "
                        f"{counted(cell['n'], 'seed')}")
    return f"Recorded in part, so not decided: against {'; against '.join(said)}." if said else ""


def starved(judged: Judgement) -> list[str]:
    """One sentence an arm that leaves some layer next to nothing: whoever it loses to need not be good."""
    table = narrowest(judged.records) if judged.claim.kind == "paired" else None
    if table is None or table.empty:
        return []
    table = table[(table["kept"] <= STARVED) & table["arm"].isin([judged.claim.ours, *judged.claim.rivals])]
    least = table.loc[table.groupby("arm", sort=False)["kept"].idxmin()].to_dict("records") if len(table) else []
    return [f"{capital(plain_name(row['arm']))} keeps as few as {row['width']} of "
            f"{row['full_width']} filters of {row['layer']}." for row in least]


def reading(judged: Judgement) -> list[str]:
    """One sentence an arm that was given training images to choose widths by, beside its claim's other arms."""
    told: dict[tuple[str, int], dict[str, None]] = {}
    for record in judged.records:
        run = Run.from_dict(record["run"])
        images = dict(run.options).get("calibration")
        if images and run.arm in (judged.claim.ours, *judged.claim.rivals):
            told.setdefault((run.arm, images), {})[network_name(run.dataset, run.model)] = None
    return [f"On {joined(networks)}, {plain_name(arm)} reads {images} training images without their labels."
            for (arm, images), networks in told.items()]


def listed(sentences: Iterable[str]) -> Markdown:
    """Sentences as a list that a notebook displays as text."""
    from IPython.display import Markdown

    return Markdown("\n".join(f"- {capital(_plain_text(sentence))}" for sentence in sentences))


def summaries(judged: Mapping[str, Judgement], names: Iterable[str], profile: str) -> Markdown:
    """The verdicts on some claims, as a list; a claim that the profile does not decide says so."""
    return listed(
        f"{name}: {summary(judged[name]) if name in judged else f'profile {profile} decides nothing about it.'}" for name in names
    )


def overall(judged: Mapping[str, Judgement], what: str = "claim") -> str:
    """ "Of 12 claims, 1 is supported (C3); 4 are not supported (...); ...": all verdicts in one sentence."""
    by_verdict: dict[str, list[str]] = {}
    for name, one in judged.items():
        alike = one.claim.kind == "paired" and all(hardly_differ(one, rival) for rival in one.claim.rivals)
        doubt = " with the same widths on both sides" if alike else ""
        by_verdict.setdefault(NO_EVIDENCE if one.deciding.empty else one.verdict, []).append(name + doubt)
    order = [v for v in (SUPPORTED, MIXED, NOT_SUPPORTED, INCONCLUSIVE, NO_EVIDENCE) if v in by_verdict]
    said = [f"{len(by_verdict[v])} {'has' if len(by_verdict[v]) == 1 else 'have'} {v}" if v == NO_EVIDENCE
            else f"{len(by_verdict[v])} {'is' if len(by_verdict[v]) == 1 else 'are'} {v}" for v in order]
    told = "; ".join(f"{text} ({', '.join(by_verdict[v])})" for v, text in zip(order, said, strict=True))
    so_far = "" if all(one.complete for one in judged.values()) else ", so far"
    return f"Of {counted(len(judged), what)}{so_far}: {told}."


def digest(judged: Mapping[str, Judgement]) -> str:
    """Every claim with its comparisons counted and measured, as a Markdown list, one item each."""
    return "".join(f"- **{_plain_text(one.claim.title)}** ({name}): *{one.told}*. {_plain_text(found(one))}".rstrip() + "\n"
                   for name, one in judged.items())


def effects(judged: Judgement) -> str:
    """ "−0.31 to +0.12 points, 5 seeds"; where there are several rivals, each has its own."""
    rows = judged.deciding
    if rows.empty:
        return ""
    if judged.claim.kind == "rank":
        return f"Spearman {_reach(rows['spearman'], 1)}, {_span(rows['n'], 'layer')}"
    parts = list(rows.groupby("rival", sort=False))
    if len(parts) == 1:
        return _points(rows, judged.cells.iloc[:0])
    told = "; ".join(f"vs {plain_name(rival)} {_reach(part['mean'], 100)}" for rival, part in parts)
    return f"{told} points; {_span(rows['n'], 'seed')}"


def closest(judged: Judgement) -> str:
    """The deciding comparison whose verdict would change first, and with what: of those left open, and of those decided."""
    rows, claim = judged.deciding.to_dict("records"), judged.claim
    places = nearest(claim, rows)
    of = [f", of those {which}" if len(places) > 1 else "" for which in ("left open", "decided")]
    return " ".join(f"Closest to another verdict{which}: {comparison(claim, rows[at])}. "
                    f"It would take {would_change(claim, rows, at)}." for which, at in zip(of, places, strict=False))


def _counts(rows: pd.DataFrame) -> str:
    """ "supported in 2 of 3 comparisons, not supported in 1"; of a single comparison its verdict alone."""
    counts = rows["verdict"].value_counts()
    (first, number), *others = [(name, counts[name]) for name in (SUPPORTED, NOT_SUPPORTED, INCONCLUSIVE) if name in counts]
    if len(rows) == 1:
        return first
    return ", ".join([f"{first} in {number} of {len(rows)} comparisons", *(f"{name} in {count}" for name, count in others)])


def _points(rows: pd.DataFrame, cells: pd.DataFrame) -> str:
    """Means over budgets; and those of single budgets, which may differ more than their mean tells."""
    keys = ["rival", "dataset", "model", "unit"]
    single = cells.merge(rows[keys], on=keys)["mean"] if len(cells) else ()
    at = f", at single budgets {_reach(single, 100)}" if len(single) > len(rows) else ""
    return f"{_reach(rows['mean'], 100)} points{at}, {_span(rows['n'], 'seed')}"


def _plain_text(sentence: str) -> str:
    """The marks that Markdown would read are taken as they stand."""
    return re.sub(r"([*_`\[\]])", r"\\\1", sentence)


def _reach(values: pd.Series, scale: float) -> str:
    low, high = (points(v) if scale == 100 else signed(v) for v in (values.min(), values.max()))
    return low if low == high else f"{low} to {high}"


def _span(counts: pd.Series, what: str) -> str:
    low, high = int(counts.min()), int(counts.max())
    of_two = what == "layer" and counts.nunique() == 2  # those of two networks, and none between
    return counted(low, what) if low == high else f"{low} {'and' if of_two else 'to'} {high} {what}s"
