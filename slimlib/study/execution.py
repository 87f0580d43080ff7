"""Runs become records: execute one, or ensure that many are there."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, nullcontext
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch

import slimlib
from slimlib import models
from slimlib.distributed import World
from slimlib.errors import SlimlibError
from slimlib.study.provenance import recorded
from slimlib.study.runs import RECIPE_VERSION, Run, with_needs
from slimlib.study.store import RunBusy, Store

CONTROL_SEEDS = range(5)
"""Seeds of the untrained networks that a sensitivity scan is compared with."""


def execute(run: Run, store: Store, progress: bool = True, wait: bool = True) -> dict[str, Any]:
    """The run's record: read if there is one, else made and written; what the run needs is executed first.

    store     where records and checkpoints lie
    progress  show a bar while training
    wait      wait for another process that is at this run, or at one it needs; else raise `RunBusy`

    Processes that train together (torchrun) all call this; the first holds the lock, decides and writes.
    """
    world = World.current()
    for needed in run.needs():
        # A record is not enough to start from: the dense network's weights must be in the cache as well.
        if world.agreed(store.get(needed) is None or _weights_missing(needed, store)):
            execute(needed, store, progress, wait)
    with store.lock(run, wait=wait) if world.rank == 0 else nullcontext():
        record = world.agreed(store.get(run))
        if world.agreed(record is not None and not _weights_missing(run, store)):
            return record
        made = _STAGES[run.stage](run, store, progress)
        if record is None and world.rank == 0:  # else only the checkpoint was gone, and the evidence stays as it was
            store.put(run, {"recipe_version": RECIPE_VERSION, **made})
        world.agreed()
        return store.get(run)


def ensure(runs: Iterable[Run], store: Store, train: bool = True, progress: bool = True) -> list[dict[str, Any]]:
    """The records of the runs, in their order. Those missing are made; with train=False they are left out and counted.

    Several processes may ensure the same runs at once: each takes what no other is at, and all end with every record.
    Finished runs are never repeated, so an interrupted call is continued by calling it again. Runs that fail are named
    in one error, once all others are done.
    """
    from tqdm import tqdm

    runs = list(dict.fromkeys(runs))
    missing = World.current().agreed(store.missing(runs))
    if missing and train:
        with tqdm(total=len(missing), unit="run", disable=not progress, mininterval=1) as bar:
            failed = _work_off(missing, store, bar)
        if failed:
            told = "\n".join(f"  {run.label}: {error}" for run, error in failed.items())
            raise SlimlibError(f"{len(failed)} of {len(missing)} runs failed, the others are recorded:\n{told}")
    elif missing and progress:
        done = len(runs) - len(missing)
        print(f"{done} of {len(runs)} runs are recorded; the {len(missing)} missing ones are left out.")
    return [record for run in runs if (record := store.get(run)) is not None]


def _work_off(pending: list[Run], store: Store, bar: Any) -> dict[Run, SlimlibError]:
    """Execute all that can be; a run that fails, such as one whose loss diverges, does not keep the others waiting."""
    failed: dict[Run, SlimlibError] = {}
    together = World.current().size > 1  # then all take the same run at the same time, and nobody goes ahead
    while pending:
        busy = []
        for run in pending:
            bar.set_description(run.label)
            try:
                if causes := [failed[needed] for needed in run.needs() if needed in failed]:
                    raise causes[0]
                execute(run, store, progress=False, wait=together)
                bar.update()
            except RunBusy:
                busy.append(run)
            except SlimlibError as error:
                failed[run] = error
        if len(busy) == len(pending):
            bar.set_description("waiting for another process")
            time.sleep(1.0)
        pending = busy
    return failed


def trained(run: Run, store: Store, progress: bool = True) -> tuple[torch.nn.Module, Any]:
    """The dense network of a run, in evaluation mode, and its data as it wants them; trained first if need be."""
    if run.stage != "dense":
        raise SlimlibError(f"stage={run.stage!r}: only a dense run has a network to load")
    execute(run, store, progress)
    network, data, _ = _dense_network(run, store, _data(run.dataset))
    return network, data


def _weights_missing(run: Run, store: Store) -> bool:
    return run.stage == "dense" and not run.pretrained and not store.checkpoint_path(run).exists()


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
    clock, data = _Clock(), _data(run.dataset)
    with recorded(data) as provenance:
        if run.pretrained:
            model, data = _published(run, data)
            history = None
        else:
            torch.manual_seed(run.seed)
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
        "seconds": clock.seconds,
        "provenance": provenance,
    }


def _slim(run: Run, store: Store, progress: bool) -> dict[str, Any]:
    """Choose widths, cut or start anew, train, evaluate."""
    clock, data = _Clock(), _data(run.dataset)
    with recorded(data) as provenance:
        dense, data, told = _dense_network(run, store, data)
        provenance["notes"] += _drift(run, store, told)
        with clock("plan"):
            # Filled, so that arms whose paths have coarse steps get as much of the budget as the others.
            how = run.budget_arguments() | rule_arguments(run, store, data)
            plan = slimlib.plan_widths(dense, data.example_input, fill=True, **how)
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
        "seconds": clock.seconds,
        "provenance": provenance,
    }


def _sensitivity(run: Run, store: Store, progress: bool) -> dict[str, Any]:
    """Accuracy against pruning one group at a time, on validation images, beside what rules keep of each group."""
    clock, data, options = _Clock(), _data(run.dataset), dict(run.options)
    with recorded(data) as provenance:
        dense, data, told = _dense_network(run, store, data)
        provenance["notes"] += _drift(run, store, told)
        provenance["precision"] = "float32"
        validation = data.val.first(options.get("images"))
        scan = {"ratios": options["ratios"]} if "ratios" in options else {}
        with clock("sensitivity"):
            curve = slimlib.sensitivity(
                dense, validation, criterion=run.criterion, coupling=run.coupling, progress=progress, **scan
            )
        with clock("plan"):
            kept = list(_kept_by_rules(run, dense, data))
            spectra = slimlib.spectra(dense, data.example_input, center=run.center, coupling=run.coupling)
    return {
        "metrics": {"dense_test_accuracy": told["test_accuracy"]},
        "images": len(validation),
        "sensitivity": _columns(curve.to_dict("list")),
        "kept": _columns({name: [row[name] for row in kept] for name in kept[0]}),
        "spectra": {name: [float(f"{value:.6g}") for value in values] for name, values in spectra.items()},
        "dense_key": run.dense().key,
        "seconds": clock.seconds,
        "provenance": provenance,
    }


_STAGES = {"dense": _dense, "prune": _slim, "distill": _slim, "scratch": _slim, "sensitivity": _sensitivity}


def _kept_by_rules(run: Run, dense: torch.nn.Module, data: Any) -> Iterator[dict[str, Any]]:
    """One row a rule, budget and group: the fraction of the group kept at half the cost; V / T for `neyman_score`."""
    normalised = any(isinstance(module, torch.nn.BatchNorm2d) for module in dense.modules())
    calibration = {} if normalised else {"calibration": data.train.normalised(slice(0, 512))}
    rules: list[tuple[str, dict[str, Any]]] = [("pca", {}), ("pca", {"center": False}), ("pca_budgeted", {})]
    rules += [("global_l1", {}), ("neyman", calibration)]
    rules += [("pca_at_init", {"seed": seed}) for seed in CONTROL_SEEDS]
    if normalised:
        rules += [("pca_folded", {}), ("global_bn", {})]
    for rule, how in rules:
        name = rule + ("" if how.get("center", True) else "_uncentred")
        for unit in ("macs", "params"):
            plan = slimlib.plan_widths(
                dense, data.example_input, rule=rule, coupling=run.coupling, **how, **{f"keep_{unit}": 0.5}
            )
            for group, fraction in plan.kept.items():
                yield {
                    "rule": name,
                    "budget": f"{unit}:0.5",
                    "seed": how.get("seed", 0),
                    "group": group,
                    "value": fraction,
                }
    path = slimlib.width_path(dense, data.example_input, coupling=run.coupling)
    v, t = slimlib.sampling.variances(dense, path.layout, path.groups, calibration.get("calibration"))
    for group, score in zip(path.groups, v / t, strict=True):
        yield {"rule": "neyman_score", "budget": None, "seed": 0, "group": group.name, "value": float(score)}


def rule_arguments(run: Run, store: Store, data: Any) -> dict[str, Any]:
    """The rule and everything it reads, as arguments of `slimlib.plan_widths`.

    In a run's options `calibration` is a number of unlabelled training images; here it becomes the images.
    """
    how: dict[str, Any] = {"rule": run.rule, "coupling": run.coupling, "center": run.center, "seed": run.seed}
    how |= dict(run.options)
    if "calibration" in how:
        how["calibration"] = data.train.normalised(slice(0, int(how["calibration"])))
    if run.rule == "sensitivity":
        ratio = float(how.pop("ratio", 0.75))
        scan = execute(run.sensitivity_scan(), store, progress=False)["sensitivity"]
        at = [i for i, value in enumerate(scan["ratio"]) if value == ratio]
        if not at:
            raise SlimlibError(f"ratio={ratio} was not measured; the scan holds {sorted(set(scan['ratio']))}")
        how["drops"] = {scan["group"][i]: scan["drop"][i] for i in at}
    return how


def _dense_network(run: Run, store: Store, data: Any) -> tuple[torch.nn.Module, Any, dict[str, Any]]:
    """The dense network of a run, the data as it wants them normalised, and the accuracy of exactly these weights."""
    if run.pretrained:
        model, data = _published(run, data)
        return model, data, {"test_accuracy": store.get(run.dense())["metrics"]["test_accuracy"]}
    path = store.checkpoint_path(run.dense())
    if not path.exists():
        raise SlimlibError(f"the checkpoint of {run.dense().label} vanished from {store.cache}; start the run again")
    model, told = _from_checkpoint(run.dense(), store.cache, path.stat().st_mtime_ns, data)
    return model, data, told


@lru_cache(maxsize=1)
def _from_checkpoint(run: Run, cache: Path, written: int, data: Any) -> tuple[torch.nn.Module, dict[str, Any]]:
    """The trained network and what was told with it. One network serves the runs that start from it: none changes it, and a
    teacher need answer only once (`slimlib.lesson`). `written` is the file's time, so that another file is read anew."""
    model = models.build(run.architecture, data.num_classes, data.input_shape[0]).to(data.device)
    told = Store("", cache).load_checkpoint(run, model)
    return model.eval(), told


def _published(run: Run, data: Any) -> tuple[torch.nn.Module, Any]:
    model = models.pretrained(f"{run.dataset}/{run.architecture}").to(data.device).eval()
    return model, slimlib.data.with_normalisation(data, *models.PRETRAINED_NORMALISATION)


def _drift(run: Run, store: Store, told: dict[str, Any]) -> list[str]:
    """A note when the checkpoint was remade and is not the network whose accuracy is on record (another machine)."""
    there = store.get(run.dense())["metrics"]["test_accuracy"]
    if there == told["test_accuracy"]:
        return []
    return [f"dense checkpoint remade: test accuracy {told['test_accuracy']:.4f}, on record {there:.4f}"]


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


@lru_cache(maxsize=2)
def _data(name: str) -> Any:
    return slimlib.load_data(name)


__all__ = ["ensure", "execute", "rule_arguments", "trained", "with_needs"]
