"""Rules side by side on a network of one's own: the same budget, the same training, seed by seed."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from slimlib import arguments
from slimlib._checks import check_layers
from slimlib.arguments import A_MODEL, kind, name_of
from slimlib.criteria import Criterion
from slimlib.errors import Diverged, SlimlibError
from slimlib.evaluation import evaluate
from slimlib.planning import Rule, width_path
from slimlib.plans import WidthPlan
from slimlib.recipe import Recipe
from slimlib.splits import Data
from slimlib.surgery import prune
from slimlib.tracing import trace
from slimlib.training import fit

if TYPE_CHECKING:
    import pandas as pd


def compare(
    model: nn.Module, data: Data, rules: Mapping[str, str | Rule] | Iterable[str | Rule], recipe: Recipe, *,
    keep_macs: float | None = None, keep_params: float | None = None, coupling: str = "inner", criterion: str | Criterion = "l1",
    seeds: Iterable[int] = range(3), progress: bool = True, eval_batch_size: int = 1000,
) -> pd.DataFrame:
    """Prune a trained network to the widths of each rule and fine-tune it, once a seed: one row a rule and seed.

    All plans are filled up to the one budget, and all arms of a seed share recipe, order of images and everything else, so
    their differences are paired: ``slimlib.study.pairing.against(table, "uniform")`` gives means with intervals, and
    ``slimlib.study.figures.accuracy_by_rule(table)`` draws them. Both take ``metric="val_accuracy"``, by which
    to choose; ``test_accuracy`` is for the end. A run that diverges has no row, and a warning says so.

    Columns: ``arm`` (the rule's label), ``seed``, ``val_accuracy`` (where there are validation images) and ``test_accuracy`` in
    [0, 1], ``kept_macs`` and ``kept_params`` (shares of the dense cost); ``dataset``, ``model``, ``stage``, ``criterion``,
    ``budget``, ``budget_kind``, ``budget_value``, the same in all rows; ``key``, which names the row.

    Args:
        model: a trained classifier, left alone.
        data: see :func:`slimlib.data.load_data`; fine-tuned on ``data.train``.
        rules: names or functions (:data:`slimlib.planning.Rule`), or {label: rule}. ``functools.partial`` gives a rule its
            options: ``{"tilt": partial(slimlib.rules.tilt, power=0.5)}``.
        recipe: of the fine-tuning, see :class:`slimlib.Recipe`.
        keep_macs, keep_params: the budget, one of the two, a share of the dense cost in (0, 1].
        coupling: as of :func:`slimlib.width_path`.
        criterion: which filters stay, as of :func:`slimlib.prune`.
        seeds: each fixes the training and what a rule draws at random.
        progress: show a bar, a run at a time.
        eval_batch_size: images at a time in evaluation, which memory must hold.

    Raises:
        SlimlibError: not exactly one budget, no rule, two of one label or two equal seeds; and whatever a rule or the training
            refuses. :class:`~slimlib.errors.Diverged` where no run is left.
    """
    import pandas as pd
    from tqdm import tqdm

    kind("model", model, nn.Module, A_MODEL)
    kind("data", data, Data, "what load_data or slimlib.data.from_arrays returns")
    arms, seeds = _labelled(rules), _distinct(seeds)
    eval_batch_size = arguments.count("eval_batch_size", eval_batch_size, "images")
    given = {unit: keep for unit, keep in (("macs", keep_macs), ("params", keep_params)) if keep is not None}
    if len(given) != 1:
        raise SlimlibError(f"give exactly one of keep_macs and keep_params, not {sorted(given) or 'none'}")
    (unit, keep), = given.items()
    check_layers(model)
    example_input = data.example_input.to(next(model.parameters()).device)
    layout = trace(model, example_input)
    ranked_by = name_of(criterion) if callable(criterion) else criterion
    cell = {"dataset": data.name, "model": type(model).__name__, "stage": "prune", "criterion": ranked_by,
            "budget": f"{unit}:{keep}", "budget_kind": unit, "budget_value": keep}
    how = {"coupling": coupling, "unit": unit, "layout": layout}
    # all plans first: what a rule refuses is said before the first hour of training
    plans = {arm: list(_plans(model, example_input, rule, seeds, {f"keep_{unit}": keep}, how)) for arm, rule in arms.items()}
    turns = [(seed, arm, plans[arm][at]) for at, seed in enumerate(seeds) for arm in arms]
    rows = []
    for seed, arm, plan in tqdm(turns, desc="compare", disable=not progress, mininterval=1):
        slim = prune(model, plan, criterion=criterion, seed=seed)
        try:
            fit(slim, data, recipe, seed=seed, progress=False, validate="none")
            found = {"val_accuracy": evaluate(slim, data.val, eval_batch_size)} if len(data.val) else {}
            found |= {"test_accuracy": evaluate(slim, data.test, eval_batch_size)}
        except Diverged as error:  # the hours that the other runs took are not lost with it
            why = f"{arm}, seed {seed}: {error}"
            warnings.warn(f"{why}; left out", stacklevel=2)
            continue
        costs = {"kept_macs": plan.keep_macs, "kept_params": plan.keep_params}
        rows.append({**cell, "arm": arm, "seed": seed, **found, **costs, "key": f"{arm}, seed {seed}"})
    if not rows:
        raise Diverged(f"all {len(turns)} runs have diverged, the last: {why}")
    return pd.DataFrame(rows)


def _plans(model: nn.Module, example_input: Tensor, rule: str | Rule, seeds: list[int], budget: Mapping[str, float],
           how: Mapping[str, Any]) -> Iterator[WidthPlan]:
    """A rule's plan for each seed: one for all, where it draws nothing."""
    path = None
    for seed in seeds:
        if path is None or path.drawn:
            path = width_path(model, example_input, rule=rule, seed=seed, **how)
            plan = path.plan(fill=True, **budget)
        yield plan


def _distinct(seeds: Iterable[int]) -> list[int]:
    """The seeds as ints, all different."""
    kind("seeds", seeds, Iterable, "a list of whole numbers, such as range(3)")
    seeds = [arguments.seed("seeds", seed, bits=63) for seed in seeds]
    if not seeds:
        raise SlimlibError("seeds is empty: give at least one")
    if twice := sorted({seed for seed in seeds if seeds.count(seed) > 1}):
        raise SlimlibError(f"seeds={seeds} names {twice[0]} more than once: that would be the same training again; give "
                           "different seeds")
    return seeds


def _labelled(rules: Mapping[str, str | Rule] | Iterable[str | Rule]) -> dict[str, Any]:
    if isinstance(rules, str) or callable(rules):
        raise SlimlibError(f"rules={rules!r} must be a list or {{label: rule}}: a comparison needs two")
    kind("rules", rules, Iterable, "a list of rules, or {label: rule}")
    pairs = list(rules.items()) if isinstance(rules, Mapping) else [(name_of(r) if callable(r) else str(r), r) for r in rules]
    labels = [label for label, _ in pairs]
    if twice := sorted({label for label in labels if labels.count(label) > 1}):
        raise SlimlibError(f"rules: {twice[0]!r} is there twice; give {{label: rule}}")
    if not pairs:
        raise SlimlibError("rules is empty: name what is to be compared")
    return dict(pairs)
