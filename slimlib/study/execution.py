"""From a run to its record: read it, or do the work. Whatever is interrupted goes on where it stopped."""

from __future__ import annotations

import time
import warnings
from collections.abc import Iterable
from contextlib import nullcontext
from typing import Any

import torch

from slimlib.copying import copied
from slimlib.distributed import World
from slimlib.errors import Diverged, SlimlibError
from slimlib.study.locks import RunBusy
from slimlib.study.networks import dense_network, loaded, same_start
from slimlib.study.provenance import code_version
from slimlib.study.runs import Run, with_needs
from slimlib.study.stages import MAKERS
from slimlib.study.store import Store


def execute(run: Run, store: Store, progress: bool = True, wait: bool = True) -> dict[str, Any]:
    """The run's record: read if there is one, else made and written; what the run needs is executed first.

    store     where records and checkpoints lie
    progress  show a bar while training
    wait      wait for another process that is at this run, or at one it needs; else raise `RunBusy`

    Processes that train together (torchrun) all call this; the first holds the lock, decides and writes.
    """
    code_version()  # kept from here on: before the run there may be hours of waiting, in which more is committed
    world = World.current()
    for needed in run.needs():
        # A record is not enough to start from: the dense network's weights must be in the cache as well.
        if world.agreed(store.get(needed) is None or _weights_missing(needed, store)):
            execute(needed, store, progress, wait)
    with store.lock(run, wait=wait) if world.rank == 0 else nullcontext():
        record = world.agreed(store.get(run))
        if world.agreed(record is not None and not _weights_missing(run, store)):
            return record
        made = MAKERS[run.stage](run, store, progress)
        if world.rank == 0 and store.get(run) is None:  # else only the checkpoint was gone, and the evidence stays as it was
            store.put(run, made)
        world.agreed()
        return store.get(run)


def ensure(runs: Iterable[Run], store: Store, train: bool = True, progress: bool = True) -> list[dict[str, Any]]:
    """The records of the runs, in their order. Those missing are made; with train=False they are left out and counted.

    Several processes may ensure the same runs at once: each takes what no other is at, and all end with every record.
    Finished runs are never repeated, so an interrupted call is continued by calling it again. Runs that are refused, whose
    loss diverges or for which the GPU has too little memory are named in one SlimlibError once all others are done; whatever
    else goes wrong ends the call at once. Where processes train together, all but a diverging loss does.
    """
    from tqdm import tqdm

    code_version()  # as in `execute`
    runs = list(dict.fromkeys(runs))
    missing = World.current().agreed(store.missing(runs))
    for run in with_needs(runs) if train else ():
        store.drop_dead_lock(run)
    if missing and train:
        with tqdm(total=len(missing), unit="run", disable=not progress, mininterval=1) as bar:
            failed = _work_off(missing, store, bar)
        if failed:
            told = "\n".join(f"  {run.label}: {why.removeprefix(f'{run.label}: ')}" for run, why in failed.items())
            raise SlimlibError(f"{len(failed)} of {len(missing)} runs failed, the others are recorded:\n{told}")
    elif missing and progress:
        done = len(runs) - len(missing)
        print(f"{done} of {len(runs)} runs are recorded; the {len(missing)} missing ones are left out.")
    return [record for run in runs if (record := store.get(run)) is not None]


def _work_off(missing: list[Run], store: Store, bar: Any) -> dict[Run, str]:
    """Execute all that can be; a run that fails, such as one whose loss diverges, does not keep the others waiting. Where
    processes train together, only one whose loss diverges does not: what else fails ends them.

    What runs need is worked off as they are, so that what fails is tried once and not for each run that needs it. Returns
    why those of the missing runs that failed did.
    """
    failed: dict[Run, str] = {}  # the errors themselves would keep alive the networks that their frames hold
    world = World.current()
    together = world.size > 1  # then all take the same run at the same time, and nobody goes ahead
    # of several processes one alone may lack memory or find an image broken, and the others would wait for it for ever
    failures = (Diverged,) if together else (SlimlibError, torch.OutOfMemoryError)
    wanted, all_runs = set(missing), with_needs(missing)
    without_record = set(store.missing(all_runs))
    pending = world.agreed([run for run in all_runs if run in without_record or _weights_missing(run, store)])
    while pending:
        busy = []
        for run in pending:
            bar.set_description(run.label)
            if cause := next((needed for needed in run.needs() if needed in failed), None):
                failed[run] = f"it needs {cause.label}, which failed: {failed[cause]}"
                continue
            try:
                execute(run, store, progress=False, wait=together)
                bar.update(run in wanted)
            except RunBusy:
                busy.append(run)
            except failures as error:
                failed[run] = str(error)
        if len(busy) == len(pending):
            bar.set_description(f"waiting for another process, at {busy[0].label}")
            time.sleep(1.0)
        pending = busy
    return {run: why for run, why in failed.items() if run in wanted}


def trained(run: Run, store: Store) -> tuple[torch.nn.Module, Any]:
    """A copy of the dense network of a run, in evaluation mode, and its data as it wants them; trained first if need be.

    Where it is not the network that the run's record tells of, as after a lost checkpoint on another machine, a warning says so;
    among evidence it is refused.
    """
    if run.stage != "dense":
        raise SlimlibError(f"stage={run.stage!r}: only a dense run has a network to load")
    execute(run, store)
    network, data, told = dense_network(run, store, loaded(run.dataset))
    for note in same_start(run, store, told):
        warnings.warn(note, stacklevel=2)
    return copied(network), data  # the one that is kept serves the runs to come, whose records name its fingerprint


def _weights_missing(run: Run, store: Store) -> bool:
    return run.stage == "dense" and not run.pretrained and not store.checkpoint_path(run).exists()
