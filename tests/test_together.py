"""Processes that train together: what one of them alone meets ends them all, and none is left waiting for another."""

import sys
from datetime import timedelta

import pytest
import torch
from torch import distributed, nn

import slimlib
from slimlib import Recipe, SlimlibError
from slimlib.distributed import World, joined
from slimlib.errors import Diverged
from slimlib.study import execution, stages
from slimlib.study.runs import Run
from slimlib.study.store import Store

RUNS = [Run("fashionmnist-10k", "lenet5", "dense", recipe=Recipe(epochs=1, lr=0.05), seed=seed) for seed in (0, 1)]


class Pair(World):
    """The first of two processes that agree on everything."""

    def agreed(self, value=None):
        return value


def test_a_loss_that_diverges_in_all_of_them_keeps_no_later_run_waiting(tmp_path, monkeypatch):
    def dense(run, store, progress):
        raise Diverged("the loss became nan")

    monkeypatch.setitem(stages.MAKERS, "dense", dense)
    monkeypatch.setattr(World, "current", classmethod(lambda cls: Pair(0, 2)))
    with pytest.raises(SlimlibError, match="2 of 2 runs failed"):
        execution.ensure(RUNS, Store(tmp_path / "records", tmp_path / "cache"), progress=False)


class Twins(Pair):
    """The first of two processes whose shares of each batch are alike."""

    def wrap(self, model, device):
        return model

    def mean(self, value):
        return value.item()


class NormAct(nn.BatchNorm2d):
    """A norm of another kind than torch's own."""


@pytest.mark.parametrize("device, told", [("cpu", "on GPUs only"), ("cuda", "NormAct used the statistics of each of 2")])
def test_what_is_not_shared_is_said_of_the_line_that_trains(monkeypatch, device, told):
    data, shared = slimlib.load_data("fashionmnist-10k", limit=40, device="cpu"), World.shared_statistics
    model = nn.Sequential(nn.Conv2d(1, 4, 3), NormAct(4), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 10))
    monkeypatch.setattr(World, "current", classmethod(lambda cls: Twins(0, 2)))
    monkeypatch.setattr(World, "shared_statistics", lambda self, model, on: shared(self, model, torch.device(device)))
    with pytest.warns(UserWarning, match=told) as said:
        line = sys._getframe().f_lineno + 1
        slimlib.fit(model, data, Recipe(epochs=1, lr=0.05, batch_size=20), progress=False)
    assert [(warning.filename, warning.lineno) for warning in said] == [(__file__, line)]


@pytest.mark.parametrize("alone", [True, False])
def test_a_failure_ends_processes_that_train_together_at_once(tmp_path, monkeypatch, alone):
    """The others are within the run, and would wait there for ever for one that had gone on to the next."""
    tried = []

    def dense(run, store, progress):
        tried.append(run)
        raise SlimlibError("cut.JPEG cannot be read")

    monkeypatch.setitem(stages.MAKERS, "dense", dense)
    monkeypatch.setattr(World, "current", classmethod(lambda cls: World() if alone else Pair(0, 2)))
    with pytest.raises(SlimlibError, match="2 of 2 runs failed" if alone else r"^cut\.JPEG cannot be read$"):
        execution.ensure(RUNS, Store(tmp_path / "records", tmp_path / "cache"), progress=False)
    assert tried == (RUNS if alone else RUNS[:1]) and not list(tmp_path.rglob("*.lock"))


@pytest.fixture
def started_by_torchrun(monkeypatch):
    """What is asked of torch.distributed, in its order."""
    asked = []
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("LOCAL_RANK", "0")
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr(distributed, "init_process_group", lambda backend, **how: asked.append((backend, how)))
    monkeypatch.setattr(distributed, "destroy_process_group", lambda: asked.append("destroyed"))
    return asked


def test_processes_wait_for_one_another_longer_than_any_run(started_by_torchrun):
    """The first may wait for a lock as long as another machine trains."""
    with joined():
        pass
    (backend, how), end = started_by_torchrun
    assert backend == "gloo" and end == "destroyed" and timedelta(days=2) < how["timeout"]
    assert how["timeout"] / timedelta(milliseconds=1) < 2**31, "sockets count milliseconds in 32 bits"


def test_after_an_error_nobody_waits_for_the_others_to_leave(started_by_torchrun):
    """NCCL's own end is one that all processes take part in, and those in the middle of a step never would."""
    with pytest.raises(SlimlibError), joined():
        raise SlimlibError("of this process alone")
    assert "destroyed" not in started_by_torchrun
