"""The dense network that a run starts from, and the images it takes."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any

import torch

import slimlib
from slimlib import models
from slimlib.errors import SlimlibError
from slimlib.study.runs import Run
from slimlib.study.store import Store


@lru_cache(maxsize=2)
def loaded(name: str) -> Any:
    return slimlib.load_data(name)


def dense_network(run: Run, store: Store, data: Any) -> tuple[torch.nn.Module, Any, dict[str, Any]]:
    """The dense network of a run, the data as it wants them normalised, and the accuracy of exactly these weights."""
    if run.pretrained:
        model, data = published(run, data)
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


def published(run: Run, data: Any) -> tuple[torch.nn.Module, Any]:
    model = models.pretrained(f"{run.dataset}/{run.architecture}").to(data.device).eval()
    return model, slimlib.data.with_normalisation(data, *models.PRETRAINED_NORMALISATION)


def drift(run: Run, store: Store, told: dict[str, Any]) -> list[str]:
    """A note when the checkpoint was remade and is not the network whose accuracy is on record (another machine)."""
    there = store.get(run.dense())["metrics"]["test_accuracy"]
    if there == told["test_accuracy"]:
        return []
    return [f"dense checkpoint remade: test accuracy {told['test_accuracy']:.4f}, on record {there:.4f}"]


def same_start(run: Run, store: Store, told: dict[str, Any]) -> None:
    """Refuse to add an arm to a comparison whose other arms started from another dense network.

    The same seed trains another network on another processor, and arms that start from different networks are no pair.
    """
    cell = ("stage", "criterion", "budget", "coupling", "seed")
    for record in store.all(run.folder):
        theirs = record.get("metrics", {}).get("dense_test_accuracy", told["test_accuracy"])
        if theirs != told["test_accuracy"] and all(record["run"][name] == getattr(run, name) for name in cell):
            raise SlimlibError(
                f"{run.label}: {record['label']} started from another dense network (test accuracy {theirs:.4f}, here "
                f"{told['test_accuracy']:.4f}), so the two could not be compared. Put its checkpoint, "
                f"{store.checkpoint_path(run.dense()).name}, into {store.checkpoint_path(run.dense()).parent}, or remove the "
                f"records of seed {run.seed} and run them all here"
            )
