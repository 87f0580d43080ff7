"""The embedded set, its splits, and the networks."""

import dataclasses
import hashlib
import json
import sys
from collections import OrderedDict
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import slimlib
from slimlib import division, downloads, files, imagesets, models
from slimlib._torchvision import import_torchvision
from slimlib.fingerprint import fingerprint
from slimlib.study.store import default_cache

RECORDS = Path(__file__).parents[1] / "book" / "records"

def test_embedded_set_is_whole_and_balanced():
    data = slimlib.load_data("fashionmnist-10k")
    assert (len(data.train), len(data.val), len(data.test)) == (9000, 1000, 10000)
    assert data.source == "embedded" and data.input_shape == (1, 28, 28)
    for split, each in ((data.val, 100), (data.test, 1000), (data.train, 900)):
        assert torch.bincount(split.labels).tolist() == [each] * 10


def test_held_out_images_are_not_trained_on():
    arrays, _ = imagesets.read("fashionmnist-10k")
    data = slimlib.load_data("fashionmnist-10k", split_seed=1)
    count = lambda images: sorted(hash(bytes(i)) for i in images.permute(0, 2, 3, 1).contiguous().numpy())  # noqa: E731
    whole = sorted(hash(bytes(i)) for i in arrays["x_train"])
    assert sorted(count(data.train.images) + count(data.val.images)) == whole
    again, other = (slimlib.load_data("fashionmnist-10k", split_seed=s) for s in (1, 2))
    assert torch.equal(again.val.images, data.val.images) and not torch.equal(other.val.images, data.val.images)


def test_a_limit_keeps_the_same_images_whatever_is_held_out_of_them():
    one, other = (slimlib.load_data("fashionmnist-10k", limit=200, split_seed=seed) for seed in (0, 1))
    assert torch.equal(one.test.images, other.test.images) and torch.equal(one.test.labels, other.test.labels)
    pools = [sorted(bytes(i.numpy()) for i in torch.cat([d.train.images, d.val.images]).contiguous()) for d in (one, other)]
    assert pools[0] == pools[1] and len(pools[0]) == len(one.test) == 200 and not torch.equal(one.val.images, other.val.images)


def test_proportions_of_classes_are_kept_by_the_largest_remainders():
    labels = np.repeat([0, 1, 2], [5, 3, 2])
    for count, want in ((4, [2, 1, 1]), (5, [3, 1, 1]), (6, [3, 2, 1]), (0, [0, 0, 0]), (10, [5, 3, 2])):
        chosen = division.stratified(labels, count, seed=0)
        assert np.bincount(labels[chosen], minlength=3).tolist() == want and (np.diff(chosen) > 0).all()
    assert len({tuple(division.stratified(labels, 4, seed)) for seed in range(20)}) > 5


def test_another_normalisation_is_that_of_all_three_splits():
    data = slimlib.load_data("fashionmnist-10k", limit=50)
    other = slimlib.data.with_normalisation(data, [0.25], [0.5])
    for part in ("train", "val", "test"):
        ours, before = getattr(other, part), getattr(data, part)
        torch.testing.assert_close(ours.normalised(), (before.images / 255 - 0.25) / 0.5)
        assert ours.images.data_ptr() == before.images.data_ptr() and before.mean == data.mean
    for mean, std in (([0.5] * 3, [0.5] * 3), ([0.5], [0.0]), ([0.5], [0.5, 0.5])):
        with pytest.raises(slimlib.SlimlibError, match="one number for each of the 1 channels"):
            slimlib.data.with_normalisation(data, mean, std)
    with pytest.raises(slimlib.SlimlibError, match="mean is of type float; give a number for each channel"):
        slimlib.data.with_normalisation(data, 0.5, [0.5])
    with pytest.raises(slimlib.SlimlibError, match=r"^data is of type str; give what load_data"):
        slimlib.data.with_normalisation("cifar10", [0.5], [0.5])
    assert slimlib.data.with_normalisation(data, np.array([0.25]), np.array([0.5])).mean == other.mean
    with pytest.raises(slimlib.SlimlibError, match=r"val_fraction=1\.0 must be"):
        slimlib.load_data("fashionmnist-10k", val_fraction=1.0)
    with pytest.raises(slimlib.SlimlibError, match=r"limit=9 must be .* number of classes, 10"):
        slimlib.load_data("fashionmnist-10k", limit=9)


def test_evaluating_a_whole_set_takes_its_test_images():
    data = slimlib.load_data("fashionmnist-10k", limit=300)
    torch.manual_seed(0)
    model = models.build("lenet5", 10, 1)
    wrong = dataclasses.replace(data.val, labels=data.val.labels + 10)  # no class of that number: none would be right
    assert slimlib.evaluate(model, dataclasses.replace(data, val=wrong, train=wrong)) == slimlib.evaluate(model, data.test) > 0


def test_a_fingerprint_tells_names_values_and_buffers():
    def build(name="a", value=1.0, mean=0.0):
        model = torch.nn.Sequential(OrderedDict({name: torch.nn.Linear(2, 2), "norm": torch.nn.BatchNorm1d(2)}))
        torch.nn.init.constant_(model[0].weight, value), torch.nn.init.zeros_(model[0].bias)
        model[1].running_mean.fill_(mean)
        return fingerprint(model)

    assert build() == build() and len({build(), build("b"), build(value=2.0), build(mean=1.0)}) == 4


def test_images_of_ones_own_are_held_like_those_of_a_known_set():
    arrays, _ = imagesets.read("fashionmnist-10k")
    own = slimlib.data.from_arrays(*(arrays[key] for key in imagesets.ARRAYS), device="cpu")
    known = slimlib.load_data("fashionmnist-10k", device="cpu")
    for part in ("train", "val", "test"):
        ours, theirs = getattr(own, part), getattr(known, part)
        assert torch.equal(ours.images, theirs.images) and torch.equal(ours.labels, theirs.labels)
    assert own.sha256 == known.sha256 and own.num_classes == 10 and own.notes == {}
    everything = arrays["x_train"] / 255
    assert own.mean == pytest.approx([everything.mean()], abs=1e-12) and own.std == pytest.approx([everything.std()], abs=1e-12)
    assert own.train.normalised().mean().abs() < 0.01
    few = [arrays["x_train"][:20], np.arange(20) % 4, arrays["x_test"][:5], np.array([0, 6, 1, 2, 3])]
    assert slimlib.data.from_arrays(*few, device="cpu").num_classes == 7, "also of test images alone"
    small = slimlib.data.from_arrays(*(arrays[key][:500] for key in imagesets.ARRAYS), device="cpu", val_fraction=0.2)
    network = models.build("lenet5", 10, 1)
    slimlib.fit(network, small, slimlib.Recipe(epochs=1, lr=0.02), progress=False)
    assert 0 <= slimlib.evaluate(network, small) <= 1 and len(small.val) == 100


def test_arrays_of_another_kind_are_named():
    x, y = np.zeros((4, 8, 8, 3), np.uint8), np.arange(4)
    x[0] = 9
    good = {"x_train": x, "y_train": y, "x_test": x, "y_test": y}
    for wrong, told in (
        ({"x_train": x / 255}, r"x_train is float64 of shape \(4, 8, 8, 3\); give images as uint8"),
        ({"x_test": x[:, :4]}, "x_test is uint8 .* of one size"), ({"x_train": x[..., 0]}, "x_train is uint8 of shape"),
        ({"y_train": y[:3]}, "y_train is int64 .* each of the 4 images"), ({"y_test": y - 1}, "y_test is"),
        ({"y_train": y.astype(float)}, "y_train is float64"), ({"x_train": x * 0}, "x_train has a channel in which all pixels"),
        ({"val_fraction": 1.0}, "val_fraction"),
    ):
        with pytest.raises(slimlib.SlimlibError, match=told):
            slimlib.data.from_arrays(**(good | wrong))


@pytest.mark.parametrize("shape", [(8, 8, 2), (3, 3, 12), (4, 8, 3), (1, 8, 1)])
def test_images_of_any_size_and_number_of_channels_are_taken_as_they_are(shape):
    pixels = np.random.default_rng(0).integers(0, 256, (8, *shape), dtype=np.uint8)
    data = slimlib.data.from_arrays(pixels, np.arange(8) % 2, pixels, np.arange(8) % 2, device=torch.device("cpu"))
    assert data.input_shape == (shape[2], *shape[:2])


def test_normalised_is_the_formula():
    data = slimlib.load_data("fashionmnist-10k", limit=100)
    want = (data.train.images[:5].float() / 255 - data.mean[0]) / data.std[0]
    torch.testing.assert_close(data.train.normalised(slice(0, 5)), want, rtol=1e-5, atol=1e-5)


def test_a_sample_keeps_the_proportions_and_the_labels():
    split = slimlib.load_data("fashionmnist-10k", limit=600, device="cpu").train
    part = split.sample(100, seed=3)
    assert np.bincount(part.labels).tolist() == [10] * 10 and (part.labels.diff() < 0).any()
    places = [(split.images == image).flatten(1).all(1).nonzero()[0, 0] for image in part.images[:20]]
    assert torch.equal(split.labels[torch.stack(places)], part.labels[:20])


def test_a_sample_of_no_images_is_empty():
    pixels = np.zeros((8, 4, 4, 3), np.uint8)
    pixels[::2] = 255
    data = slimlib.data.from_arrays(pixels, np.arange(8) % 2, pixels, np.arange(8) % 2, device="cpu", val_fraction=0)
    assert len(data.val.sample(5)) == len(data.val.first(5)) == len(data.train.sample(0)) == 0


def test_a_damaged_set_is_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("SLIMLIB_DATA", str(tmp_path))
    np.savez(tmp_path / "mnist.npz", x_train=np.zeros((4, 28, 28, 1), np.uint8), y_train=np.zeros(4, np.int64),
             x_test=np.zeros((2, 28, 28, 1), np.uint8), y_test=np.zeros(2, np.int64))
    with pytest.raises(slimlib.SlimlibError, match=r"mnist\.npz are not those of mnist"):
        slimlib.load_data("mnist")
    with pytest.raises(slimlib.SlimlibError, match="name='svhn'"):
        slimlib.load_data("svhn")


def small_set(monkeypatch, folder, shape=(6, 4, 4, 3), **known):
    """A set of few images that stands for cifar10, and what the table says of it."""
    random = np.random.RandomState(0)
    arrays = {"x_train": random.randint(0, 256, (20, *shape[1:]), np.uint8), "y_train": np.arange(20) % 10,
              "x_test": random.randint(0, 256, shape, np.uint8), "y_test": np.arange(shape[0])}
    exact = np.delete(arrays["x_test"], known.get("may_differ", ()), 0)
    sha256 = hashlib.sha256(arrays["x_train"].tobytes() + exact.tobytes()).hexdigest()
    labels = hashlib.sha256(arrays["y_train"].tobytes() + arrays["y_test"].tobytes()).hexdigest()
    entry = replace(imagesets.KNOWN["cifar10"], sha256=sha256, labels_sha256=labels, **known)
    monkeypatch.setitem(imagesets.KNOWN, "cifar10", entry)
    monkeypatch.setenv("SLIMLIB_DATA", str(folder))
    return arrays


def test_a_downloaded_set_is_packed_and_read_though_the_recorded_copy_has_other_test_images(tmp_path, monkeypatch):
    """The runs on record saw CIFAR-10 with 20 test images as JPEG re-encodes; what torchvision fetches has the originals."""
    recorded = small_set(monkeypatch, tmp_path / "new", may_differ=(1, 4))
    original = {**recorded, "x_test": recorded["x_test"].copy()}
    original["x_test"][[1, 4]] ^= 1
    asked = []

    class CIFAR10:
        def __init__(self, root, train, download):
            asked.append((train, download))
            part = "train" if train else "test"
            self.data, self.targets = original[f"x_{part}"], original[f"y_{part}"].tolist()

    monkeypatch.setattr(import_torchvision().datasets, "CIFAR10", CIFAR10)
    data = slimlib.load_data("cifar10", device="cpu")
    assert (data.source, asked) == ("torchvision", [(True, True), (False, True)])
    assert data.sha256 == imagesets.images_sha256(original) and np.array_equal(
        data.test.images.permute(0, 2, 3, 1), original["x_test"])
    again = slimlib.load_data("cifar10", device="cpu")
    assert (again.source, again.sha256, len(asked)) == ("packed", data.sha256, 2), "fetched once"
    np.savez(tmp_path / "new" / "cifar10.npz", **recorded)
    assert slimlib.load_data("cifar10", device="cpu").sha256 == imagesets.images_sha256(recorded) != data.sha256
    for part, at in (("x_test", 0), ("x_test", 5), ("x_train", 1)):
        other = {**original, part: original[part].copy()}
        other[part][at] ^= 1
        np.savez(tmp_path / "new" / "cifar10.npz", **other)
        with pytest.raises(slimlib.SlimlibError, match=r"the images in .* are not those of cifar10"):
            slimlib.load_data("cifar10", device="cpu")


def test_the_recorded_copy_of_cifar10_tells_the_images_that_may_differ(real_file):
    real_file("cifar10.npz")
    arrays, _ = imagesets.read("cifar10")
    told = arrays.get("lossy_test_indices", imagesets.KNOWN["cifar10"].may_differ)
    assert tuple(told) == imagesets.KNOWN["cifar10"].may_differ
    hashes = {json.loads(file.read_text())["provenance"]["data"]["sha256"] for file in RECORDS.glob("cifar10-*/*.json")}
    assert hashes and (imagesets.images_sha256(arrays) in hashes) == ("lossy_test_indices" in arrays)


def test_a_folder_that_cannot_be_made_is_named(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("SLIMLIB_DATA", str(tmp_path / "file" / "data"))
    with pytest.raises(slimlib.SlimlibError, match=r"mnist is not in .* could not be downloaded \(.* SLIMLIB_DATA"):
        slimlib.load_data("mnist")
    with pytest.raises(slimlib.SlimlibError, match=r"some\.th is missing, and .* SLIMLIB_DATA"):
        downloads.downloaded((tmp_path / "some.th").as_uri(), "0" * 64)


def test_labels_of_another_integer_type_are_read_and_images_of_another_shape_refused(tmp_path, monkeypatch):
    arrays = small_set(monkeypatch, tmp_path)
    np.savez(tmp_path / "cifar10.npz", **{**arrays, "y_train": arrays["y_train"].astype(np.uint8)})
    assert slimlib.load_data("cifar10", device="cpu").train.labels.dtype is torch.int64
    for change in ({"x_train": arrays["x_train"].transpose(0, 3, 1, 2)}, {"x_test": arrays["x_test"].astype(float)},
                   {"y_test": arrays["y_test"] / 1}, {"y_test": arrays["y_test"][:3]}):
        np.savez(tmp_path / "cifar10.npz", **{**arrays, **change})
        with pytest.raises(slimlib.SlimlibError, match=r"cifar10\.npz has x_.* a packed set holds uint8"):
            slimlib.load_data("cifar10", device="cpu")
    grey = small_set(monkeypatch, tmp_path, (6, 4, 4, 1), mean=(0.5,), std=(0.2,))
    np.savez(tmp_path / "cifar10.npz", **{key: x[..., 0] if key[0] == "x" else x for key, x in grey.items()})
    assert slimlib.load_data("cifar10", device="cpu").input_shape == (1, 4, 4)


@pytest.mark.parametrize("damage", ["cut short", "no archive", "empty", "other labels"])
def test_what_is_damaged_and_what_to_do_is_said(tmp_path, monkeypatch, damage):
    whole = imagesets.EMBEDDED.read_bytes()
    file = tmp_path / imagesets.EMBEDDED.name
    file.write_bytes({"cut short": whole[:len(whole) // 2], "no archive": b"<html>", "empty": b""}.get(damage, whole))
    if damage == "other labels":
        with np.load(file) as packed:
            arrays = dict(packed)
        np.savez(file, **{**arrays, "y_test": np.roll(arrays["y_test"], 1)})
    monkeypatch.setattr(imagesets, "EMBEDDED", file)
    told = "the labels in .* are not those of" if damage == "other labels" else "is damaged"
    with pytest.raises(slimlib.SlimlibError, match=rf"fashionmnist-10k\.npz.*{told}.*|{told}.*remove the file"):
        slimlib.load_data("fashionmnist-10k")


@pytest.mark.parametrize(("name", "channels", "size", "parameters"), [
    ("lenet5", 1, 28, 431_080), ("vgg16", 3, 32, 14_987_722), ("resnet20", 3, 32, 269_722), ("resnet56", 3, 32, 853_018)])
def test_networks_have_their_published_sizes(name, channels, size, parameters):
    model = models.build(name, 10, channels)
    assert sum(p.numel() for p in model.parameters()) == parameters
    assert model(torch.zeros(2, channels, size, size)).shape == (2, 10)


def test_a_residual_network_has_as_many_stages_as_widths():
    for widths in ((16, 32), (8, 16, 32, 64)):
        model = models.ResNet(1, widths, 5, 3, "B")
        assert model(torch.zeros(2, 3, 32, 32)).shape == (2, 5)


def test_pretrained_resnet20_has_its_accuracy(real_file):
    real_file("cifar10.npz")
    real_file("weights/resnet20-12fca82f.th")
    data = slimlib.data.with_normalisation(slimlib.load_data("cifar10", limit=2000), *models.PRETRAINED_NORMALISATION)
    accuracy = slimlib.evaluate(models.pretrained("cifar10/resnet20"), data)
    assert abs(accuracy - 0.9173) < 4 * (0.9173 * 0.0827 / 2000) ** 0.5


def test_weights_are_fetched_once_and_checked_each_time(tmp_path, monkeypatch):
    monkeypatch.setenv("SLIMLIB_DATA", str(tmp_path / "data"))
    source = tmp_path / "some.th"
    source.write_bytes(b"weights")
    right = hashlib.sha256(b"weights").hexdigest()
    for sha256, url in (("0" * 64, source.as_uri()), (right, (tmp_path / "none" / "some.th").as_uri())):
        with pytest.raises(slimlib.SlimlibError, match=r"some\.th is missing, and file:.* cannot be fetched"):
            downloads.downloaded(url, sha256)
        assert not list((tmp_path / "data" / "weights").iterdir())
    file = downloads.downloaded(source.as_uri(), right)
    source.unlink()
    assert downloads.downloaded(source.as_uri(), right) == file and file.read_bytes() == b"weights"
    file.write_bytes(b"other")
    with pytest.raises(slimlib.SlimlibError, match=r"some\.th is damaged: its SHA-256 begins with"):
        downloads.downloaded(source.as_uri(), right)


@pytest.mark.parametrize("system, variables, want", [
    ("linux", {}, "home/.cache/slimlib"), ("linux", {"XDG_CACHE_HOME": "xdg"}, "xdg/slimlib"),
    ("darwin", {"XDG_CACHE_HOME": "xdg"}, "home/Library/Caches/slimlib"), ("win32", {}, "home/AppData/Local/slimlib"),
    ("win32", {"LOCALAPPDATA": "local"}, "local/slimlib"),
])
def test_data_lie_in_the_cache_folder_of_the_system(monkeypatch, tmp_path, system, variables, want):
    for name in ("SLIMLIB_DATA", "SLIMLIB_CACHE", "XDG_CACHE_HOME", "LOCALAPPDATA"):
        monkeypatch.delenv(name, raising=False)
    for name, folder in variables.items():
        monkeypatch.setenv(name, str(tmp_path / folder))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setattr(sys, "platform", system)
    assert (default_cache(), files.data_folder()) == (tmp_path / want, tmp_path / want / "data")
    monkeypatch.setenv("SLIMLIB_DATA", "~/images")
    monkeypatch.setenv("SLIMLIB_CACHE", "~/kept")
    assert (default_cache(), files.data_folder()) == (tmp_path / "home" / "kept", tmp_path / "home" / "images")
