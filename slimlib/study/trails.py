"""From a number on the verdict page to the runs behind it: their records, commits, data and machines."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from slimlib.study.judgement import Judgement
from slimlib.study.names import counted, joined, network_name
from slimlib.study.runs import Run

if TYPE_CHECKING:
    import pandas as pd

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


def made_apart(judged: Iterable[Judgement]) -> str:
    """How many pairs that decide have arms run from different commits of the code, or on different processors."""
    apart = {"come from different commits of the code": 0, "were made on different processors": 0}
    pairs = {(pair["key_ours"], pair["key_rival"]): one.by_key for one in judged for pair in one.pairs.to_dict("records")}
    for (ours, rival), records in pairs.items():
        sides = [_made(records[key]) for key in (ours, rival)]
        for what, differ in zip(apart, (sides[0][fact] != sides[1][fact] for fact in ("commit", "device")), strict=True):
            apart[what] += differ
    told = joined(f"{count or 'none'} {what}" for what, count in apart.items())
    return f"Of the {counted(len(pairs), 'pair')} of runs behind the differences, {told}." if pairs else ""


def _files(ours: Mapping[str, Any], rival: Mapping[str, Any] | None = None) -> dict[str, Any]:
    told = {"ours": ours["key"], "ours_record": _path(ours)}
    told |= {"rival": rival["key"] if rival else None, "rival_record": _path(rival) if rival else None}
    records = [side for side in (ours, rival) if side]
    told["dense_sha256"] = " / ".join(dict.fromkeys(side.get("dense_sha256", "unknown") for side in records))
    sides = [_made(side) for side in records]
    return told | {fact: " / ".join(dict.fromkeys(side[fact] for side in sides)) for fact in sides[0]}


def _made(record: Mapping[str, Any]) -> dict[str, str]:
    """How a record was made, for the trace."""
    p = record["provenance"]
    machine = p.get("machine") or {}
    return {
        "commit": ((p.get("code") or {}).get("commit") or "unknown")[:12],
        "data_sha256": (p.get("data") or {}).get("sha256", "unknown"),
        "device": machine.get("gpu") or machine.get("cpu", "unknown"),
        "precision": str(p.get("precision")),
        "started": str(p.get("started")),
        "notes": "; ".join(p.get("notes", ())),
    }


def _path(record: Mapping[str, Any]) -> str:
    return f"{Run.from_dict(record['run']).folder}/{record['key']}.json"
