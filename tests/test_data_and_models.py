"""The embedded set, its splits, and the networks."""

import numpy as np
import pytest
import torch

import slimlib
from slimlib import imagesets, models


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


def test_normalised_is_the_formula():
    data = slimlib.load_data("fashionmnist-10k", limit=100)
    want = (data.train.images[:5].float() / 255 - data.mean[0]) / data.std[0]
    torch.testing.assert_close(data.train.normalised(slice(0, 5)), want, rtol=1e-5, atol=1e-5)


def test_a_damaged_set_is_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("SLIMLIB_DATA", str(tmp_path))
    np.savez(tmp_path / "mnist.npz", x_train=np.zeros((4, 28, 28, 1), np.uint8), y_train=np.zeros(4, np.int64),
             x_test=np.zeros((2, 28, 28, 1), np.uint8), y_test=np.zeros(2, np.int64))
    with pytest.raises(slimlib.SlimlibError, match=r"mnist\.npz are not those of mnist"):
        slimlib.load_data("mnist")
    with pytest.raises(slimlib.SlimlibError, match="name='svhn'"):
        slimlib.load_data("svhn")


@pytest.mark.parametrize(("name", "channels", "size", "parameters"), [
    ("lenet5", 1, 28, 431_080), ("vgg16", 3, 32, 14_987_722), ("resnet20", 3, 32, 269_722), ("resnet56", 3, 32, 853_018)])
def test_networks_have_their_published_sizes(name, channels, size, parameters):
    model = models.build(name, 10, channels)
    assert sum(p.numel() for p in model.parameters()) == parameters
    assert model(torch.zeros(2, channels, size, size)).shape == (2, 10)


def test_pretrained_resnet20_has_its_accuracy(real_file):
    real_file("cifar10.npz")
    real_file("weights/resnet20-12fca82f.th")
    data = slimlib.data.with_normalisation(slimlib.load_data("cifar10", limit=2000), *models.PRETRAINED_NORMALISATION)
    accuracy = slimlib.evaluate(models.pretrained("cifar10/resnet20"), data)
    assert abs(accuracy - 0.9173) < 4 * (0.9173 * 0.0827 / 2000) ** 0.5
