"""What the records answer on orders of layers, in sentences short enough to be repeated."""

from __future__ import annotations

from typing import TYPE_CHECKING

from slimlib.study.deciding import decide
from slimlib.study.judgement import Judgement
from slimlib.study.names import network_name, plain_name
from slimlib.study.ranks import least_told_apart
from slimlib.study.statistics import NOT_SUPPORTED, SUPPORTED

if TYPE_CHECKING:
    import pandas as pd


def answer(judged: Judgement) -> str:
    """How many comparisons find the two orders related, network by network; beside it depth alone, judged in the same way, and
    what is left within stages."""
    rows, ours = judged.deciding, judged.claim.ours
    what = "V / T" if ours == "neyman_score" else f"what {plain_name(ours)} keeps"
    networks = "; ".join(_related(judged, network_name(*which), part)
                         for which, part in rows.groupby(["dataset", "model"], sort=False))
    agree, not_so = (int((rows["verdict"] == verdict).sum()) for verdict in (SUPPORTED, NOT_SUPPORTED))
    more, less = (int(found.sum()) or "none" for found in (rows["over_depth_low"] > 0, rows["over_depth_high"] < 0))
    return (f"The order of the layers by {what} goes together with that by their sensitivity in *{agree} of {len(rows)}* "
            f"comparisons, which are views of the same layers ({networks}); in {not_so or 'none'} a coefficient of "
            f"{judged.claim.margin:g} is ruled out. By the same rule depth alone goes together with it in {_by_depth(judged)}. "
            f"By intervals not corrected for their number, {what} does better than depth alone in *{more}* of them, and worse in "
            f"*{less}*. Within stages, among layers of one width, the two go together with a p of at most "
            f"{1 - judged.claim.level:.2g} in {_within(judged)}.")


def _related(judged: Judgement, network: str, rows: pd.DataFrame) -> str:
    """ "ResNet-20 0 of 8, where with 9 layers one more would need a coefficient of about 0.88": few layers need a high one."""
    found, layers, alpha = int((rows["verdict"] == SUPPORTED).sum()), int(rows["n"].min()), 1 - judged.claim.level
    # as Holm asks of the next p: those that it has passed, on any network, are no longer counted
    still = int(rows["family"].iloc[0]) - int((judged.deciding["p_holm"] <= alpha).sum())
    least = least_told_apart(layers, alpha / max(1, still))
    needs = f"one more would need a coefficient of about {least:.2f}" if least == least else "no coefficient would be enough"
    return f"{network} {found} of {len(rows)}" + (f", where with {layers} layers {needs}" if found < len(rows) else "")


def _by_depth(judged: Judgement) -> str:
    """ "3 of 8": the comparisons that depth alone would have for itself, judged like the claim's own order."""
    rows = judged.cells[judged.cells["rule"] == "depth"].to_dict("records")
    return f"{sum(verdict == SUPPORTED for _, verdict in decide(judged.claim, rows)) or 'none'} of {len(rows)}"


def _within(judged: Judgement) -> str:
    known = judged.deciding.dropna(subset=["p_within"])
    told_apart = (known["p_within"] <= 1 - judged.claim.level) & (known["within"] > 0)
    return f"{int(told_apart.sum()) or 'none'} of {len(known)}"
