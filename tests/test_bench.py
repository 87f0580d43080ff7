"""The benchmark counts what it says it counts. No speed is measured here: that is what `make bench` is for."""

import json
import pickle
import re
from pathlib import Path

import numpy as np
import pytest
import torch

from slimlib import bench
from slimlib.__main__ import main
from slimlib._torchvision import import_torchvision
from slimlib.bench import measure, overheads, page, parts, train
from slimlib.bench.measure import Comparison, Race, compared
from slimlib.errors import SlimlibError

ROOT = Path(__file__).resolve().parents[1]
RECORDS = sorted((ROOT / "book" / "records" / "bench").glob("*.json"))


def race(name="race", seconds=(1.0, 2.0), **how) -> Race:
    """Two contestants that say how long they took."""
    turns = []
    contestants = {which: (lambda which=which, took=took: lambda: (turns.append(which), took)[1])
                   for which, took in zip(("ours", "rival"), seconds, strict=True)}
    lines = (Comparison("ours", "rival", "speed", 1.5), Comparison("ours", "rival", "time"))
    made = Race(name, "nothing", contestants, lines, **how)
    object.__setattr__(made, "turns", turns)
    return made


def test_ratios_are_taken_within_rounds_so_a_slow_spell_of_the_machine_cancels():
    seconds = {"ours": [1.0, 10.0, 1.0, 4.0], "rival": [2.0, 20.0, 2.0, 8.0]}
    told = compared(Comparison("ours", "rival", "speed", 2.0), seconds)
    assert told["median"] == told["low"] == told["high"] == 2.0 and told["met"]
    assert compared(Comparison("ours", "rival", "time", 0.49), seconds)["met"] is False
    assert compared(Comparison("ours", "rival", "difference"), {"ours": [5.0], "rival": [3.5]})["median"] == 1.5
    assert compared(Comparison("ours", "rival", "time"), seconds)["met"] is None
    busy = compared(Comparison("ours", "rival", "speed"), seconds, {"ours": [1.0] * 4, "rival": [3.0] * 4})
    assert busy["median"] == 2.0 and busy["processor_median"] == 3.0


def test_contestants_alternate_the_first_turn_warms_up_and_what_they_say_counts():
    made = race(rounds=2, memory=False)
    told = measure.run(made)
    assert told["seconds"] == {"ours": [1.0, 1.0], "rival": [2.0, 2.0]} and made.turns[:2] != made.turns[2:4]
    assert sorted(made.turns[:2]) == sorted(made.turns[2:4]) == ["ours", "rival"] and len(made.turns) == 6
    assert [line["median"] for line in told["comparisons"]] == [2.0, 0.5]


def test_memory_is_not_told_of_contestants_that_start_processes(monkeypatch):
    monkeypatch.setattr(measure, "alone", lambda *work: {"peak_bytes": 2**20})
    assert measure.run(race(rounds=1))["peak_bytes"] == {"ours": 2**20, "rival": 2**20}
    told = measure.run(race(rounds=1, memory=False))
    shown = page.shown(page.comparisons({"parts": {"a": {"races": [told]}}}))
    assert told["peak_bytes"] == {} and set(shown["memory, MiB"]) == {"–"}
    assert [one.memory for part in (overheads.import_races, overheads.notebook_races) for one in part()] == [False, False]


def test_the_images_of_the_usual_loop_can_be_sent_to_worker_processes():
    """They are pickled where processes are not forked: on macOS, on Windows, on Linux from Python 3.14 on."""
    data, datasets = train.colour_images(4), import_torchvision().datasets
    images = pickle.loads(pickle.dumps(train._in_memory(datasets, data, None)))
    assert type(images) is datasets.CIFAR10 and len(images) == 4
    image, label = images[3]
    assert np.array_equal(np.asarray(image), data.train.images[3].permute(1, 2, 0).cpu()) and label == data.train.labels[3]


def test_contestants_that_disagree_are_not_timed():
    def differ():
        raise SlimlibError("they differ")
    made = race(agree=differ)
    with pytest.raises(SlimlibError, match="they differ"):
        measure.run(made)
    assert made.turns == []


def test_a_part_that_is_run_again_replaces_itself_only(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(measure, "alone", lambda *work: {"peak_bytes": 2**20})
    monkeypatch.setattr(parts, "PARTS", {"a": lambda: [race("a")], "b": lambda: [race("b")]})
    path = bench.main(["a", "b"], output=tmp_path / "m.json", rounds=2)
    before = json.loads(path.read_text())
    monkeypatch.setattr(parts, "PARTS", {"a": lambda: [race("a", (3.0, 3.0))], "b": lambda: []})
    bench.main(["a"], output=path)
    after = json.loads(path.read_text())
    assert after["parts"]["b"] == before["parts"]["b"]
    assert [line["met"] for line in bench.rows(after)] == [False, None, True, None]
    assert "target at least 1.5: missed" in capsys.readouterr().out
    shown = page.shown(page.comparisons(after))
    assert shown["verdict"].tolist() == ["missed", "", "met", ""] and shown["memory, MiB"].iloc[0] == "1 / 1"
    with pytest.raises(SlimlibError, match=r"--only c: .* choose from a, b"):
        bench.main(["c"])


@pytest.mark.parametrize("content, told", [
    ('{"widths": {}}', "holds no record of the benchmark"), ("[1]", "holds no record of the benchmark"),
    ('{"parts": {"a": 1}}', "holds no record of the benchmark"), ("# Notes", "holds no record of the benchmark"),
    (b"\xff\xfe", "holds no record of the benchmark"), ("a folder", "is a folder"), (None, "there is no folder '.*none'"),
])  # fmt: skip
def test_where_nothing_can_be_written_is_said_before_anything_is_measured(tmp_path, monkeypatch, capsys, content, told):
    measured = []
    monkeypatch.setattr(bench, "_measured", lambda part, full, rounds: measured.append(part) or {"provenance": {}})
    path = tmp_path / "none" / "m.json" if content is None else tmp_path / "m.json"
    if content == "a folder":
        path.mkdir()
    elif content is not None:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    before = path.read_bytes() if path.is_file() else None
    assert main(["bench", "--only", "import", "-o", str(path)]) == 2
    assert re.search(rf"--output.*m\.json.*{told}", capsys.readouterr().err)
    assert measured == [] and path.parent.exists() == (content is not None)
    assert before is None or path.read_bytes() == before


@pytest.mark.parametrize("only", [",", "", " , "])
def test_no_part_is_not_every_part(tmp_path, monkeypatch, capsys, only):
    monkeypatch.setattr(bench, "_measured", lambda *how: pytest.fail("measured"))
    assert main(["bench", "--only", only, "-o", str(tmp_path / "m.json")]) == 2
    assert f"--only {only!r} names no part" in capsys.readouterr().err


def test_the_page_takes_the_newest_machine_or_says_that_there_is_none(tmp_path):
    with pytest.raises(SlimlibError, match="make bench"):
        page.load(folder=tmp_path)
    for name, started in (("old", "2026-01-01T00:00:00+00:00"), ("new", "2026-02-01T00:00:00+00:00")):
        (tmp_path / f"{name}.json").write_text(json.dumps({"parts": {"a": {"provenance": {"started": started}}}}))
    assert page.load(folder=tmp_path)[0] == "new" and page.load("old", tmp_path)[0] == "old"


def test_the_page_is_whole_while_nothing_has_been_raced():
    table = page.comparisons({"parts": {"growth": {"sizes": []}}})
    assert table.empty and page.shown(table).empty and page.works({"parts": {}}).empty
    assert "measured" in page.targets(table).axes[0].texts[0].get_text()


def test_the_bare_step_and_the_usual_loop_train_the_same_network_on_the_same_images():
    recipe = train.slimlib.Recipe(epochs=1, lr=0.01, batch_size=train.BATCH, augment="crop_flip", precision="float32")
    for contestant in (train._fit, train._bare, train._usual):
        made = []
        original = train.network

        def watched(name, made=made, original=original):
            made.append(original(name))
            return made[-1]

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(train, "network", watched)
            epoch = contestant("vgg_small", 1, recipe)()
            before = made[0].conv1.weight.detach().clone()
            epoch()
        change = (made[0].conv1.weight.detach().cpu() - before).abs().max()
        assert torch.equal(before, original("vgg_small").conv1.weight) and 0 < change < 0.1
    data = train.colour_images(5)
    assert data.input_shape == (3, 32, 32) and torch.equal(data.train.images[:, 0], data.train.images[:, 2])


@pytest.mark.slow
def test_memory_is_that_of_a_process_of_its_own():
    small, large = (measure.alone("growth", size) for size in ("layer 64x32", "layer 8192x512"))
    assert large["params"] > 1000 * small["params"] and large["eigenvalue_seconds"] > 0
    copies = (large["peak_bytes"] - small["peak_bytes"]) / (8 * 8192 * 512)
    assert 2 < copies < 8  # the filters in double precision, centred, and the layer itself in single precision


@pytest.mark.parametrize("path", RECORDS, ids=lambda path: path.stem)
def test_what_a_record_says_follows_from_its_seconds(path):
    record = json.loads(path.read_text())
    assert bench.rows(record)
    for part in record["parts"].values():
        assert {"started", "machine", "code", "versions"} <= set(part["provenance"])
        for one in part.get("races", ()):
            for line in one["comparisons"]:
                c = Comparison(line["ours"], line["rival"], line["kind"], line["target"])
                assert compared(c, one["seconds"], one["processor_seconds"]) == line
