"""Verdicts in words that a reader can repeat, made from the numbers of a judgement and from nothing else."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from slimlib.study.evidence import share
from slimlib.study.findings import comparison, would_change
from slimlib.study.judgement import MIXED, NO_EVIDENCE, Judgement
from slimlib.study.names import counted, plain_name, points, signed
from slimlib.study.statistics import INCONCLUSIVE, NOT_SUPPORTED, SUPPORTED

if TYPE_CHECKING:
    import pandas as pd
    from IPython.display import Markdown


def summary(judged: Judgement) -> str:
    """The verdict on a claim in two or three sentences: what was found against each rival, then what is missing."""
    runs = share(judged.recorded, judged.expected, " runs are recorded")
    if judged.deciding.empty:
        return f"{judged.told}. {runs}; no comparison can be made."
    return f"{judged.told}. {found(judged)} {runs}."


def found(judged: Judgement) -> str:
    """ "Against uniform, supported in 2 of 3 comparisons, not supported in 1 (+0.03 to +0.64 points, 5 seeds); against ...".

    Rivals apart, as a gain over one says nothing of another. Empty before the first comparison.
    """
    rows = judged.deciding
    if rows.empty:
        return ""
    if judged.claim.kind == "rank":
        told = f"{_counts(rows)} ({effects(judged)})"
    else:
        parts = rows.groupby("rival", sort=False)
        told = "; ".join(f"against {plain_name(rival)}, {_counts(part)} ({_points(part)})" for rival, part in parts)
    doubt = int((~rows["agree"]).sum()) if "agree" in rows else 0
    doubtful = f" In {counted(doubt, 'comparison')} t and bootstrap intervals disagree." if doubt else ""
    return f"{told[0].upper()}{told[1:]}.{doubtful}"


def listed(sentences: Iterable[str]) -> Markdown:
    """Sentences as a list that a notebook displays as text."""
    from IPython.display import Markdown

    return Markdown("\n".join(f"- {_plain_text(sentence)}" for sentence in sentences))


def summaries(judged: Mapping[str, Judgement], names: Iterable[str], profile: str) -> Markdown:
    """The verdicts on some claims, as a list; a claim that the profile does not decide says so."""
    return listed(
        f"{name}: {summary(judged[name]) if name in judged else f'profile {profile} decides nothing about it.'}" for name in names
    )


def overall(judged: Mapping[str, Judgement], what: str = "claim") -> str:
    """ "Of 12 claims, 1 is supported (C3); 4 are not supported (...); ...": all verdicts in one sentence."""
    by_verdict: dict[str, list[str]] = {}
    for name, one in judged.items():
        by_verdict.setdefault(NO_EVIDENCE if one.deciding.empty else one.verdict, []).append(name)
    order = [v for v in (SUPPORTED, MIXED, NOT_SUPPORTED, INCONCLUSIVE, NO_EVIDENCE) if v in by_verdict]
    said = [f"{len(by_verdict[v])} {'has' if len(by_verdict[v]) == 1 else 'have'} {v}" if v == NO_EVIDENCE
            else f"{len(by_verdict[v])} {'is' if len(by_verdict[v]) == 1 else 'are'} {v}" for v in order]
    told = "; ".join(f"{text} ({', '.join(by_verdict[v])})" for v, text in zip(order, said, strict=True))
    so_far = "" if all(one.complete for one in judged.values()) else ", so far"
    return f"Of {counted(len(judged), what)}{so_far}: {told}."


def digest(judged: Mapping[str, Judgement]) -> str:
    """The front page's answer as Markdown: one item a claim, the controls in one sentence."""
    claims = {name: one for name, one in judged.items() if name.startswith("C")}
    controls = {name: one for name, one in judged.items() if name not in claims}
    lines = []
    for name, one in claims.items():
        lines.append(f"- **{_plain_text(one.claim.title)}** ({name}): *{one.told}*. {_plain_text(found(one))}".rstrip())
    return "\n".join([*lines, "", *([overall(controls, "control")] if controls else [])]).rstrip() + "\n"


def effects(judged: Judgement) -> str:
    """ "−0.31 to +0.12 points, 5 seeds"; where there are several rivals, each has its own."""
    rows = judged.deciding
    if rows.empty:
        return ""
    if judged.claim.kind == "rank":
        return f"Spearman {_reach(rows['spearman'], 1)}, {_span(rows['n'], 'layer')}"
    parts = list(rows.groupby("rival", sort=False))
    if len(parts) == 1:
        return _points(rows)
    told = "; ".join(f"vs {plain_name(rival)} {_reach(part['mean'], 100)}" for rival, part in parts)
    return f"{told} points; {_span(rows['n'], 'seed')}"


def closest(judged: Judgement) -> str:
    """The deciding comparison whose verdict would change first, and with what."""
    rows = judged.deciding
    if rows.empty:
        return ""
    open_ones = rows[rows["verdict"] == INCONCLUSIVE]
    # when all are decided: the interval whose lower end is nearest to zero, from either side
    row = open_ones.sort_values("p", na_position="last").iloc[0] if len(open_ones) else rows.loc[rows["low"].abs().idxmin()]
    what, needs = comparison(judged.claim, row.to_dict()), would_change(judged.claim, row.to_dict())
    return f"Closest to another verdict: {what}. It would take {needs}."


def _counts(rows: pd.DataFrame) -> str:
    """ "supported in 2 of 3 comparisons, not supported in 1"; of a single comparison its verdict alone."""
    counts = rows["verdict"].value_counts()
    (first, number), *others = [(name, counts[name]) for name in (SUPPORTED, NOT_SUPPORTED, INCONCLUSIVE) if name in counts]
    if len(rows) == 1:
        return first
    return ", ".join([f"{first} in {number} of {len(rows)} comparisons", *(f"{name} in {count}" for name, count in others)])


def _points(rows: pd.DataFrame) -> str:
    return f"{_reach(rows['mean'], 100)} points, {_span(rows['n'], 'seed')}"


def _plain_text(sentence: str) -> str:
    """The marks that Markdown would read are taken as they stand."""
    return re.sub(r"([*_`\[\]])", r"\\\1", sentence)


def _reach(values: pd.Series, scale: float) -> str:
    low, high = (points(v) if scale == 100 else signed(v) for v in (values.min(), values.max()))
    return low if low == high else f"{low} to {high}"


def _span(counts: pd.Series, what: str) -> str:
    low, high = int(counts.min()), int(counts.max())
    return counted(low, what) if low == high else f"{low} to {high} {what}s"
