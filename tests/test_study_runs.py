"""Runs and records: keys that mean what they say, records that survive a kill, locks that do not outlive an owner."""

from __future__ import annotations

import errno
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import warnings
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch

import slimlib
from slimlib import study
from slimlib.distillation import Distill
from slimlib.errors import SlimlibError
from slimlib.recipe import Recipe
from slimlib.study import budgets, choices, provenance, stages
from slimlib.study.locks import RunBusy, locked
from slimlib.study.provenance import code_version, provenance_table
from slimlib.study.runs import Run, with_needs
from slimlib.study.store import Store, replacing

ROOT = Path(__file__).parents[1]
DENSE, TUNE, KD = Recipe(epochs=1, lr=0.1), Recipe(epochs=1, lr=0.02), Distill()


def pruned(**changes) -> Run:
    """A prune run with some fields changed."""
    base = {
        "dataset": "mnist",
        "model": "lenet5",
        "stage": "prune",
        "rule": "pca",
        "criterion": "l1",
        "budget": "macs:0.5",
    }
    return Run(**{**base, "recipe": TUNE, "dense_recipe": DENSE, **changes})


# ---- keys


CHANGES = {
    "dataset": {"dataset": "cifar10"},
    "model": {"model": "vgg_small"},
    "stage": {"stage": "scratch", "criterion": None},
    "rule": {"rule": "uniform"},
    "criterion": {"criterion": "l2"},
    "budget": {"budget": "params:0.5"},
    "coupling": {"coupling": "joint"},
    "center": {"center": False},
    "recipe": {"recipe": Recipe(epochs=1, lr=0.03)},
    "dense_recipe": {"dense_recipe": Recipe(epochs=2, lr=0.1)},
    "distill": {"stage": "distill", "criterion": None, "distill": KD},
    "seed": {"seed": 1},
    "options": {"rule": "pca_budgeted", "options": {"folded": True}},
}


def test_every_field_decides_the_key():
    assert set(CHANGES) == {field.name for field in fields(Run)}
    keys = [pruned().key] + [pruned(**change).key for change in CHANGES.values()]
    assert len(set(keys)) == len(keys)


def test_every_recipe_and_distillation_field_decides_the_key():
    recipes = [
        {"epochs": 2},
        {"lr": 0.5},
        {"batch_size": 64},
        {"momentum": 0.8},
        {"weight_decay": 0.0},
        {"nesterov": False},
    ]
    recipes += [{"schedule": "cosine"}, {"warmup": 0.1}, {"label_smoothing": 0.1}, {"augment": "crop"}]
    recipes += [{"precision": "float32"}, {"compile": True}]
    assert {name for change in recipes for name in change} == {field.name for field in fields(Recipe)}
    keys = {pruned(recipe=Recipe(**{"epochs": 1, "lr": 0.02, **change})).key for change in recipes} | {pruned().key}
    assert len(keys) == len(recipes) + 1
    taught = [
        pruned(stage="distill", criterion=None, distill=d).key
        for d in (KD, Distill(temperature=2.0), Distill(kd_weight=0.5))
    ]
    assert len(set(taught)) == 3


def test_the_key_is_the_same_in_every_process_and_release():
    """Committed records are found by this key: a change here orphans them, and needs a new RECIPE_VERSION."""
    code = "from test_study_runs import pruned; print(pruned().key)"
    fresh = subprocess.run(
        [sys.executable, "-c", code],
        cwd=Path(__file__).parent,
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONHASHSEED": "7", "PYTHONPATH": str(ROOT)},
    )
    assert fresh.stdout.strip() == pruned().key
    assert study.RECIPE_VERSION == 2
    assert pruned().key == "a3c250b4668b"


def test_a_run_survives_json_and_the_order_of_options_does_not_matter():
    run = pruned(
        stage="distill",
        criterion=None,
        distill=Distill(hint_weight=1.0, hint_layers=("a", "b")),
        rule="tilt",
        options={"power": -0.5},
    )
    scan = Run("mnist", "lenet5", "sensitivity", criterion="l1", dense_recipe=Recipe(1, lr=0.1),
               options={"images": 30, "ratios": [0.5, 0.75]})  # fmt: skip
    for one in (run, scan):
        again = Run.from_dict(json.loads(json.dumps(one.to_dict())))
        assert again == one and again.key == one.key and hash(again) == hash(one)
    assert scan.key == scan.but(options=(("ratios", (0.5, 0.75)), ("images", 30))).key
    assert pruned(rule="pca_budgeted").key != pruned(rule="pca_budgeted", options={"folded": True}).key


@pytest.mark.parametrize("change, told", [
    ({"rule": "tilt"}, "options: rule 'tilt' needs power"),
    ({"options": {"foo": 1}}, r"'foo' has no effect in rule 'pca' \(its own: none\)"),
    ({"rule": "tilt", "options": {"powr": 1}}, r"'powr' has no effect in rule 'tilt' \(its own: power\)"),
    ({"rule": "sensitivity", "options": {"drops": {}}}, r"'drops' has no effect in rule 'sensitivity' \(its own: ratio\)"),
    ({"rule": "activation_pca"}, "options: rule 'activation_pca' needs calibration"), ({"seed": -1}, "seed=-1 must be a whole"),
])  # fmt: skip
def test_options_that_a_rule_does_not_take_or_lacks_are_refused_before_anything_is_trained(change, told):
    with pytest.raises(SlimlibError, match=told):
        pruned(**change)


def test_what_means_the_same_is_the_same_run():
    """YAML reads 1 as a whole number and 1.0 as none; a budget may be written with a zero at its end."""
    written = Run("mnist", "lenet5", "prune", rule="tilt", criterion="l1", budget="macs:0.50", recipe=Recipe(1, lr=1),
                  dense_recipe=Recipe(1, lr=1, weight_decay=0), options={"power": -1})  # fmt: skip
    meant = written.but(budget="macs:0.5", recipe=Recipe(1, lr=1.0), dense_recipe=Recipe(1, lr=1.0, weight_decay=0.0),
                        options={"power": -1.0})  # fmt: skip
    assert written == meant and written.key == meant.key and written.arm == "tilt(power=-1.0)"
    for count in (512, 512.0):
        (images,) = written.but(rule="neyman", options={"calibration": count}).to_dict()["options"].values()
        assert images == 512 and isinstance(images, int)
    assert written.but(seed=np.int64(1), center=np.True_).key == written.but(seed=1).key


@pytest.mark.parametrize("change", [{"rule": "pcaa"}, {"criterion": "l11"}, {"coupling": "iner"}, {"stage": "prun"}])
def test_a_run_of_what_is_not_there_is_refused_before_anything_is_trained(change):
    ((name, value),) = change.items()
    with pytest.raises(SlimlibError, match=f"{name}='{value}' is unknown; choose one of "):
        pruned(**change)


def test_budgets_that_differ_have_different_keys_however_close():
    """Committed records are found by the short text, so it stays wherever it is exact."""
    with pytest.raises(SlimlibError, match=r"budget=0\.5 is not understood"):
        pruned(budget=0.5)
    third = pruned(budget=f"macs:{1 / 3}")
    assert third.key != pruned(budget="macs:0.333333").key and budgets.parse(third.budget).argument() == {"keep_macs": 1 / 3}
    assert Run.from_dict(json.loads(json.dumps(third.to_dict()))).key == third.key
    written = [pruned(budget=f"macs:{share}").budget for share in ("0.350", "1.0", "1e-5")]
    assert written == ["macs:0.35", "macs:1", "macs:1e-05"]


@pytest.mark.parametrize("how, arm", [
    ({}, "pca"), ({"center": False}, "pca_uncentred"), ({"coupling": "joint"}, "pca_joint"),
    ({"rule": "tilt", "options": {"power": 1}, "center": False, "coupling": "joint"}, "tilt_uncentred_joint(power=1.0)"),
])  # fmt: skip
def test_an_arm_is_named_by_all_that_makes_it_another(how, arm):
    assert pruned(**how).arm == arm and arm in pruned(**how).label


@pytest.mark.parametrize(
    "change, word",
    [
        ({"stage": "prun"}, "stage"),
        ({"budget": "macs:1.5"}, "budget"),
        ({"budget": "macs:0"}, "budget"),
        ({"budget": "flops:0.5"}, "budget"),
        ({"budget": "macs:half"}, "budget"),
        ({"criterion": None}, "criterion"),
        ({"rule": None}, "rule"),
        ({"distill": KD}, "distill"),
        ({"recipe": None}, "recipe"),
        ({"dense_recipe": None}, "dense_recipe"),
        ({"model": "resnet20:pretrained"}, "dense_recipe"),
        ({"center": 1}, "center=1 must be True or False"),  # equal to True, as a number, with another key
        ({"seed": True}, "seed"),
    ],
)
def test_a_run_that_makes_no_sense_is_refused_by_name(change, word):
    with pytest.raises(SlimlibError, match=word):
        pruned(**change)


def test_pretrained_networks_share_one_dense_run_and_needs_come_first():
    runs = [
        pruned(model="resnet20:pretrained", dataset="cifar10", dense_recipe=None, rule="sensitivity", seed=s)
        for s in (0, 1)
    ]
    order = with_needs(runs)
    assert [run.stage for run in order] == ["dense", "sensitivity", "prune", "prune"]
    assert with_needs(reversed(order)) == [*with_needs(order)[:2], runs[1], runs[0]]
    assert pruned(seed=3).dense() == pruned(seed=3, rule="uniform").dense() != pruned(seed=4).dense()
    scan = pruned(rule="sensitivity", criterion="l2", coupling="joint", seed=3).sensitivity_scan()
    assert (scan.criterion, scan.coupling, scan.seed, scan.dense_recipe) == ("l2", "joint", 3, DENSE)
    taught = pruned(stage="distill", rule="sensitivity", criterion=None, distill=KD)
    assert taught.sensitivity_scan().criterion == "l1"


# ---- the store


def fake(run: Run) -> dict:
    return {
        "metrics": {"test_accuracy": 0.5},
        "widths": {"conv1": 3},
        "loss": [1.0, 0.5],
        "provenance": {"seconds": 1.0, "notes": []},
        "seed_was": run.seed,
    }


def test_a_record_comes_back_as_it_went(tmp_path):
    store, run = Store(tmp_path / "records", tmp_path / "cache"), pruned()
    assert store.get(run) is None and store.missing([run, pruned(seed=1)]) == [run, pruned(seed=1)]
    path = store.put(run, fake(run))
    assert path == tmp_path / "records" / "mnist-lenet5" / f"{run.key}.json"
    record = store.get(run)
    assert record["key"] == run.key and Run.from_dict(record["run"]) == run and record["widths"] == {"conv1": 3}
    assert store.missing([run, pruned(seed=1)]) == [pruned(seed=1)] and store.all() == [record]
    assert '"loss": [1.0, 0.5]' in path.read_text()


def test_brackets_in_a_text_are_no_list(tmp_path):
    store, run = Store(tmp_path / "records", tmp_path / "cache"), pruned()
    told = fake(run) | {"provenance": {"seconds": 1.0, "notes": ["took [ 3 ] steps"]}}
    store.put(run, told)
    assert store.get(run)["provenance"] == told["provenance"]


def test_a_frame_has_what_was_kept_of_either_cost_and_other_files_are_no_records(tmp_path):
    store, run = Store(tmp_path / "records", tmp_path / "cache"), pruned(rule="tilt", options={"power": -0.5}, center=False)
    cost = {"params": 300, "macs": 20, "dense_params": 1000, "dense_macs": 100}
    path = store.put(run, {**fake(run), "cost": cost, "threshold": 0.7})
    path.with_name("notes.json").write_text("{}")
    (row,) = study.to_frame(store.all()).to_dict("records")
    assert (row["kept_params"], row["kept_macs"]) == (0.3, 0.2) and row["arm"] == "tilt_uncentred(power=-0.5)"
    assert (row["budget"], row["budget_kind"], row["budget_value"]) == ("macs:0.5", "macs", 0.5)
    assert (row["power"], row["threshold"], row["test_accuracy"], row["key"]) == (-0.5, 0.7, 0.5, run.key)


def test_a_record_in_the_wrong_place_or_damaged_is_refused(tmp_path):
    store = Store(tmp_path, tmp_path / "cache")
    path = store.put(pruned(), fake(pruned()))
    path.rename(store.path(pruned(seed=1)))
    with pytest.raises(SlimlibError, match="holds the record"):
        store.get(pruned(seed=1))
    store.path(pruned(seed=1)).write_text("{")
    with pytest.raises(SlimlibError, match="not valid JSON"):
        store.get(pruned(seed=1))


def test_a_write_that_fails_leaves_the_old_file_and_no_litter(tmp_path):
    path = tmp_path / "a.json"
    path.write_text("old")
    with pytest.raises(RuntimeError), replacing(path) as temporary:
        temporary.write_text("half of the n")
        raise RuntimeError
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


def test_readers_never_see_a_part_of_a_record(tmp_path):
    store, run = Store(tmp_path, tmp_path / "cache"), pruned()
    store.put(run, {**fake(run), "loss": [0.0] * 20000})
    stop, seen = threading.Event(), []

    def read():
        while not stop.is_set():
            seen.append(len(set(store.get(run)["loss"])))  # raises on torn JSON

    reader = threading.Thread(target=read)
    reader.start()
    for i in range(15):
        store.put(run, {**fake(run), "loss": [float(i)] * 20000})
    stop.set()
    reader.join()
    assert seen and set(seen) == {1}


def test_checkpoints_come_back_with_what_was_told(tmp_path):
    store, run = Store(tmp_path, tmp_path / "cache"), pruned().dense()
    model, other = torch.nn.Linear(3, 2), torch.nn.Linear(3, 2)
    assert store.load_checkpoint(run, other) is None
    store.save_checkpoint(run, model, test_accuracy=0.25)
    assert store.load_checkpoint(run, other) == {"test_accuracy": 0.25}
    assert torch.equal(model.weight, other.weight) and torch.equal(model.bias, other.bias)
    tied, again = (torch.nn.Sequential(torch.nn.Linear(3, 3), torch.nn.Linear(3, 3)) for _ in range(2))
    tied[1].weight = tied[0].weight  # in one memory, which the file format refuses
    store.save_checkpoint(run, tied)
    assert store.load_checkpoint(run, again) == {} and torch.equal(again[1].weight, tied[0].weight)


def test_a_checkpoint_that_is_another_runs_or_damaged_is_refused(tmp_path):
    """`same_start` has users copy these files by hand."""
    store, run = Store(tmp_path, tmp_path / "cache"), pruned().dense()
    other, model = run.but(seed=1), torch.nn.Linear(3, 2)
    file, before = store.save_checkpoint(other, torch.nn.Linear(3, 2)), model.weight.clone()
    good, path = file.read_bytes(), store.checkpoint_path(run)
    bare = safetensors.torch.save(dict(torch.nn.Linear(3, 2).state_dict()))
    told = {good: f"is the checkpoint of run '{other.key}', not of {run.key}", good[:-3]: "cannot be read", b"": "cannot be read",
            bare: "was not written by slimlib"}
    for content, reason in told.items():
        path.write_bytes(content)
        with pytest.raises(SlimlibError, match=rf"{path.name}.*{reason}.*delete it and the run is made again"):
            store.load_checkpoint(run, model)
    assert torch.equal(model.weight, before) and store.load_checkpoint(other, model) == {}


# ---- locks


def test_a_lock_excludes_and_is_released(tmp_path):
    store, run = Store(tmp_path, tmp_path / "cache"), pruned()
    with store.lock(run):
        with pytest.raises(RunBusy), store.lock(run, wait=False):
            pass
        with store.lock(pruned(seed=1), wait=False):  # another run is free
            pass
    with store.lock(run, wait=False):
        pass
    assert not list((tmp_path / "cache").rglob("*.lock"))


def _lock_of(store: Store, run: Run, **changes) -> Path:
    path = store.cache / "locks" / run.folder / f"{run.key}.lock"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(
        json.dumps({"pid": os.getpid(), "host": socket.gethostname(), "born": "0", "token": "x", **changes})
    )
    return path


def test_a_lock_that_is_held_for_long_is_kept_fresh(tmp_path, monkeypatch):
    """A run may take longer than the time after which the lock of another machine counts as left over."""
    monkeypatch.setattr("slimlib.study.locks.STALE_AFTER", 0.24)
    path = tmp_path / "run.lock"
    with locked(path, "a run"):
        os.utime(path, (1, 1))
        deadline = time.monotonic() + 20
        while path.stat().st_mtime < 2:
            assert time.monotonic() < deadline
            time.sleep(0.01)
    assert not path.exists()


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGTERM that a process could see")
def test_a_schedulers_signal_releases_the_lock(tmp_path):
    """Other machines could not ask the process that had it, and would wait."""
    path, script = tmp_path / "run.lock", """
import sys, time
from pathlib import Path
from slimlib import __main__ as cli
from slimlib import train_command
from slimlib.study.locks import locked

def hold(args):
    with locked(Path(sys.argv[1]), "a run"):
        print("held", flush=True)
        time.sleep(60)

train_command.status = hold
sys.exit(cli.main(["status", "quick"]))
"""
    with subprocess.Popen([sys.executable, "-c", script, str(path)], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "held\n" and path.exists()
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=60) == 128 + signal.SIGTERM and not path.exists()


def test_a_file_system_without_hard_links_is_named(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(errno.ENOTSUP, "Operation not supported")

    monkeypatch.setattr(os, "link", refuse)
    told = r"file system without hard links .* SLIMLIB_CACHE"
    with pytest.raises(SlimlibError, match=told), locked(tmp_path / "run.lock", "a run"):
        pass
    assert not list(tmp_path.iterdir())


def test_a_dead_process_loses_its_lock_and_a_living_one_keeps_it(tmp_path):
    store, run = Store(tmp_path, tmp_path / "cache"), pruned()
    dead = subprocess.run(
        [sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, text=True, check=True
    )
    _lock_of(store, run, pid=int(dead.stdout))
    with store.lock(run, wait=False):
        pass
    _lock_of(store, run)  # this process's number, but of an earlier one: numbers are given again
    with store.lock(run, wait=False):
        pass
    path = _lock_of(store, run, host="another-machine", pid=1)
    with pytest.raises(RunBusy), store.lock(run, wait=False):
        pass
    os.utime(path, (time.time() - 2 * 24 * 3600,) * 2)
    with store.lock(run, wait=False):
        pass


def test_the_lock_that_a_killed_process_left_at_a_finished_run_goes_with_the_next_call(tmp_path):
    store, run = Store(tmp_path, tmp_path / "cache"), pruned()
    store.put(run, {"metrics": {}})
    dead = _lock_of(store, run)
    with store.lock(run.dense()):  # of a living process, which is at what the run needs
        study.ensure([run], store, train=False)
        assert dead.exists(), "a page that only reads changes nothing"
        study.ensure([run], store)
        assert [lock.stem for lock in (tmp_path / "cache").rglob("*.lock")] == [run.dense().key]


# ---- execution: real training, on a few images


TINY = """
import sys
import slimlib
from slimlib.study import execution, networks, store
load = slimlib.load_data
networks.loaded.cache_clear()
slimlib.load_data = lambda name: load(name, limit=400)
from slimlib.study.runs import Run
from slimlib.recipe import Recipe
import torch
torch.set_num_threads(1)
recipe = Recipe(epochs=1, lr=0.05)
runs = [Run("fashionmnist-10k", "lenet5", "prune", rule=rule, criterion="l1", budget="macs:0.5", recipe=recipe,
            dense_recipe=recipe, seed=seed) for seed in (0, 1) for rule in ("pca", "uniform", "random")]
"""
TINY_RUNS = [
    Run(
        "fashionmnist-10k",
        "lenet5",
        "prune",
        rule=rule,
        criterion="l1",
        budget="macs:0.5",
        recipe=Recipe(epochs=1, lr=0.05),
        dense_recipe=Recipe(epochs=1, lr=0.05),
        seed=seed,
    )
    for seed in (0, 1)
    for rule in ("pca", "uniform", "random")
]


def _start(folder: Path) -> subprocess.Popen:
    code = (
        TINY
        + f"execution.ensure(runs, store.Store({str(folder / 'records')!r}, {str(folder / 'cache')!r}), progress=False)"
    )
    return subprocess.Popen([sys.executable, "-c", code], cwd=ROOT)


def test_a_killed_process_is_continued_and_nothing_finished_is_repeated(tmp_path):
    store = Store(tmp_path / "records", tmp_path / "cache")
    process = _start(tmp_path)
    deadline = time.time() + 120
    while (
        len(list((tmp_path / "records").rglob("[!.]*.json"))) < 3 and time.time() < deadline and process.poll() is None
    ):
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "records").rglob("[!.]*.json")}
    assert 3 <= len(before) < 8, "the kill came too late or too early to test anything"
    two = [_start(tmp_path), _start(tmp_path)]  # and two at once may finish the rest
    assert [process.wait(timeout=240) for process in two] == [0, 0]
    after = {path: path.stat().st_mtime_ns for path in (tmp_path / "records").rglob("[!.]*.json")}
    assert len(after) == 8 and {path: after[path] for path in before} == before
    assert not store.missing(with_needs(TINY_RUNS)) and not list((tmp_path / "cache").rglob("*.lock"))

    record = store.get(TINY_RUNS[0])
    assert record["cost"]["macs"] <= 0.5 * record["cost"]["dense_macs"] < record["wider_plan_exceeds"]["macs"]
    assert set(record["widths"]) == set(record["full_widths"]) == {"conv1", "conv2", "fc1"}
    assert {"test_accuracy", "val_accuracy", "test_accuracy_before_finetuning", "dense_test_accuracy"} == set(
        record["metrics"]
    )
    assert record["dense_key"] == TINY_RUNS[0].dense().key and len(record["loss"]) == 1
    told = record["provenance"]
    assert told["data"]["sha256"] and told["versions"]["torch"].startswith(torch.__version__.split("+")[0])
    assert (
        told["machine"]["cpu"] and told["precision"] and told["seconds"] > 0 and told["started"] and told["notes"] == []
    )
    frame = study.to_frame(store.all())
    assert len(frame) == 8 and frame["kept_macs"].dropna().le(0.5).all()


@pytest.fixture
def tiny_data(monkeypatch):
    import slimlib
    from slimlib.study import networks

    load = slimlib.load_data
    networks.loaded.cache_clear()
    monkeypatch.setattr(slimlib, "load_data", lambda name: load(name, limit=400))
    yield
    networks.loaded.cache_clear()


def test_a_lost_checkpoint_is_remade_and_the_record_kept(tmp_path, tiny_data):
    store, dense = Store(tmp_path / "records", tmp_path / "cache"), TINY_RUNS[0].dense()
    first = study.execute(dense, store, progress=False)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        network, _ = study.trained(dense, store)
    with torch.no_grad():
        next(network.parameters()).zero_()  # a reader may do to it what they like
    assert next(study.trained(dense, store)[0].parameters()).abs().sum() > 0
    store.checkpoint_path(dense).unlink()
    record = json.loads(store.path(dense).read_text())
    assert re.fullmatch("[0-9a-f]{64}", record["dense_sha256"])
    record["metrics"]["test_accuracy"], record["dense_sha256"] = 0.123, "0" * 64  # as another machine might have found
    store.path(dense).write_text(json.dumps(record))
    after = study.execute(TINY_RUNS[0], store, progress=False)
    assert store.get(dense)["metrics"]["test_accuracy"] == 0.123 and store.checkpoint_path(dense).exists()
    assert after["metrics"]["dense_test_accuracy"] == first["metrics"]["test_accuracy"]
    assert any("0.1230" in note for note in after["provenance"]["notes"])
    with pytest.warns(UserWarning, match=r"its own record rests on another dense network \(test accuracy 0\.1230"):
        study.trained(dense, store)
    with pytest.raises(SlimlibError, match=r"dense .*its own record rests on another dense network"):
        study.trained(dense, Store(store.root, store.cache, strict=True))


SLIM = {"dataset": "fashionmnist-10k", "model": "resnet_small", "rule": "random", "coupling": "joint", "seed": 1,
        "recipe": Recipe(epochs=1, lr=0.02, batch_size=60), "dense_recipe": Recipe(epochs=1, lr=0.05)}  # fmt: skip


@pytest.mark.parametrize("stage", ["prune", "distill"])
def test_a_record_holds_what_one_would_get_by_hand(tmp_path, tiny_data, stage):
    store = Store(tmp_path / "records", tmp_path / "cache")
    how = {"prune": {"criterion": "random"}, "distill": {"distill": Distill(kd_weight=0.5, temperature=2.0)}}
    run = Run(**SLIM, stage=stage, budget="params:0.3", **how[stage])
    record = study.execute(run, store, progress=False)
    network, data = study.trained(run.dense(), store)

    torch.manual_seed(run.seed)
    dense = slimlib.models.build("resnet_small", 10, 1)
    slimlib.fit(dense, data, run.dense_recipe, seed=run.seed, progress=False, validate="none")
    assert all(torch.equal(a, b) for a, b in zip(dense.state_dict().values(), network.state_dict().values(), strict=True))

    plan = slimlib.plan_widths(dense, data.example_input, rule="random", coupling="joint", seed=1, keep_params=0.3, fill=True)
    before, taught = {}, {}
    if stage == "prune":
        slim = slimlib.prune(dense, plan, criterion="random", seed=1)
        before = {"test_accuracy_before_finetuning": slimlib.evaluate(slim, data.test)}
    else:
        slim = slimlib.thin(dense, plan, seed=1)
        taught = {"teacher": dense, "distill": run.distill}
    history = slimlib.fit(slim, data, run.recipe, seed=1, progress=False, validate="none", **taught)
    assert record["widths"] == plan.widths and record["cost"]["params"] == plan.params
    assert record["loss"] == pytest.approx(history.loss, rel=1e-5)
    accuracies = {"val_accuracy": slimlib.evaluate(slim, data.val), "test_accuracy": slimlib.evaluate(slim, data.test)}
    assert record["metrics"] == {**accuracies, **before, "dense_test_accuracy": slimlib.evaluate(dense, data.test)}
    if stage == "prune":  # the others have hardly learnt anything
        assert record["metrics"]["val_accuracy"] != record["metrics"]["test_accuracy"], "or they might be exchanged"


def test_what_a_rule_reads_follows_from_the_run(tmp_path, tiny_data):
    """Of images a rule is given training images alone, and of a scan the drops at one ratio."""
    store, data = Store(tmp_path / "records", tmp_path / "cache"), slimlib.load_data("fashionmnist-10k")
    run = pruned(rule="activation_pca", coupling="joint", center=False, seed=4, options={"calibration": 30})
    how = choices.rule_arguments(run, store, data)
    assert torch.equal(how.pop("calibration"), data.train.normalised(slice(0, 30)))
    assert how == {"rule": "activation_pca", "coupling": "joint", "center": False, "seed": 4}
    scan = {"group": ["a", "a", "b", "b"], "ratio": [0.5, 0.75] * 2, "drop": [0.1, 0.2, 0.3, 0.4]}
    for options, want in (({}, {"a": 0.2, "b": 0.4}), ({"ratio": 0.5}, {"a": 0.1, "b": 0.3})):
        run = pruned(rule="sensitivity", options=options)
        store.put(run.sensitivity_scan(), {"sensitivity": scan})
        told = choices.rule_arguments(run, store, data)
        assert told["drops"] == want and "ratio" not in told
    with pytest.raises(SlimlibError, match=r"ratio=0\.6 was not measured; the scan holds \[0\.5, 0\.75\]"):
        choices.rule_arguments(pruned(rule="sensitivity", options={"ratio": 0.6}), store, data)


def test_a_scan_is_of_the_runs_criterion_coupling_and_seed(tmp_path, tiny_data, monkeypatch):
    monkeypatch.setattr(stages, "kept_by_rules", lambda run, dense, data: [{"rule": "none"}])  # they take long
    store = Store(tmp_path / "records", tmp_path / "cache")
    run = Run("fashionmnist-10k", "resnet_small", "sensitivity", criterion="random", coupling="joint", seed=3,
              dense_recipe=SLIM["recipe"], options={"ratios": [0.5], "images": 30})  # fmt: skip
    record = study.execute(run, store, progress=False)
    network, data = study.trained(run.dense(), store)
    want = slimlib.sensitivity(network, data.val.first(30), [0.5], "random", coupling="joint", seed=3, progress=False)
    assert record["sensitivity"]["group"] == want["group"].tolist()
    assert record["sensitivity"]["accuracy"] == pytest.approx(want["accuracy"].tolist(), abs=1e-7)
    spectra = slimlib.spectra(network, data.example_input, coupling="joint")
    assert {name: pytest.approx(values, rel=1e-5) for name, values in record["spectra"].items()} == {
        name: values.tolist() for name, values in spectra.items()}


@pytest.mark.parametrize("known_by", ["fingerprint", "accuracy"])
def test_evidence_refuses_an_arm_that_starts_from_another_dense_network(tmp_path, tiny_data, known_by):
    store = Store(tmp_path / "records", tmp_path / "cache", strict=True)
    first, same_cell, other_seed = (TINY_RUNS[i] for i in (0, 1, 3))
    study.execute(first, store, progress=False)
    record = json.loads(store.path(first).read_text())
    if known_by == "fingerprint":  # networks of equal accuracy need not be equal
        record["dense_sha256"] = "0" * 64
    else:  # a record from before there were fingerprints
        del record["dense_sha256"]
        record["metrics"]["dense_test_accuracy"] = 0.123
    store.path(first).write_text(json.dumps(record))
    with pytest.raises(SlimlibError, match=r"pca .*rests on another dense network \(test accuracy 0\."):
        study.execute(same_cell, store, progress=False)
    assert not store.path(same_cell).exists()
    study.execute(other_seed, store, progress=False)
    longer = same_cell.but(dense_recipe=replace(same_cell.dense_recipe, epochs=same_cell.dense_recipe.epochs + 1))
    study.execute(longer, store, progress=False)  # of other dense networks altogether, so of no comparison with it
    illustration = study.execute(same_cell, Store(store.root, store.cache), progress=False)  # one may, and its needs are the same
    assert illustration["provenance"]["notes"] == [] and study.load_profile("laptop").store().strict


@pytest.mark.parametrize("stage", ["dense", "sensitivity"])
def test_evidence_refuses_what_was_found_on_another_dense_network(tmp_path, tiny_data, stage):
    store, recipe = Store(tmp_path / "records", tmp_path / "cache", strict=True), Recipe(epochs=1, lr=0.05)
    run = Run("fashionmnist-10k", "lenet5", "prune", rule="sensitivity", criterion="l1", budget="macs:0.4", recipe=recipe,
              dense_recipe=recipe)  # fmt: skip
    for needed in run.needs():
        study.execute(needed, store, progress=False)
    (found,) = (needed for needed in run.needs() if needed.stage == stage)
    record = json.loads(store.path(found).read_text())
    store.path(found).write_text(json.dumps(record | {"dense_sha256": "0" * 64}))
    with pytest.raises(SlimlibError, match=rf"· {stage} .*rests on another dense network"):
        study.execute(run, store, progress=False)
    told = study.execute(run, Store(store.root, store.cache), progress=False)["provenance"]["notes"]
    assert len(told) == 1 and f"· {stage} " in told[0], "an illustration goes on, and says so"


def test_students_teachers_and_scans(tmp_path, tiny_data):
    store, dense = Store(tmp_path / "records", tmp_path / "cache"), Recipe(epochs=1, lr=0.05)
    common = {"dataset": "fashionmnist-10k", "model": "lenet5", "dense_recipe": dense}
    scan = Run(**common, stage="sensitivity", criterion="l1", options={"ratios": (0.5, 0.75), "images": 40})
    taught = Run(**common, stage="distill", rule="uniform", budget="params:0.3", recipe=dense, distill=KD)
    untaught = taught.but(stage="scratch", distill=None)
    by_need = Run(**common, stage="prune", rule="sensitivity", criterion="l1", budget="macs:0.4", recipe=dense)
    records = study.ensure([scan, taught, untaught, by_need], store, progress=False)
    assert records[0]["images"] == 40 and len(records[0]["sensitivity"]["ratio"]) == 3 * 3
    kept = records[0]["kept"]
    assert {"pca", "pca_uncentred", "pca_at_init", "neyman", "neyman_score", "global_l1", "pca_budgeted"} == set(
        kept["rule"]
    )
    assert {len(column) for column in kept.values()} == {len(kept["rule"])}
    assert records[1]["widths"] == records[2]["widths"] and records[1]["loss"] != records[2]["loss"]
    network, data = study.trained(scan.dense(), store)  # it has no BatchNorm, so moments are measured, on training images
    images = {"rule": "neyman", "calibration": data.train.normalised(slice(0, 512))}
    plan = slimlib.plan_widths(network, data.example_input, keep_macs=0.5, **images)
    rows = [i for i, (rule, budget) in enumerate(zip(kept["rule"], kept["budget"], strict=True)) if (rule, budget) == (
        "neyman", "macs:0.5")]
    assert {kept["group"][i]: kept["value"][i] for i in rows} == pytest.approx(plan.kept)
    path = slimlib.width_path(network, data.example_input)
    v, t = slimlib.sampling.variances(network, path.layout, path.groups, images["calibration"])
    scores = [value for rule, value in zip(kept["rule"], kept["value"], strict=True) if rule == "neyman_score"]
    assert scores == pytest.approx((v / t).tolist(), rel=1e-6)
    assert store.get(by_need.sensitivity_scan()) is not None
    assert by_need.dense() == taught.dense() == scan.dense()

    # the same scan on test images: other accuracies, the same choices of the rules
    unseen = study.execute(scan.but(options={**dict(scan.options), "split": "test"}), store, progress=False)
    assert unseen["key"] != records[0]["key"] and unseen["kept"] == kept and "test" in unseen["label"]
    dense_accuracy = [record["sensitivity"]["accuracy"][0] for record in (records[0], unseen)]
    network, data = study.trained(scan.dense(), store)
    splits = [split.first(40) for split in (data.val, data.test)]
    assert dense_accuracy == pytest.approx([slimlib.evaluate(network, split) for split in splits], abs=1e-6)
    with pytest.raises(SlimlibError, match="split='train' must be 'val' or 'test'"):
        study.execute(scan.but(options={**dict(scan.options), "split": "train"}), store, progress=False)


def test_a_run_that_diverges_does_not_keep_the_others_waiting(tmp_path, tiny_data):
    store, mad = Store(tmp_path / "records", tmp_path / "cache"), Recipe(epochs=1, lr=1e6, warmup=0.0)
    diverging = TINY_RUNS[0].but(dense_recipe=mad)
    with pytest.raises(SlimlibError, match=r"1 of 2 runs failed(.|\n)*loss"):
        study.ensure([diverging, TINY_RUNS[0]], store, progress=False)
    assert store.missing([diverging, TINY_RUNS[0]]) == [diverging]


@pytest.mark.parametrize("error", [SlimlibError("its loss is nan"), torch.OutOfMemoryError("no memory left")])
def test_what_several_runs_need_is_tried_once_and_its_failure_names_them_all(tmp_path, monkeypatch, error):
    store, tried = Store(tmp_path / "records", tmp_path / "cache"), []

    def dense(run, store, progress):
        tried.append(run)
        if run.seed == 0:
            raise error
        store.save_checkpoint(run, torch.nn.Linear(1, 1))
        return fake(run)

    monkeypatch.setitem(stages.MAKERS, "dense", dense)
    monkeypatch.setitem(stages.MAKERS, "prune", lambda run, store, progress: fake(run))
    rules = ("pca", "uniform", "random", "permuted", "global_l1", "neyman", "pca_at_init")
    runs = [pruned(rule=rule, seed=seed) for seed in (0, 1) for rule in rules]
    with pytest.raises(SlimlibError, match="7 of 14 runs failed") as caught:
        study.ensure(runs, store, progress=False)
    assert tried == [runs[0].dense(), runs[7].dense()] and store.missing(runs) == runs[:7]
    for line, run in zip(str(caught.value).splitlines()[1:], runs[:7], strict=True):
        assert line.strip().startswith(f"{run.label}: it needs {run.dense().label}") and line.endswith(str(error))
    store.put(runs[0].dense(), fake(runs[0].dense()))  # the record is there, the weights are not: they are needed as well
    tried.clear()
    with pytest.raises(SlimlibError, match="7 of 7 runs failed"):
        study.ensure(runs, store, progress=False)
    assert tried == [runs[0].dense()]


def test_what_is_no_failure_of_a_run_ends_the_call(tmp_path, monkeypatch):
    def broken(run, store, progress):
        raise KeyError("a fault of the program")

    monkeypatch.setitem(stages.MAKERS, "dense", broken)
    with pytest.raises(KeyError):
        study.ensure(TINY_RUNS, Store(tmp_path / "records", tmp_path / "cache"), progress=False)


def test_reading_alone_trains_nothing(tmp_path, capsys):
    store = Store(tmp_path / "records", tmp_path / "cache")
    store.put(TINY_RUNS[0], fake(TINY_RUNS[0]))
    records = study.ensure(TINY_RUNS, store, train=False)
    assert [record["key"] for record in records] == [TINY_RUNS[0].key]
    assert "1 of 6 runs are recorded" in capsys.readouterr().out
    assert store.missing(TINY_RUNS) == TINY_RUNS[1:]


# ---- provenance


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="only Linux counts the parent's memory as well")
def test_peak_memory_is_that_of_this_process_not_of_the_one_that_started_it(monkeypatch):
    resource = pytest.importorskip("resource")
    parents = resource.struct_rusage([0.0, 0.0, 2**40, *[0] * 13])  # ru_maxrss, in KiB
    monkeypatch.setattr(resource, "getrusage", lambda who: parents)
    own = provenance.peak_memory()["process_bytes"]
    assert 2**20 < own < 2**50 and provenance.peak_bytes() == own
    assert provenance.peak_bytes(children=True) == 2**50


def test_code_version_needs_no_git(monkeypatch):
    code_version.cache_clear()
    monkeypatch.setenv("PATH", "")
    assert code_version() == {"commit": None, "dirty": None}
    code_version.cache_clear()


def test_the_code_of_a_record_is_that_which_began_it(monkeypatch):
    """Committed meanwhile, or edited, it is other code that lies there; what runs is what was imported."""
    there = {"commit": "a" * 40, "dirty": False}
    monkeypatch.setattr(provenance, "code_version", lambda: dict(there))
    with provenance.recorded() as told:
        there |= {"commit": "b" * 40, "dirty": True}
    assert told["code"] == {"commit": "a" * 40, "dirty": False}


def test_the_commit_of_a_checkout_that_only_holds_an_environment_is_not_ours(monkeypatch, tmp_path):
    package = tmp_path / ".venv" / "lib" / "slimlib" / "study"
    package.mkdir(parents=True)
    author = ["-c", "user.name=a", "-c", "user.email=a@b"]
    for command in (["init", "-q"], [*author, "commit", "-q", "--allow-empty", "-m", "theirs"]):
        subprocess.run(["git", *command], cwd=tmp_path, check=True)
    monkeypatch.setattr(provenance, "__file__", str(package / "provenance.py"))
    code_version.cache_clear()
    assert code_version() == {"commit": None, "dirty": None}
    monkeypatch.setattr(provenance, "__file__", str(tmp_path / "slimlib" / "study" / "provenance.py"))
    code_version.cache_clear()
    assert len(code_version()["commit"]) == 40
    code_version.cache_clear()


def test_the_provenance_table_names_parameters_records_and_notes():
    record = {
        "key": "abc",
        "run": {"seed": 3},
        "provenance": {
            "code": {"commit": "f" * 40, "dirty": False},
            "machine": {"cpu": "some CPU"},
            "precision": "float32",
            "data": {"sha256": "dd"},
            "seconds": 60.0,
            "notes": ["a note"],
        },
    }
    table = provenance_table({"keep_macs": 0.3}, [record])["value"]
    assert table["parameter keep_macs"] == "0.3" and "abc" in table["records"] and table["note"] == "a note"
    assert table["records, code"] == "ffffffffffff (1)" and table["records, device"] == "some CPU (1)"
