"""What a run of each stage does, from its data to the content of its record."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

import slimlib
from slimlib import models
from slimlib.distributed import World
from slimlib.errors import SlimlibError
from slimlib.fingerprint import fingerprint
from slimlib.randomness import seeded
from slimlib.splits import some
from slimlib.study import budgets
from slimlib.study.choices import kept_by_rules, rule_arguments
from slimlib.study.networks import dense_network, loaded, published, same_start
from slimlib.study.provenance import recorded
from slimlib.study.runs import Run
from slimlib.study.store import Store


class _Clock:
    """Seconds spent in each named part of a run."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def __call__(self, part: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self.seconds[part] = round(self.seconds.get(part, 0.0) + time.perf_counter() - start, 3)


def _dense(run: Run, store: Store, progress: bool) -> dict[str, Any]:
    """Train the full network and keep its weights; published weights are only evaluated."""
    clock, data = _Clock(), loaded(run.dataset)
    with recorded(data) as provenance:
        if run.pretrained:
            model, data = published(run, data)
            history = None
        else:
            with seeded(run.seed):
                model = models.build(run.architecture, data.num_classes, data.input_shape[0]).to(data.device)
            with clock("train"):
                history = slimlib.fit(model, data, run.recipe, seed=run.seed, progress=progress, validate="none")
            _trained(history, provenance)
        with clock("evaluate"):
            metrics = _accuracies(model, data)
        if not run.pretrained and World.current().rank == 0:
            store.save_checkpoint(run, model, test_accuracy=metrics["test_accuracy"])
        whole = slimlib.plan_widths(model, data.example_input, rule="uniform", threshold=1.0)
    cost = {"params": whole.full_params, "macs": whole.full_macs}
    return {
        "metrics": metrics,
        "cost": cost,
        "loss": _losses(history),
        "dense_sha256": fingerprint(model),
        "seconds": clock.seconds,
        "provenance": provenance,
    }


def _slim(run: Run, store: Store, progress: bool) -> dict[str, Any]:
    """Choose widths, cut or start anew, train, evaluate."""
    clock, data = _Clock(), loaded(run.dataset)
    with recorded(data) as provenance:
        dense, data, told = dense_network(run, store, data)
        provenance["notes"] += same_start(run, store, told)
        with clock("plan"):
            # Filled, so that arms whose paths have coarse steps get as much of the budget as the others.
            budget = budgets.parse(run.budget).argument()
            how = budget | {"fill": "threshold" not in budget} | rule_arguments(run, store, data)
            plan = slimlib.plan_widths(dense, data.example_input, **how)
        metrics: dict[str, float] = {"dense_test_accuracy": told["test_accuracy"]}
        taught: dict[str, Any] = {}
        if run.stage == "prune":
            with clock("prune"):
                slim = slimlib.prune(dense, plan, criterion=run.criterion, seed=run.seed)
            with clock("evaluate"):
                metrics["test_accuracy_before_finetuning"] = slimlib.evaluate(slim, data.test)
        else:
            slim = slimlib.thin(dense, plan, seed=run.seed)
            if run.stage == "distill":
                taught = {"teacher": dense, "distill": run.distill}
        with clock("train"):
            history = slimlib.fit(slim, data, run.recipe, seed=run.seed, progress=progress, validate="none", **taught)
        _trained(history, provenance)
        with clock("evaluate"):
            metrics |= _accuracies(slim, data)
    cost = {"params": plan.params, "macs": plan.macs, "dense_params": plan.full_params, "dense_macs": plan.full_macs}
    return {
        "metrics": metrics,
        "cost": cost,
        "widths": plan.widths,
        "full_widths": plan.full_widths,
        "threshold": plan.threshold,
        "wider_plan_exceeds": plan.wider,
        "loss": _losses(history),
        "dense_key": run.dense().key,
        "dense_sha256": told["sha256"],
        "seconds": clock.seconds,
        "provenance": provenance,
    }


def _sensitivity(run: Run, store: Store, progress: bool) -> dict[str, Any]:
    """Accuracy against pruning one group at a time, beside what rules keep of each group.

    On validation images, or on those that the option "split" names: "test" is for published networks, whose training has
    seen the validation images; such a scan is looked at and selects nothing.
    """
    clock, data, options = _Clock(), loaded(run.dataset), dict(run.options)
    with recorded(data) as provenance:
        dense, data, told = dense_network(run, store, data)
        provenance["notes"] += same_start(run, store, told)
        provenance["precision"] = "float32"
        if options.get("split", "val") not in ("val", "test"):
            raise SlimlibError(f"split={options['split']!r} must be 'val' or 'test'")
        images = some(getattr(data, options.get("split", "val")), options.get("images"))
        scan = {"ratios": options["ratios"]} if "ratios" in options else {}
        with clock("sensitivity"):
            curve = slimlib.sensitivity(
                dense, images, criterion=run.criterion, coupling=run.coupling, seed=run.seed, progress=progress, **scan
            )
        with clock("plan"):
            kept = list(kept_by_rules(run, dense, data))
            spectra = slimlib.spectra(dense, data.example_input, center=run.center, coupling=run.coupling)
    return {
        "metrics": {"dense_test_accuracy": told["test_accuracy"]},
        "images": len(images),
        "sensitivity": _columns(curve.to_dict("list")),
        "kept": _columns({name: [row[name] for row in kept] for name in kept[0]}),
        "spectra": {name: [float(f"{value:.6g}") for value in values] for name, values in spectra.items()},
        "dense_key": run.dense().key,
        "dense_sha256": told["sha256"],
        "seconds": clock.seconds,
        "provenance": provenance,
    }


MAKERS = {"dense": _dense, "prune": _slim, "distill": _slim, "scratch": _slim, "sensitivity": _sensitivity}


def _accuracies(model: torch.nn.Module, data: Any) -> dict[str, float]:
    """Validation accuracy, for every choice that is made; test accuracy, for report only."""
    return {"val_accuracy": slimlib.evaluate(model, data.val), "test_accuracy": slimlib.evaluate(model, data.test)}


def _trained(history: Any, provenance: dict[str, Any]) -> None:
    """What the provenance must say of the training itself."""
    provenance["precision"] = history.precision
    provenance["notes"] += history.notes
    if history.processes > 1:
        provenance["processes"] = history.processes


def _losses(history: Any) -> list[float]:
    return [] if history is None else [float(f"{value:.6g}") for value in history.loss]


def _columns(table: dict[str, list[Any]]) -> dict[str, list[Any]]:
    return {str(name): [round(v, 8) if isinstance(v, float) else v for v in values] for name, values in table.items()}
