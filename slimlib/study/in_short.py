"""The answers at a glance: what was asked, network by network, in a word each."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from slimlib.study.answers import UNDECIDED, outcome
from slimlib.study.elsewhere import elsewhere
from slimlib.study.fragile import fragile
from slimlib.study.judgement import Judgement
from slimlib.study.names import UNITS, counted, joined, network_name, plain_name
from slimlib.study.shapes import hardly_differ
from slimlib.study.statistics import INCONCLUSIVE, NOT_SUPPORTED, SUPPORTED

if TYPE_CHECKING:
    import pandas as pd

IN_A_WORD = {
    "better than": "better", "better, by less than matters, than": "better, by less than matters",
    "no better than": "no better", "worse than": "worse", UNDECIDED: "open",
}  # fmt: skip
COUNTED_AS = {
    "better than": "for the claim in question", "better, by less than matters, than": "for it, but by less than matters",
    "no better than": "against it", "worse than": "against it", UNDECIDED: "open",
}  # fmt: skip
OF_VERDICTS = {SUPPORTED: "better than", NOT_SUPPORTED: "no better than", INCONCLUSIVE: UNDECIDED}  # of orders of layers
FEW = "with too few seeds to be judged"
ONLY_IF_ANY = ("for it, but by less than matters", FEW)
FRAGILE = "†"
"""Mark of a verdict that another choice would turn (`fragile`)."""
STAGES = {"prune": "", "distill": ", students", "scratch": ", from scratch"}  # pruned networks are the usual case


def table(judged: Mapping[str, Judgement]) -> pd.DataFrame:
    """One row a claim and rival, one column a network: the outcome of the comparison at equal MACs and at equal parameters,
    "open" where neither can be said; of a claim about orders of layers, how many comparisons find them related or are open.

    A mark (`FRAGILE`) stands at what another choice would turn; in brackets what runs of other studies say (`elsewhere`)."""
    import pandas as pd

    rows: dict[tuple[str, str], dict[str, str]] = {}
    records = {key: record for one in judged.values() for key, record in one.by_key.items()}.values()
    for name, one in judged.items():
        claim = one.claim
        others = elsewhere(one, records)
        if claim.kind == "rank":
            rows[name, f"{_short(claim.ours)} against the layers' sensitivity"] = _related(one)
        for rival in claim.rivals if claim.kind == "paired" else ():
            what = f"{_short(claim.ours)} against {_short(rival)}{STAGES[claim.stage]}"
            rows[name, what] = _outcomes(one, rival) | _others(one, rival, others)
    networks = dict.fromkeys(network for cells in rows.values() for network in cells)
    found = [{"claim": name, "what was compared": what, **{network: cells.get(network, "–") for network in networks}}
             for (name, what), cells in rows.items()]
    return pd.DataFrame(found, columns=["claim", "what was compared", *networks]).set_index("claim")


def _short(arm: str) -> str:
    """The name of an arm without what a bracket says of it: "PCA"."""
    return plain_name(arm).partition(" (")[0]


def _related(judged: Judgement) -> dict[str, str]:
    rows = judged.deciding
    found = {}
    for which, part in rows.groupby(["dataset", "model"], sort=False) if len(rows) else ():
        related, still_open = (int((part["verdict"] == verdict).sum()) for verdict in (SUPPORTED, INCONCLUSIVE))
        found[network_name(*which)] = f"related in {related}{f', open in {still_open}' * bool(still_open)} of {len(part)}"
    return found


def _outcomes(judged: Judgement, rival: str) -> dict[str, str]:
    """Network -> "no better", or "MACs: no better; parameters: worse" where the two units differ or one is missing."""
    turn = fragile(judged)
    words = [(row, "same widths" if hardly_differ(judged, rival, (row["dataset"], row["model"]))
              else _word(row, judged) + f" {FRAGILE}" * (place in turn))
             for place, row in enumerate(judged.deciding.to_dict("records")) if row["rival"] == rival]
    return _by_network(words)


def _others(judged: Judgement, rival: str, rows: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """What decides nothing, in brackets. ``rows`` of `elsewhere`."""
    words = [(row, _word(row, judged)) for row in rows if row["rival"] == rival]
    return {network: f"({found})" for network, found in _by_network(words).items()}


def _by_network(words: Iterable[tuple[Mapping[str, Any], str]]) -> dict[str, str]:
    by_unit: dict[str, dict[str, str]] = {}
    for row, word in words:
        by_unit.setdefault(network_name(row["dataset"], row["model"]), {})[row["unit"]] = word
    return {network: _together(found) for network, found in by_unit.items()}


def _together(found: Mapping[str, str]) -> str:
    if len(found) == len(UNITS) and len(set(found.values())) == 1:
        return next(iter(found.values()))
    return "; ".join(f"{UNITS[unit]}: {found[unit]}" for unit in UNITS if unit in found)


def _word(row: Mapping[str, Any], judged: Judgement) -> str:
    least = judged.claim.min_seeds
    return IN_A_WORD[outcome(row, judged.claim.margin)] if row["n"] >= least else f"{row['n']} of {counted(least, 'seed')}"


def sentence(judged: Mapping[str, Judgement], which: str) -> str:
    """ "14 comparisons of accuracies decide the paper's claims so far: 2 for the claim in question; ...": all of them, counted by
    their outcomes. Comparisons of orders are counted apart, as several are views of one scan."""
    so_far = "" if all(one.complete for one in judged.values()) else " so far"
    said: list[str] = []
    for kind, what in (("paired", "accuracies"), ("rank", "orders of layers, which are views of the same scans,")):
        found = [_counted_as(row, one) for one in judged.values() if one.claim.kind == kind
                 for row in one.deciding.to_dict("records")]
        if found:
            told = "; ".join(f"{found.count(words) or 'none'} {words}" for words in dict.fromkeys([*COUNTED_AS.values(), FEW])
                             if words in found or words not in ONLY_IF_ANY)
            decide = f"decide{'s' * (len(found) == 1)} {'them as well' if said else f'{which}{so_far}'}"
            said.append(f"{counted(len(found), 'comparison')} of {what} {decide}: {told}.")
    return " ".join(said) or f"No comparison decides {which} yet."


def _counted_as(row: Mapping[str, Any], judged: Judgement) -> str:
    if judged.claim.kind == "rank":
        return COUNTED_AS[OF_VERDICTS[row["verdict"]]]
    return COUNTED_AS[outcome(row, judged.claim.margin)] if row["n"] >= judged.claim.min_seeds else FEW


def for_the_front_page(judged: Mapping[str, Judgement]) -> str:
    """The paper's claims and those about our own rule, counted in a sentence each; and all in one table, the controls last."""
    papers = {name: one for name, one in judged.items() if not one.claim.is_control and one.claim.ours == "pca"}
    own = {name: one for name, one in judged.items() if not one.claim.is_control and name not in papers}
    named = ((f"{what} ({joined(dict.fromkeys(name.partition('-')[0] for name in part))})", part) for what, part in
             (("the paper's claims", papers), ("the claims about the book's own rule", own)) if part)
    lines = [f"- {sentence(part, which)}" for which, part in named]
    return "\n".join([*lines, "", *_markdown(table({**papers, **own, **judged}))]) + "\n"


def _markdown(cells: pd.DataFrame) -> Sequence[str]:
    """A table, its index as the first column; of a claim's name the number alone, which leaves room for what was compared."""
    body = [[claim.partition("-")[0], *words] for claim, *words in cells.reset_index().to_numpy()]
    rows = [[cells.index.name, *cells.columns], ["---"] * (1 + len(cells.columns)), *body]
    return [f"| {' | '.join(map(str, row))} |" for row in rows]
