"""What a run gives to the rule that chooses its widths, and what several rules choose for one network."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

import slimlib
from slimlib.errors import SlimlibError
from slimlib.splits import some
from slimlib.study.runs import Run
from slimlib.study.store import Store

CONTROL_SEEDS = range(5)
"""Seeds of the untrained networks that a sensitivity scan is compared with."""


def kept_by_rules(run: Run, dense: torch.nn.Module, data: Any) -> Iterator[dict[str, Any]]:
    """One row a rule, budget and group: the fraction of the group kept at half the cost; V / T for `neyman_score`."""
    normalised = any(isinstance(module, torch.nn.BatchNorm2d) for module in dense.modules())
    calibration = {} if normalised else {"calibration": some(data.train, 512).normalised()}
    rules: list[tuple[str, dict[str, Any]]] = [("pca", {}), ("pca", {"center": False}), ("pca_budgeted", {})]
    rules += [("global_l1", {}), ("neyman", calibration)]
    rules += [("pca_at_init", {"seed": seed}) for seed in CONTROL_SEEDS]
    if normalised:
        rules += [("pca_folded", {}), ("global_bn", {})]
    layout = slimlib.trace(dense, data.example_input)
    groups = layout.slimmable(run.coupling)
    for rule, how in rules:
        name = rule + ("" if how.get("center", True) else "_uncentred")
        for unit in ("macs", "params"):
            how_much = {f"keep_{unit}": 0.5, "layout": layout, "coupling": run.coupling}
            plan = slimlib.plan_widths(dense, data.example_input, rule=rule, **how, **how_much)
            for group, fraction in plan.kept.items():
                yield {
                    "rule": name,
                    "budget": f"{unit}:0.5",
                    "seed": how.get("seed", 0),
                    "group": group,
                    "value": fraction,
                }
    v, t = slimlib.sampling.variances(dense, layout, groups, calibration.get("calibration"))
    for group, score in zip(groups, v / t, strict=True):
        yield {"rule": "neyman_score", "budget": None, "seed": 0, "group": group.name, "value": float(score)}


def rule_arguments(run: Run, store: Store, data: Any) -> dict[str, Any]:
    """The rule and everything it reads, as arguments of `slimlib.plan_widths`.

    In a run's options `calibration` is a number of unlabelled training images; here it becomes the images.
    """
    how: dict[str, Any] = {"rule": run.rule, "coupling": run.coupling, "center": run.center, "seed": run.seed}
    how |= dict(run.options)
    if "calibration" in how:
        how["calibration"] = some(data.train, int(how["calibration"])).normalised()
    if run.rule == "sensitivity":
        ratio = float(how.pop("ratio", 0.75))
        scan = store.get(run.sensitivity_scan())["sensitivity"]  # `Run.needs` has it executed first
        at = [i for i, value in enumerate(scan["ratio"]) if value == ratio]
        if not at:
            raise SlimlibError(f"ratio={ratio} was not measured; the scan holds {sorted(set(scan['ratio']))}")
        how["drops"] = {scan["group"][i]: scan["drop"][i] for i in at}
    return how
