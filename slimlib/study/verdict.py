"""The verdict page's tables: every claim with what was found, what is missing, and where each number comes from."""

from __future__ import annotations

import html
import re
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from slimlib.study import answers, changes, findings, fragile, wording
from slimlib.study.evidence import coverage, n_of
from slimlib.study.judgement import Judgement
from slimlib.study.layer_tables import beyond_depth, within_stages
from slimlib.study.names import UNITS, capital, counted, interval, signed
from slimlib.study.runs import Run
from slimlib.study.shapes import alike_in, other_cost, same_widths
from slimlib.study.statistics import SEEDS_FOR_INTERVAL
from slimlib.study.tilt_choice import doubts

if TYPE_CHECKING:
    import pandas as pd


def claim_table(judged: Mapping[str, Judgement]) -> pd.DataFrame:
    """One row a claim: the sentence that is tested, the verdict, the reach of the effects, the runs behind it."""
    import pandas as pd

    rows = [
        {
            "claim": name,
            "what is claimed": one.claim.title,
            "verdict": one.told,
            "effects": wording.effects(one) or "–",
            "runs recorded": n_of(one.recorded, one.expected, ""),
        }
        for name, one in judged.items()
    ]
    columns = ["claim", "what is claimed", "verdict", "effects", "runs recorded"]
    return pd.DataFrame(rows, columns=columns).set_index("claim")


def comparison_table(judged: Judgement) -> pd.DataFrame:
    """The comparisons that decide a claim, one row each, with what would change their verdict."""
    import pandas as pd

    rows, deciding = [], judged.deciding.to_dict("records")
    for at, row in enumerate(deciding):
        told = {"comparison": findings.comparison(judged.claim, row)}
        if judged.claim.kind == "paired":
            unit, ratio = other_cost(judged, row)
            told |= {"points": findings.effect(row), "bootstrap": _bootstrap(row)}
            told |= {"the other cost, ours over the rival's": f"{ratio:.2f} ({UNITS[unit]})"}
        else:
            told |= {"Spearman": f"{signed(row['spearman'])} {interval(row['low'], row['high'], 1)}"}
            told |= {"Spearman less depth's": beyond_depth(row), "within stages (p)": within_stages(row)}
            told |= {"drop in points, median and largest": f"{100 * row['median_drop']:.2f}, {100 * row['largest_drop']:.2f}"}
        p = "–" if row["p_holm"] != row["p_holm"] else f"{row['p_holm']:.2g}"  # none before there are seeds enough
        told |= {"n": row["n"], "p (Holm)": p, "verdict": row["verdict"]}
        rows.append(told | {"would change with": changes.would_change(judged.claim, deciding, at)})
    return pd.DataFrame(rows).set_index("comparison") if rows else pd.DataFrame()


def _bootstrap(row: Mapping[str, Any]) -> str:
    """The second interval, and whether it would lead to another verdict, or would if Holm's p were not asked for."""
    if row["n"] < SEEDS_FOR_INTERVAL:
        return ""
    doubt = "" if row["agree"] else ", which alone says otherwise"
    if row["boot_verdict"] != row["verdict"]:
        doubt = ", which says otherwise"
    return interval(row["boot_low"], row["boot_high"]) + doubt


def report(judged: Judgement, records: Iterable[Mapping[str, Any]] = ()) -> str:
    """The finding on one claim as HTML: what is claimed, the verdict, what would change it; folded below, all details.

    records   of other claims as well: what they say of the claim's arms elsewhere stands beside it, deciding nothing
    """
    claim, cells = judged.claim, judged.cells
    parts = [f"<p><strong>{html.escape(claim.id)}.</strong> <em>{html.escape(claim.statement.strip())}</em></p>"]
    if short := answers.answer(judged):
        parts.append(_listed(_emphasised(one) for one in [*short, same_widths(judged)] if one))
    told = wording.summary(judged)
    told = " ".join(filter(None, [capital(told), wording.closest(judged), fragile.once_all_begun(judged)]))
    parts.append(f"<p>{html.escape(told)}</p>")
    if claim.kind == "paired" and len(judged.deciding):
        parts.append(_listed(map(html.escape, [*alike_in(judged), *doubts(judged)])))
    parts += [f"<p>{_emphasised(one)}</p>" for one in answers.beside(judged, records)]
    if len(judged.deciding):
        table = comparison_table(judged).reset_index().to_html(index=False, border=0)
        count = counted(len(judged.deciding), "deciding comparison")
        family = int(judged.deciding["family"].iloc[0])
        parts.append(_folded(f"{count} (p corrected for {family}), and what would change the verdict", table))
    if len(cells):
        # once each: a sentence on depth or V/T, which no budget changes, is that of every budget
        said = dict.fromkeys(html.escape(findings.sentence(claim, row)) for row in cells.to_dict("records"))
        kind = "Every budget in words" if claim.kind == "paired" else "Every budget and ratio in words, beside the controls"
        kind += ", each interval for itself, deciding nothing" if claim.kind == "paired" else ""
        parts.append(_folded(f"{kind}: {counted(len(said), 'finding')}", _listed(said)))
    return f'<div style="margin-bottom: 1.5rem">{"".join(parts)}</div>'


def _emphasised(markdown: str) -> str:
    """Text with *emphasis*, as HTML."""
    return re.sub(r"[*](.+?)[*]", r"<em>\1</em>", html.escape(markdown))


def _listed(items: Iterable[str]) -> str:
    return f"<ul>{''.join(f'<li>{capital(one)}</li>' for one in items)}</ul>"


def _folded(title: str, content: str) -> str:
    return f"<details><summary>{title}</summary>{content}</details>"


def missing(judged: Iterable[Judgement]) -> pd.DataFrame:
    """What the claims still wait for: one row a network and stage, over all their deciding runs."""
    runs: dict[Run, None] = {}
    records: dict[str, dict[str, Any]] = {}
    for one in judged:
        runs |= dict.fromkeys(one.runs)
        records |= one.by_key
    return coverage(runs, records.values())
