"""The rules of book/claims.yml by which intervals and p-values become verdicts, on each comparison and on the whole claim."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from slimlib.study.claims import Claim
from slimlib.study.statistics import INCONCLUSIVE, NOT_SUPPORTED, SUPPORTED, holm, verdict

MIXED = "mixed"


def decide(claim: Claim, rows: Sequence[Mapping[str, Any]]) -> list[tuple[float, str]]:
    """(Holm's p, verdict) of each deciding comparison, by the rules in book/claims.yml: the p of all are corrected together, and
    for those of their `family` that are still to be made."""
    enough = [claim.kind == "rank" or row["n"] >= claim.min_seeds for row in rows]
    family = max([len(rows), *(row.get("family", 0) for row in rows)])
    adjusted = holm([row["p"] if ok else np.nan for row, ok in zip(rows, enough, strict=True)], family)
    return [(p, _decided(row, p, claim) if ok else INCONCLUSIVE) for row, p, ok in zip(rows, adjusted, enough, strict=True)]


def _decided(row: Mapping[str, Any], p_holm: float, claim: Claim) -> str:
    """An interval supports nothing where p, corrected, does not."""
    return verdict(row["low"] if p_holm <= 1 - claim.level else -np.inf, row["high"], claim.margin)


def by_bootstrap(row: Mapping[str, Any], p_holm: float, claim: Claim) -> str:
    """What the bootstrap interval would lead to in the place of the t interval, by the same p."""
    if row["n"] < claim.min_seeds:
        return INCONCLUSIVE
    return _decided({"low": row["boot_low"], "high": row["boot_high"]}, p_holm, claim)


def as_a_whole(verdicts: Iterable[str], family: int) -> str:
    """The verdict on a claim from those of its comparisons: ``family`` of them, with those still to be made in profiles begun."""
    verdicts = list(verdicts)
    if {SUPPORTED, NOT_SUPPORTED} <= set(verdicts):
        return MIXED
    alike = len(set(verdicts)) == 1 and len(verdicts) >= family
    return verdicts[0] if alike else INCONCLUSIVE
