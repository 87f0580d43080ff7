"""Image sets by name, and of one's own, onto a device.

Where the images come from: :mod:`slimlib.imagesets`; what they are then: :mod:`slimlib.splits`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Sized
from dataclasses import replace
from math import inf, isfinite
from types import MappingProxyType

import numpy as np
import torch

from slimlib import arguments
from slimlib.arguments import kind
from slimlib.division import divided, must_reach_all_classes
from slimlib.errors import SlimlibError, first_line
from slimlib.imagesets import ARRAYS, KNOWN, NAMES, images_sha256, read
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
        SlimlibError: unknown name, argument out of range, a device that is not here, file missing and not downloadable, or
            images that do not have the SHA-256 of the set.
    """
    if name not in NAMES:
        raise SlimlibError(f"name={name!r} is no data set of slimlib; choose one of {', '.join(NAMES)}")
    split_seed, device = _checked_division(split_seed, val_fraction), _device(device)
    if name == "imagenet":
        from slimlib.imagenet import load

        return load(device, split_seed, val_fraction, limit)
    known = KNOWN[name]
    must_reach_all_classes(limit, known.num_classes)
    arrays, source = read(name)
    return _divided(name, arrays, known.num_classes, known.mean, known.std, source, device, split_seed, val_fraction, limit)


def from_arrays(x_train: np.ndarray, y_train: np.ndarray, x_test: np.ndarray, y_test: np.ndarray, name: str = "own",
                device: torch.device | str | None = None, split_seed: int = 0, val_fraction: float = 0.1) -> Data:
    """Images of your own as :func:`fit`, :func:`evaluate` and :func:`sensitivity` take them, with a part of train held out.

    Images are uint8 arrays (N, H, W, C), labels whole numbers from 0; ``device``, ``split_seed`` and ``val_fraction`` are those
    of :func:`load_data`. Channels are normalised by the mean and standard deviation of the training images. Raises
    SlimlibError naming the array that is of another type or shape.
    """
    split_seed, device = _checked_division(split_seed, val_fraction), _device(device)
    arrays = {"x_train": x_train, "y_train": y_train, "x_test": x_test, "y_test": y_test}
    arrays = {key: np.asarray(value) for key, value in arrays.items()}
    for part in ("train", "test"):
        images, labels = arrays[f"x_{part}"], arrays[f"y_{part}"]
        if _channels_first(images.shape):
            raise SlimlibError(f"x_{part} of shape {images.shape} has its channels first; give (N, H, W, C): "
                               "x.transpose(0, 2, 3, 1)")
        if images.dtype != np.uint8 or images.ndim != 4 or not len(images) or images.shape[1:] != arrays["x_train"].shape[1:]:
            raise SlimlibError(f"x_{part} is {images.dtype} of shape {images.shape}; give images as uint8 (N, H, W, C), those "
                               "to train and to test on of one size")
        if labels.dtype.kind not in "iu" or labels.shape != images.shape[:1] or labels.min() < 0:
            least = f", the least of them {labels.min()}" if labels.dtype.kind in "iu" and labels.size else ""
            raise SlimlibError(f"y_{part} is {labels.dtype} of shape {labels.shape}{least}; give a whole number from 0 for each "
                               f"of the {len(images)} images in x_{part}")
        arrays[f"y_{part}"] = labels.astype(np.int64)
    mean, std = _channel_moments(arrays["x_train"])
    if min(std) == 0:
        raise SlimlibError(f"x_train has a channel in which all pixels are equal, {std.index(0)}: leave it out")
    classes = int(max(arrays["y_train"].max(), arrays["y_test"].max())) + 1
    return _divided(name, arrays, classes, mean, std, "arrays", device, split_seed, val_fraction, None)


def _channels_first(shape: tuple[int, ...]) -> bool:
    """Whether images lie as torch has them, (N, C, H, W): with fewer rows than an image has channels, nothing is certain."""
    usual = (1, 3, 4)
    return len(shape) == 4 and shape[1] in usual and shape[3] not in usual and shape[1] < shape[2]


def _device(device: torch.device | str | None) -> torch.device:
    """That device; for None the first GPU if there is one, else the CPU. Raises SlimlibError for one that is not here."""
    if device is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        found = torch.device(device)
        torch.empty(0, device=found)
    except (RuntimeError, TypeError, AssertionError, ImportError) as error:  # AssertionError: torch is built without CUDA
        raise SlimlibError(f"device={device!r} cannot be used here: {first_line(error)}; give 'cpu', or leave device "
                           "out") from error
    return found


def _checked_division(split_seed: int, val_fraction: float) -> int:
    """The seed as an int, where both it and the part that is held out are in range."""
    if not 0 <= arguments.number("val_fraction", val_fraction) < 1:
        raise SlimlibError(f"val_fraction={val_fraction} must be at least 0 and less than 1")
    return arguments.seed("split_seed", split_seed, bits=32)


def _channel_moments(images: np.ndarray) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of each channel of uint8 images, scaled to [0, 1]: from counts of the 256 values, exactly."""
    counts = np.stack([np.bincount(images[..., c].reshape(-1), minlength=256) for c in range(images.shape[3])])
    share, value = counts / counts.sum(1, keepdims=True), np.arange(256) / 255
    mean = share @ value
    return tuple(mean.tolist()), tuple(np.sqrt((share * (value - mean[:, None]) ** 2).sum(1)).tolist())


def _divided(name: str, arrays: Mapping[str, np.ndarray], num_classes: int, mean: tuple[float, ...], std: tuple[float, ...],
             source: str, device: torch.device, split_seed: int, val_fraction: float, limit: int | None) -> Data:
    """The arrays on a device, the validation images held out of the training images."""
    train, val, test = divided(arrays["y_train"], arrays["y_test"], limit, val_fraction, split_seed)

    def split(part: str, chosen: np.ndarray) -> Split:
        images = torch.from_numpy(arrays[f"x_{part}"][chosen]).to(device).permute(0, 3, 1, 2)
        return Split(images, torch.from_numpy(arrays[f"y_{part}"][chosen]).to(device), mean, std)

    notes = {key: arrays[key].tolist() for key in arrays if key not in ARRAYS}
    return Data(name, num_classes, mean, std, images_sha256(arrays), source, notes=MappingProxyType(notes),
                train=split("train", train), val=split("train", val), test=split("test", test))


def with_normalisation(data: Data, mean: Sequence[float], std: Sequence[float]) -> Data:
    """The same images, normalised as a pretrained network expects them. The images are shared, not copied.

    ``mean`` and ``std`` hold a number for each channel, of pixels scaled to [0, 1]. Raises SlimlibError for another number of
    them, for a deviation that is not positive, and for what is not finite.
    """
    kind("data", data, Data, "what load_data or slimlib.data.from_arrays returns")
    kind("mean", mean, Sized, "a number for each channel")
    kind("std", std, Sized, "a number for each channel")
    channels = data.input_shape[0]
    how = {"mean": tuple(map(float, mean)), "std": tuple(map(float, std))}
    if {len(mean), len(std)} != {channels} or not all(map(isfinite, how["mean"])) or not all(0 < s < inf for s in how["std"]):
        raise SlimlibError(f"mean={mean} and std={std} must hold one number for each of the {channels} channels of "
                           f"{data.name}, each std positive, and all finite")
    splits = {key: replace(getattr(data, key), **how) for key in ("train", "val", "test")}
    return replace(data, **how, **splits)
