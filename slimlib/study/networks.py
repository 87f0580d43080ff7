"""The dense network that a run starts from, and the images it takes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch

import slimlib
from slimlib import models
from slimlib.errors import SlimlibError
from slimlib.fingerprint import fingerprint
from slimlib.imagesets import KNOWN
from slimlib.study.runs import SLIM_STAGES, Run
from slimlib.study.store import Store

COMPARED = ("stage", "criterion", "budget", "coupling", "seed", "dense_recipe")
"""What runs of one network share that are arms of one comparison."""


@lru_cache(maxsize=2)
def loaded(name: str) -> Any:
    return slimlib.load_data(name)


def dense_network(run: Run, store: Store, data: Any) -> tuple[torch.nn.Module, Any, dict[str, Any]]:
    """The dense network of a run, the data as it wants them normalised, and its own test accuracy and fingerprint."""
    if run.pretrained:
        model, data = published(run, data)
        accuracy = store.get(run.dense())["metrics"]["test_accuracy"]
        return model, data, {"test_accuracy": accuracy, "sha256": fingerprint(model)}
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
    return model.eval(), {**told, "sha256": fingerprint(model)}


def published(run: Run, data: Any) -> tuple[torch.nn.Module, Any]:
    """The network with published weights, and the data as it wants them: one of each for the runs that start from it."""
    return _published(f"{run.dataset}/{run.architecture}", data)


@lru_cache(maxsize=1)
def _published(name: str, data: Any) -> tuple[torch.nn.Module, Any]:
    model = models.pretrained(name).to(data.device).eval()
    return model, slimlib.data.with_normalisation(data, *models.PRETRAINED_NORMALISATION)


def same_start(run: Run, store: Store, told: dict[str, Any]) -> list[str]:
    """Notes on the records beside this run, or of it, that rest on another dense network than it does; evidence refuses them.

    The same seed trains another network on another processor. Arms that start from different networks are no pair, and
    the accuracy or the scan of another network says nothing of this one.
    """
    notes = []
    for record in _companions(run, store):
        if images := _other_images(run, record):
            if store.strict:
                raise SlimlibError(f"{run.label}: {images}, so the two do not belong together. Let SLIMLIB_DATA name the folder "
                                   "that has those images, or remove the records of the others and run them all here")
            notes.append(images)
        if _same_weights(record, told):
            continue
        whose = "its own record" if record["key"] == run.key else record["label"]
        theirs = f"{whose} rests on another dense network (test accuracy {_dense_accuracy(record):.4f}, here "
        theirs += f"{told['test_accuracy']:.4f})"
        if store.strict:
            raise SlimlibError(
                f"{run.label}: {theirs}, so the two do not belong together. Put its checkpoint, "
                f"{store.checkpoint_path(run.dense()).name}, into {store.checkpoint_path(run.dense()).parent}, or remove the "
                f"records of seed {run.seed} and run them all here"
            )
        notes.append(theirs)
    return notes


def _companions(run: Run, store: Store) -> Iterator[dict[str, Any]]:
    """The records that this run's own is read together with: what it needs, and in evidence its comparison's other arms; of a
    dense run, which needs nothing, its own."""
    yield from filter(None, map(store.get, run.needs() or [run]))
    if store.strict and run.stage in SLIM_STAGES:
        for record in store.all(run.folder):
            other = Run.from_dict(record["run"])
            if all(getattr(other, name) == getattr(run, name) for name in COMPARED):
                yield record


def _other_images(run: Run, record: Mapping[str, Any]) -> str | None:
    """What to say of a record whose images were others. Those of the known sets are checked as they are loaded; "imagenet" is
    any folder of images."""
    theirs = (record["provenance"].get("data") or {}).get("sha256")
    if run.dataset in KNOWN or theirs in (None, here := loaded(run.dataset).sha256):
        return None
    return f"{record['label']} was made with other images (SHA-256 {theirs[:12]}, here {here[:12]})"


def _same_weights(record: Mapping[str, Any], told: Mapping[str, Any]) -> bool:
    """By their fingerprint; a record from before there was one is known by its network's accuracy alone."""
    if "dense_sha256" in record:
        return record["dense_sha256"] == told["sha256"]
    return _dense_accuracy(record) == told["test_accuracy"]


def _dense_accuracy(record: Mapping[str, Any]) -> float:
    return record["metrics"]["test_accuracy" if record["run"]["stage"] == "dense" else "dense_test_accuracy"]
