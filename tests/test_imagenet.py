"""ImageNet's folder form, on a small folder of real JPEGs: decoding, sharing among processes, training under torchrun."""

import copy
import dataclasses
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import slimlib
from slimlib import imagefolder, study
from slimlib.data import Split
from slimlib.distributed import World
from slimlib.imagefolder import SIZE, _Decoder
from slimlib.splits import some
from slimlib.study import choices, stages
from slimlib.study.runs import Run

ROOT = Path(__file__).resolve().parents[1]
CLASSES, TRAIN, TEST = ("bag", "boot", "coat"), 12, 2  # images a class


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """imagenet/{train,val}/<class>/*.JPEG of the embedded photographs, enlarged to landscape, portrait and square."""
    data, root = slimlib.load_data("fashionmnist-10k", device="cpu", val_fraction=0.0), tmp_path_factory.mktemp("data")
    for label, name in enumerate(CLASSES):
        of_class = torch.nonzero(data.train.labels == label)[:TRAIN + TEST, 0].tolist()
        for number, index in enumerate(of_class):
            place = root / "imagenet" / ("train" if number < TRAIN else "val") / name
            place.mkdir(parents=True, exist_ok=True)
            image = Image.fromarray(data.train.images[index, 0].numpy())  # grey: it must become three channels
            image.resize([(300, 260), (260, 300), (280, 280)][number % 3]).save(place / f"{number}.JPEG", quality=90)
    return root


@pytest.fixture
def data(folder, monkeypatch):
    monkeypatch.setenv("SLIMLIB_DATA", str(folder))
    monkeypatch.setenv("SLIMLIB_WORKERS", "0")
    return slimlib.load_data("imagenet", device="cpu", val_fraction=0.25)


def test_the_splits_are_disjoint_and_whole(data, folder):
    assert data.num_classes == len(CLASSES) and data.input_shape == (3, SIZE, SIZE)
    parts = [set(split.files) for split in (data.train, data.val, data.test)]
    assert [len(part) for part in parts] == [27, 9, 6] and len(set.union(*parts)) == 42
    for split in (data.train, data.val, data.test):
        assert [CLASSES[label] for label in split.labels] == [Path(file).parent.name for file in split.files]
    assert np.bincount(data.val.labels).tolist() == [3, 3, 3]
    assert all("/val/" in file for file in data.test.files)


def test_a_sample_has_every_class_and_gives_the_statistics_of_all(data, two_threads):
    """The files lie class by class, so that the first of them, and every batch, are of one class."""
    part = data.train.sample(6, seed=1)
    assert np.bincount(part.labels).tolist() == [2, 2, 2] and (part.labels.diff() < 0).any()
    assert [CLASSES[label] for label in part.labels] == [Path(file).parent.name for file in part.files]
    assert data.train.sample(6, seed=1).files == part.files != data.train.sample(6, seed=2).files
    assert sorted(data.train.sample(None).files) == sorted(data.train.files)
    model = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.BatchNorm2d(3))
    slimlib.calibrate_batchnorm(model, data.train, batch_size=9)
    pooled = torch.stack([data.train.normalised(slice(i, i + 1)).mean((2, 3))[0] for i in range(len(data.train))])
    torch.testing.assert_close(model[1].running_var, pooled.var(0), rtol=0.1, atol=0.0)


def test_some_images_are_of_every_class(data):
    part = some(data.train, 6)
    assert np.bincount(part.labels).tolist() == [2, 2, 2] and part.files == data.train.sample(6).files
    assert sorted(some(data.val, None).files) == sorted(some(data.val, 100).files) == sorted(data.val.files)
    assert len(some(data.train, 0)) == len(some(data.train.first(0), 5)) == 0


@pytest.mark.parametrize("labels", [[0, 0, 1, 1, 2, 2], [2, 2, 1, 1, 0, 0], [1, 1, 2, 2, 0, 0]])
def test_some_images_that_lie_class_by_class_are_of_every_class_in_whatever_order(labels):
    split = Split(torch.zeros(6, 3, 4, 4, dtype=torch.uint8), torch.tensor(labels), (0.5,) * 3, (0.5,) * 3)
    assert sorted(some(split, 3).labels.tolist()) == [0, 1, 2]


@pytest.mark.parametrize("labels", [[2, 0, 1, 2, 0, 1], [0, 1, 2, 2, 1, 2], [1] * 6])
def test_some_images_of_a_set_in_random_order_are_the_first(labels):
    """As ever, so that records made on them stay valid."""
    images = torch.randint(256, (6, 3, 4, 4), dtype=torch.uint8)
    split = Split(images, torch.tensor(labels), (0.5,) * 3, (0.5,) * 3)
    for count in (3, 6, 9, None):
        part = some(split, count)
        assert torch.equal(part.images, images[:count]) and part.labels.tolist() == labels[:count]
    assert torch.equal(some(split, 4).normalised(), split.normalised(slice(0, 4)))


def test_a_rule_and_a_scan_are_shown_images_of_every_class(data, monkeypatch):
    """What stages give to rules and scans, of a set whose files lie class by class."""
    recipe = slimlib.Recipe(epochs=1, lr=0.1)
    common = {"dataset": "imagenet", "model": "lenet5", "dense_recipe": recipe}
    run = Run(**common, stage="prune", rule="activation_pca", criterion="l1", budget="macs:0.5", recipe=recipe,
              options={"calibration": 6})  # fmt: skip
    calibration = choices.rule_arguments(run, None, data)["calibration"]
    assert torch.equal(calibration, data.train.sample(6).normalised())

    network = nn.Sequential(nn.Conv2d(3, 4, 3, 8), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3))
    told, scanned, calibrated = {"test_accuracy": 0.5, "sha256": ""}, [], []
    scan, plan = slimlib.sensitivity, slimlib.plan_widths
    monkeypatch.setattr(stages, "loaded", lambda name: data)
    monkeypatch.setattr(stages, "dense_network", lambda run, store, data: (network, data, told))
    monkeypatch.setattr(stages, "same_start", lambda run, store, told: [])
    monkeypatch.setattr(slimlib, "sensitivity", lambda net, images, **how: scanned.append(images) or scan(net, images, **how))
    monkeypatch.setattr(slimlib, "plan_widths", lambda *a, **how: calibrated.append(how.get("calibration")) or plan(*a, **how))
    asked = Run(**common, stage="sensitivity", criterion="l1", options={"images": 6, "ratios": (0.5,)})
    assert stages._sensitivity(asked, None, False)["images"] == 6
    assert np.bincount(scanned[0].labels).tolist() == [2, 2, 2] and {*scanned[0].files} < {*data.val.files}
    given = [images for images in calibrated if images is not None]
    assert given and all(torch.equal(images, data.train.sample(512).normalised()) for images in given)


def test_few_images_are_decoded_by_one_decoder(data, monkeypatch):
    made = []
    monkeypatch.setattr(imagefolder, "_Decoder", lambda files: made.append(files) or _Decoder(files))
    assert len(data.train.normalised(slice(0, 4))) == 4 and len(made) == 1


def test_an_evaluation_image_is_the_normalised_centre(data):
    with Image.open(data.test.files[0]) as file:
        image = file.convert("RGB")
    scale = 256 / min(image.size)
    image = image.resize([round(scale * side) for side in image.size], Image.Resampling.BILINEAR)
    left, top = ((side - SIZE) / 2 for side in image.size)
    want = np.asarray(image.crop((round(left), round(top), round(left) + SIZE, round(top) + SIZE)), np.float32) / 255
    got = data.test.normalised(slice(0, 1))[0].permute(1, 2, 0) * torch.tensor(data.std) + torch.tensor(data.mean)
    assert np.abs(got.numpy() - want).mean() < 0.02  # torchvision resizes with antialiasing and rounds sizes its own way
    assert torch.equal(next(data.test.in_order(4))[0][:1], data.test.normalised(slice(0, 1)))


def test_batches_are_the_same_however_they_are_shared_and_decoded(data, monkeypatch):
    whole = list(data.train.batches(6, "crop_flip", seed=3))
    halves = [list(data.train.batches(6, "crop_flip", seed=3, world=World(rank, 2))) for rank in range(2)]
    monkeypatch.setenv("SLIMLIB_WORKERS", "1")
    worker = list(data.train.batches(6, "crop_flip", seed=3))
    assert len(whole) == len(data.train) // 6
    for (index, images, labels), first, second, decoded in zip(whole, *halves, worker, strict=True):
        for at, all_of in enumerate((index, images, labels)):
            assert torch.equal(all_of, torch.cat([first[at], second[at]])) and torch.equal(all_of, decoded[at])
    assert not torch.equal(whole[0][0], next(iter(data.train.batches(6, "crop_flip", seed=4)))[0])


def test_each_epoch_has_another_order_and_other_crops(data):
    batches = data.train.batches(27, "crop", seed=0)
    (first, images, _), = batches
    (second, again, _), = batches
    assert sorted(first.tolist()) == sorted(second.tolist()) and not torch.equal(first, second)
    same = int((second == first[0]).nonzero())
    assert not torch.equal(images[0], again[same])


def test_augmentation_is_what_the_recipe_says(data):
    """By the same draws: the centre crops, random crops of them, and these with some mirrored."""
    (index, centre, _), = data.train.batches(27, "none", seed=1)
    assert torch.equal(centre, data.train.normalised(index))
    (same, crops, _), = data.train.batches(27, "crop", seed=1)
    (_, flipped, _), = data.train.batches(27, "crop_flip", seed=1)
    assert torch.equal(index, same) and not any(torch.equal(a, b) for a, b in zip(crops, centre, strict=True))
    mirrored = [torch.equal(a, b.flip(2)) for a, b in zip(flipped, crops, strict=True)]
    assert all(m or torch.equal(a, b) for m, a, b in zip(mirrored, flipped, crops, strict=True)) and 4 < sum(mirrored) < 23


def test_what_is_held_out_follows_from_the_seed_and_a_limit_does_not(data):
    load = lambda **how: slimlib.load_data("imagenet", device="cpu", val_fraction=0.25, **how)  # noqa: E731
    assert load().val.files == data.val.files != load(split_seed=1).val.files
    small, other = (load(limit=12, split_seed=seed) for seed in (0, 1))
    assert {*small.train.files, *small.val.files} == {*other.train.files, *other.val.files}
    assert small.test.files == other.test.files and small.val.files != other.val.files
    assert np.bincount(torch.cat([small.train.labels, small.val.labels])).tolist() == [4, 4, 4] and len(small.val) == 3
    with pytest.raises(slimlib.SlimlibError, match=r"limit=2 must be .* number of classes, 3"):
        load(limit=2)


def test_images_of_other_size_are_another_set(data, folder, tmp_path, monkeypatch):
    shutil.copytree(folder / "imagenet", tmp_path / "imagenet")
    monkeypatch.setenv("SLIMLIB_DATA", str(tmp_path))
    assert slimlib.load_data("imagenet", device="cpu").sha256 == data.sha256
    with (tmp_path / "imagenet" / "train" / "bag" / "0.JPEG").open("ab") as file:
        file.write(b"more")
    assert slimlib.load_data("imagenet", device="cpu").sha256 != data.sha256


def test_a_student_learns_from_files_what_it_learns_from_the_same_pixels_in_memory(data, two_threads):
    """Without augmentation the teacher's answers are kept: the files' are those of their pixels, in their order."""
    decoder = _Decoder(data.train.files)
    pixels = torch.stack([decoder[index, None][1] for index in range(len(data.train))])
    in_memory = dataclasses.replace(data, train=Split(pixels, data.train.labels, data.mean, data.std))
    torch.manual_seed(0)
    teacher = nn.Sequential(nn.AvgPool2d(32), nn.Flatten(), nn.Linear(3 * 49, len(CLASSES)))
    taught = []
    for images in (data, in_memory):
        student, recipe = copy.deepcopy(teacher), slimlib.Recipe(epochs=1, lr=0.1, batch_size=9, augment="none")
        with torch.no_grad():
            student[2].weight.zero_()
        how = slimlib.Distill(kd_weight=1.0)
        history = slimlib.fit(student, images, recipe, teacher=teacher, distill=how, validate="none", progress=False)
        taught.append((history.loss, student[2].weight.detach()))
    assert taught[0][0] == pytest.approx(taught[1][0], rel=1e-6) and taught[0][1].abs().max() > 0.01
    torch.testing.assert_close(taught[0][1], taught[1][1])


def test_errors_say_which_folder_is_missing(tmp_path, folder, monkeypatch):
    monkeypatch.setenv("SLIMLIB_DATA", str(tmp_path))
    with pytest.raises(slimlib.SlimlibError, match=r"imagenet.train.*SLIMLIB_DATA"):
        slimlib.load_data("imagenet")
    shutil.copytree(folder / "imagenet", tmp_path / "imagenet")
    (tmp_path / "imagenet" / "val" / "coat").rename(tmp_path / "imagenet" / "val" / "jacket")
    with pytest.raises(slimlib.SlimlibError, match="same class folders"):
        slimlib.load_data("imagenet")


def test_the_profile_lists_its_runs_and_its_status_is_told():
    done = subprocess.run([sys.executable, "-m", "slimlib", "status", "imagenet"], cwd=ROOT, capture_output=True, text=True)
    runs = study.load_profile("imagenet").runs()
    assert done.returncode == 0 and f"of {len(runs)} runs recorded" in done.stdout, done.stderr


def train_with_torchrun(project, data, studies, seeds=1):
    """The command of the book with two processes, on a profile of the same form with a small network."""
    (project / "notebooks" / "profiles").mkdir(parents=True)
    recipe = "{epochs: 1, lr: 0.01, batch_size: 8, augment: crop_flip, precision: float32}"
    (project / "notebooks" / "profiles" / "imagenet.yml").write_text(f"""
name: imagenet
evidence: true
train: records
records: records
description: small
seeds: {seeds}
recipes: {{dense: {recipe}}}
studies: {studies}
""")
    environment = os.environ | {"SLIMLIB_DATA": str(data), "SLIMLIB_CACHE": str(project / "cache"), "SLIMLIB_WORKERS": "0",
                                "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m", "slimlib", "train",
               "imagenet"]
    return subprocess.run(command, cwd=project, env=environment, capture_output=True, text=True, timeout=300)


SMALL = 'dataset: imagenet, model: "torchvision:squeezenet1_1"'
DENSE = f"dense: [{{{SMALL}, stage: dense, recipe: dense, seconds: 10}}]"


@pytest.mark.slow
def test_two_processes_of_torchrun_train_together_and_write_each_record_once(folder, tmp_path):
    """A dense run, then one that starts from it."""
    scratch = f'{SMALL}, stage: scratch, arms: uniform, budget: "macs:0.8", dense_recipe: dense, recipe: dense, seconds: 10'
    done = train_with_torchrun(tmp_path, folder, f"{{{DENSE}, scratch: [{{{scratch}}}]}}")
    assert done.returncode == 0, done.stderr[-3000:]
    records = {record["run"]["stage"]: record for record in map(json.loads, (
        path.read_text() for path in (tmp_path / "records").rglob("*.json")))}
    assert set(records) == {"dense", "scratch"} and records["scratch"]["dense_key"] == records["dense"]["key"]
    for record in records.values():
        assert record["provenance"]["processes"] == 2 and len(record["loss"]) == 1
    assert done.stdout.count("2 of 2 runs recorded") == 1  # one process speaks


@pytest.mark.slow
def test_an_image_that_one_of_two_processes_cannot_read_ends_both_and_is_named(folder, tmp_path, monkeypatch):
    """The other is in the middle of a step, and waits for the gradients of the first."""
    shutil.copytree(folder / "imagenet", tmp_path / "imagenet")
    monkeypatch.setenv("SLIMLIB_DATA", str(tmp_path))
    cut = Path(slimlib.load_data("imagenet", device="cpu").train.files[0])
    cut.write_bytes(cut.read_bytes()[:500])
    done = train_with_torchrun(tmp_path, tmp_path, f"{{{DENSE}}}", seeds=2)
    assert done.returncode and f"slimlib: {cut} cannot be read as an image" in done.stderr, done.stderr[-3000:]
    assert not list(tmp_path.rglob("records/*/*.json"))


def test_a_file_that_is_no_whole_image_is_named(data, tmp_path):
    whole = Path(data.test.files[0]).read_bytes()
    (tmp_path / "cut.JPEG").write_bytes(whole[:len(whole) // 2])
    broken = dataclasses.replace(data.test, files=(data.test.files[0], str(tmp_path / "cut.JPEG")), labels=data.test.labels[:2])
    with pytest.raises(slimlib.SlimlibError, match=r"cut\.JPEG cannot be read as an image \(.*\); replace it"):
        list(broken.in_order(2))


def test_what_is_evaluated_meanwhile_does_not_change_what_is_learnt(data):
    """A DataLoader of its own accord draws from torch's global stream, from which dropout draws as well."""
    network = nn.Sequential(nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Dropout(), nn.Linear(48, 3))
    torch.manual_seed(5)
    before = torch.get_rng_state()
    slimlib.evaluate(network, data.val)
    assert torch.equal(torch.get_rng_state(), before)
    recipe = slimlib.Recipe(epochs=2, lr=0.1, batch_size=9)
    losses = [slimlib.fit(copy.deepcopy(network), data, recipe, progress=False, validate=when).loss for when in ("none", "epoch")]
    assert losses[0] == losses[1]


@pytest.mark.parametrize("workers", ["0", "1"])
def test_a_file_that_a_worker_cannot_read_is_named_in_one_line(data, tmp_path, monkeypatch, workers):
    monkeypatch.setenv("SLIMLIB_WORKERS", workers)
    broken = tmp_path / "broken.JPEG"
    broken.write_bytes(b"no image")
    split = dataclasses.replace(data.val, files=(*data.val.files[:-1], str(broken)))
    network = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 3))
    with pytest.raises(slimlib.SlimlibError) as said:
        slimlib.evaluate(network, split)
    assert str(said.value).startswith(f"{broken} cannot be read as an image (") and str(said.value).endswith("); replace it")


def test_numbers_of_images_and_of_workers_are_whole(data, monkeypatch):
    for take in (data.val.first, data.val.sample):
        with pytest.raises(slimlib.SlimlibError, match="count=-1 must be None, for all images, or a whole number"):
            take(-1)
    monkeypatch.setenv("SLIMLIB_WORKERS", "²")
    with pytest.raises(slimlib.SlimlibError, match="SLIMLIB_WORKERS='²' must be a whole number"):
        imagefolder.workers()
