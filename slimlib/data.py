"""Image sets by name, and of one's own, onto a device.

Where the images come from: :mod:`slimlib.imagesets`; what they are then: :mod:`slimlib.splits`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType

import numpy as np
import torch

from slimlib.arguments import seed
from slimlib.errors import SlimlibError
from slimlib.imagesets import ARRAYS, KNOWN, images_sha256, read, stratified
from slimlib.splits import Data, Split


def load_data(name: str, device: torch.device | str | None = None, split_seed: int = 0, val_fraction: float = 0.1,
              limit: int | None = None) -> Data:
    """Load an image set onto a device, with a validation split held out of the training images.

    Args:
        name: a key of ``KNOWN``: ``"fashionmnist-10k"`` (embedded), ``"fashionmnist"``, ``"mnist"``, ``"cifar10"``,
            ``"cifar100"``; or ``"imagenet"``, whose images stay files: :mod:`slimlib.imagenet`.
        device: where the images live; by default the first GPU if there is one, else the CPU.
        split_seed: which training images are held out. The same seed holds out the same images on every machine.
        val_fraction: the held-out part of train, in [0, 1), drawn evenly over the classes.
        limit: for tiny runs: keep at most this many training images (held-out ones included) and as many test images,
            drawn evenly over the classes.

    Raises:
        SlimlibError: unknown name, argument out of range, file missing and not downloadable, or images that do not have
            the SHA-256 of the set.
    """
    if name not in (*KNOWN, "imagenet"):
        raise SlimlibError(f"name={name!r} is no data set of slimlib; choose one of {', '.join(KNOWN)}, imagenet")
    split_seed = _checked_seed(split_seed, val_fraction)
    if name == "imagenet":
        from slimlib.imagenet import load

        return load(device, split_seed, val_fraction, limit)
    known = KNOWN[name]
    if limit is not None and limit < known.num_classes:
        raise SlimlibError(f"limit={limit} must be None or at least the number of classes, {known.num_classes}")
    arrays, source = read(name)
    return _divided(name, arrays, known.num_classes, known.mean, known.std, images_sha256(arrays), source, device, split_seed,
                    val_fraction, limit)


def from_arrays(x_train: np.ndarray, y_train: np.ndarray, x_test: np.ndarray, y_test: np.ndarray, name: str = "own",
                device: torch.device | str | None = None, split_seed: int = 0, val_fraction: float = 0.1) -> Data:
    """Images of your own as :func:`fit`, :func:`evaluate` and :func:`sensitivity` take them, with a part of train held out.

    Images are uint8 arrays (N, H, W, C), labels whole numbers from 0; ``device``, ``split_seed`` and ``val_fraction`` are those
    of :func:`load_data`. Channels are normalised by the mean and standard deviation of the training images. Raises
    SlimlibError naming the array that is of another type or shape.
    """
    split_seed = _checked_seed(split_seed, val_fraction)
    arrays = {"x_train": x_train, "y_train": y_train, "x_test": x_test, "y_test": y_test}
    arrays = {key: np.asarray(value) for key, value in arrays.items()}
    for part in ("train", "test"):
        images, labels = arrays[f"x_{part}"], arrays[f"y_{part}"]
        if images.dtype != np.uint8 or images.ndim != 4 or not len(images) or images.shape[1:] != arrays["x_train"].shape[1:]:
            raise SlimlibError(f"x_{part} is {images.dtype} of shape {images.shape}; give images as uint8 (N, H, W, C), those "
                               "to train and to test on of one size")
        if labels.dtype.kind not in "iu" or labels.shape != images.shape[:1] or labels.min() < 0:
            raise SlimlibError(f"y_{part} is {labels.dtype} of shape {labels.shape}; give a whole number from 0 for each of the "
                               f"{len(images)} images in x_{part}")
        arrays[f"y_{part}"] = labels.astype(np.int64)
    mean, std = _channel_moments(arrays["x_train"])
    if min(std) == 0:
        raise SlimlibError("x_train has a channel in which all pixels are equal: leave it out")
    classes = int(max(arrays["y_train"].max(), arrays["y_test"].max())) + 1
    return _divided(name, arrays, classes, mean, std, images_sha256(arrays), "arrays", device, split_seed, val_fraction, None)


def _checked_seed(split_seed: int, val_fraction: float) -> int:
    """The seed as an int, where both it and the part that is held out are in range."""
    if not 0 <= val_fraction < 1:
        raise SlimlibError(f"val_fraction={val_fraction} must be at least 0 and less than 1")
    return seed("split_seed", split_seed, bits=32)


def _channel_moments(images: np.ndarray) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of each channel of uint8 images, scaled to [0, 1]: from counts of the 256 values, exactly."""
    counts = np.stack([np.bincount(images[..., c].reshape(-1), minlength=256) for c in range(images.shape[3])])
    share, value = counts / counts.sum(1, keepdims=True), np.arange(256) / 255
    mean = share @ value
    return tuple(mean.tolist()), tuple(np.sqrt((share * (value - mean[:, None]) ** 2).sum(1)).tolist())


def _divided(name: str, arrays: Mapping[str, np.ndarray], num_classes: int, mean: tuple[float, ...], std: tuple[float, ...],
             sha256: str, source: str, device: torch.device | str | None, split_seed: int, val_fraction: float,
             limit: int | None) -> Data:
    """The arrays on a device, the validation images held out of the training images."""
    if device is None:
        device = "cuda" if torch.cuda.is_available() else "cpu"

    train = np.arange(len(arrays["y_train"]))
    test = np.arange(len(arrays["y_test"]))
    if limit is not None:
        train, test = (part[stratified(arrays[f"y_{key}"], min(limit, len(part)), seed=0)]
                       for key, part in (("train", train), ("test", test)))
    held_out = stratified(arrays["y_train"][train], round(val_fraction * len(train)), split_seed)

    def split(part: str, chosen: np.ndarray) -> Split:
        images = torch.from_numpy(arrays[f"x_{part}"][chosen]).to(device).permute(0, 3, 1, 2)
        return Split(images, torch.from_numpy(arrays[f"y_{part}"][chosen]).to(device), mean, std)

    notes = {key: arrays[key].tolist() for key in arrays if key not in ARRAYS}
    return Data(name, num_classes, mean, std, sha256, source, notes=MappingProxyType(notes),
                train=split("train", np.delete(train, held_out)), val=split("train", train[held_out]),
                test=split("test", test))


def with_normalisation(data: Data, mean: Sequence[float], std: Sequence[float]) -> Data:
    """The same images, normalised as a pretrained network expects them. The images are shared, not copied."""
    channels = data.input_shape[0]
    if len(mean) != channels or len(std) != channels or min(std) <= 0:
        raise SlimlibError(f"mean={mean} and std={std} must hold one number for each of the {channels} channels of "
                           f"{data.name}, and each std must be positive")
    how = {"mean": tuple(map(float, mean)), "std": tuple(map(float, std))}
    splits = {key: replace(getattr(data, key), **how) for key in ("train", "val", "test")}
    return replace(data, **how, **splits)
