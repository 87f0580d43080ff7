"""The verdict page's tables: every claim with what was found, what is missing, and where each number comes from."""

from __future__ import annotations

import html
import re
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from slimlib.study import answers, changes, findings, wording
from slimlib.study.evidence import coverage, n_of
from slimlib.study.judgement import Judgement
from slimlib.study.layer_tables import beyond_depth, with_ties, within_stages
from slimlib.study.names import UNITS, capital, counted, interval, network_name, signed
from slimlib.study.runs import Run
from slimlib.study.shapes import alike_in, other_cost
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
        parts.append(_listed(_emphasised(one) for one in [*short, answers.same_widths(judged)] if one))
    told = wording.summary(judged)
    told = " ".join(filter(None, [capital(told), wording.closest(judged), once_all_begun(judged)]))
    parts.append(f"<p>{html.escape(told)}</p>")
    if claim.kind == "paired" and len(judged.deciding):
        parts.append(_listed(map(html.escape, [*alike_in(judged), *doubts(judged)])))
    parts += [f"<p>{html.escape(one)}</p>" for one in answers.beside(judged, records)]
    if len(judged.deciding):
        table = comparison_table(judged).reset_index().to_html(index=False, border=0)
        count = counted(len(judged.deciding), "deciding comparison")
        family = int(judged.deciding["family"].iloc[0])
        parts.append(_folded(f"{count} (p corrected for {family}), and what would change the verdict", table))
    if len(cells):
        cells = with_ties(cells, judged.records, claim.exclude) if claim.kind == "rank" else cells
        # once each: a sentence on depth or V/T, which no budget changes, is that of every budget
        said = dict.fromkeys(html.escape(findings.sentence(claim, row)) for row in cells.to_dict("records"))
        kind = "Every budget in words" if claim.kind == "paired" else "Every budget and ratio in words, beside the controls"
        kind += ", each interval for itself, deciding nothing" if claim.kind == "paired" else ""
        parts.append(_folded(f"{kind}: {counted(len(said), 'finding')}", _listed(said)))
    return f'<div style="margin-bottom: 1.5rem">{"".join(parts)}</div>'


def once_all_begun(judged: Judgement) -> str:
    """What the first record of each profile that has none would do to the verdicts: the comparisons planned there count from then
    on. Nothing where all are begun."""
    rows, planned = judged.deciding.to_dict("records"), judged.claim.comparisons(judged.runs)
    if not rows or planned <= rows[0]["family"]:
        return ""
    changed, whole = changes.with_all_planned(judged.claim, rows, planned)
    said = [f"the verdict {findings.comparison(judged.claim, rows[at])}, would be {verdict}" for at, verdict in changed.items()]
    said += [f"the verdict on the whole claim would be {whole} instead of {judged.verdict}"] * (whole != judged.verdict)
    return (f"Once every profile has a record, {planned} comparisons count instead of {rows[0]['family']}: "
            f"{'; '.join(said) or 'this alone changes no verdict'}.")


def _emphasised(markdown: str) -> str:
    """Text with *emphasis*, as HTML."""
    return re.sub(r"[*](.+?)[*]", r"<em>\1</em>", html.escape(markdown))


def _listed(items: Iterable[str]) -> str:
    return f"<ul>{''.join(f'<li>{one}</li>' for one in items)}</ul>"


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


TRACE = ["claim", "value", "unit", "network", "what", "budget", "seed", "ours", "ours_record", "rival", "rival_record",
         "commit", "data_sha256", "dense_sha256", "device", "precision", "started", "notes"]  # fmt: skip


def trace(judged: Mapping[str, Judgement]) -> pd.DataFrame:
    """Every number behind the verdicts, down to its records: one row a paired difference, or a scan of a rank claim.

    `value` is the difference at one seed (ours less rival, a fraction), whose means are the effects; for a scan it is
    empty, as a correlation is made of all its layers. Records lie under book/records; commit, data, device and start
    are those of `ours`, and of the rival's record where they differ, both, separated by " / ".
    """
    import pandas as pd

    rows = []
    for name, one in judged.items():
        records = one.by_key
        for pair in one.pairs.to_dict("records"):
            ours, rival = records[pair["key_ours"]], records[pair["key_rival"]]
            chosen = Run.from_dict(rival["run"]).arm  # another name than the rival's where the best of several was taken
            rows.append(
                {
                    "claim": name,
                    "value": pair["difference"],
                    "unit": one.claim.metric,
                    "network": network_name(pair["dataset"], pair["model"]),
                    "what": f"{pair['ours']} - {pair['rival']}" + ("" if chosen == pair["rival"] else f" ({chosen})"),
                    "budget": pair["budget"],
                    "seed": pair["seed"],
                    **_files(ours, rival),
                }
            )
        for record in one.records if one.claim.kind == "rank" else ():
            run = record["run"]
            network = network_name(run["dataset"], run["model"])
            row = {"claim": name, "value": None, "unit": "accuracy drops", "network": network, "what": "sensitivity scan"}
            rows.append(row | {"budget": None, "seed": run["seed"], **_files(record)})
    return pd.DataFrame(rows, columns=TRACE)


def _files(ours: Mapping[str, Any], rival: Mapping[str, Any] | None = None) -> dict[str, Any]:
    told = {"ours": ours["key"], "ours_record": _path(ours)}
    told |= {"rival": rival["key"] if rival else None, "rival_record": _path(rival) if rival else None}
    records = [side for side in (ours, rival) if side]
    told["dense_sha256"] = " / ".join(dict.fromkeys(side.get("dense_sha256", "unknown") for side in records))
    sides = [side["provenance"] for side in records]
    facts = {
        "commit": lambda p: ((p.get("code") or {}).get("commit") or "unknown")[:12],
        "data_sha256": lambda p: (p.get("data") or {}).get("sha256", "unknown"),
        "device": lambda p: (p.get("machine") or {}).get("gpu") or (p.get("machine") or {}).get("cpu", "unknown"),
        "precision": lambda p: p.get("precision"),
        "started": lambda p: p.get("started"),
        "notes": lambda p: "; ".join(p.get("notes", ())),
    }
    return told | {name: " / ".join(dict.fromkeys(str(fact(p)) for p in sides)) for name, fact in facts.items()}


def _path(record: Mapping[str, Any]) -> str:
    return f"{Run.from_dict(record['run']).folder}/{record['key']}.json"
