"""Image sets that live on the device: uint8, channels-last, normalised batch by batch.

A set is looked for as one packed file, ``<name>.npz`` in :func:`data_folder`; else torchvision downloads it and it is
packed; else the error says which file to put where. ``fashionmnist-10k`` comes with slimlib and needs neither.
"""

from __future__ import annotations

import hashlib
import os
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from types import MappingProxyType

import numpy as np
import torch
from torch import Tensor

from slimlib.errors import SlimlibError


@dataclass(frozen=True)
class _Known:
    num_classes: int
    mean: tuple[float, ...]  # of the training pixels, scaled to [0, 1], a channel each
    std: tuple[float, ...]
    sha256: str  # of the raw bytes of x_train, then of x_test
    torchvision: str = ""  # the class that downloads it


KNOWN = {
    "fashionmnist-10k": _Known(10, (0.2860,), (0.3530,),
                               "6acb883917316cab9f690e27db75b3829c5bc0129af70e63fef7e00b96197ebc"),
    "fashionmnist": _Known(10, (0.2860,), (0.3530,),
                           "0fbbfcb392782b3b702472ead3688778e1509e8cf40f5c24d9d3303618b193ab", "FashionMNIST"),
    "mnist": _Known(10, (0.1307,), (0.3081,),
                    "5b92582eb909c82a9bfefcd44acbe9233be3eb5b419a44cf211022ad2bf4bf96", "MNIST"),
    "cifar10": _Known(10, (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616),
                      "b2849554412f86cd5af69eef552b8e24fc98d1a8e784f48f9bc00c62b9a0cc4f", "CIFAR10"),
    "cifar100": _Known(100, (0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762),
                       "f33db8ac706110c918c04bd7359201ed472dec17f5afc2905d52ebec1fdc3365", "CIFAR100"),
}
EMBEDDED = Path(__file__).parent / "_data" / "fashionmnist-10k.npz"


@dataclass(frozen=True, eq=False)
class Split:
    """Images (N, C, H, W), uint8 and channels-last, with labels (N,), int64, both on one device."""

    images: Tensor
    labels: Tensor
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def device(self) -> torch.device:
        return self.images.device

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """(C, H, W) of one example."""
        return tuple(self.images.shape[1:])

    def first(self, count: int | None) -> Split:
        """The first images only; all of them for None."""
        return replace(self, images=self.images[:count], labels=self.labels[:count])

    def in_order(self, batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """All images as normalised batches, each with its labels."""
        for start in range(0, len(self), batch_size):
            part = slice(start, start + batch_size)
            yield self.normalised(part), self.labels[part]

    def normalised(self, index: Tensor | slice = slice(None)) -> Tensor:
        """The chosen images as a float32 batch, (pixel / 255 - mean) / std in each channel, channels-last."""
        return self.normalise(self.images.permute(0, 2, 3, 1)[index])

    def normalise(self, pixels: Tensor) -> Tensor:
        """uint8 (N, H, W, C) -> float32 (N, C, H, W), channels-last in memory; for pixels cut out of these images."""
        scale, shift = self._scale_and_shift
        return pixels.permute(0, 3, 1, 2).float().mul_(scale).sub_(shift)

    @cached_property  # made once: a copy to a GPU would make the host wait in every batch
    def _scale_and_shift(self) -> tuple[Tensor, Tensor]:
        scale = [1 / (255 * s) for s in self.std]
        shift = [m / s for m, s in zip(self.mean, self.std, strict=True)]
        return tuple(torch.tensor(v, device=self.images.device).view(1, -1, 1, 1) for v in (scale, shift))


@dataclass(frozen=True, eq=False)
class Data:
    """One image set: what it is, where it came from, and its three disjoint splits.

    ``sha256`` is that of all the set's images, whatever part of them ``limit`` has kept. ``notes`` holds what a result
    on this copy must mention, such as ``lossy_test_indices``: test images that are not pixel-exact.
    """

    name: str
    num_classes: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    sha256: str
    source: str  # "embedded", "packed" or "torchvision"
    train: Split
    val: Split
    test: Split
    notes: Mapping[str, object] = field(default_factory=lambda: MappingProxyType({}))

    @property
    def device(self) -> torch.device:
        return self.train.device

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """(C, H, W) of one example."""
        return self.train.input_shape

    @property
    def example_input(self) -> Tensor:
        """A batch of one normalised training image, (1, C, H, W), for whatever must trace a network."""
        return self.train.normalised(slice(0, 1))


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
    if not 0 <= val_fraction < 1:
        raise SlimlibError(f"val_fraction={val_fraction} must be at least 0 and less than 1")
    if name == "imagenet":
        from slimlib.imagenet import load

        return load(device, split_seed, val_fraction, limit)
    known = KNOWN[name]
    if limit is not None and limit < known.num_classes:
        raise SlimlibError(f"limit={limit} must be None or at least the number of classes, {known.num_classes}")
    arrays, source = _read(name)
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
        return Split(images, torch.from_numpy(arrays[f"y_{part}"][chosen]).to(device), known.mean, known.std)

    notes = {key: arrays[key].tolist() for key in arrays if key not in ARRAYS}
    return Data(name, known.num_classes, known.mean, known.std, known.sha256, source, notes=MappingProxyType(notes),
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


def stratified(labels: np.ndarray, count: int, seed: int) -> np.ndarray:
    """Sorted indices of ``count`` items that keep the proportions of the classes, to within one item a class.

    NumPy's RandomState draws them because its stream is frozen: the same on every version and platform.
    """
    classes, sizes = np.unique(labels, return_counts=True)
    exact = count * sizes / len(labels)
    quota = np.floor(exact).astype(int)
    quota[np.argsort(quota - exact, kind="stable")[:count - quota.sum()]] += 1  # largest remainders first
    random = np.random.RandomState(seed)
    chosen = [random.permutation(np.flatnonzero(labels == c))[:n] for c, n in zip(classes, quota, strict=True)]
    return np.sort(np.concatenate(chosen))


ARRAYS = ("x_train", "y_train", "x_test", "y_test")


def images_sha256(arrays: Mapping[str, np.ndarray]) -> str:
    """SHA-256 of the raw bytes of x_train, then of x_test: the identity of an image set."""
    digest = hashlib.sha256()
    for key in ("x_train", "x_test"):
        digest.update(np.ascontiguousarray(arrays[key]))
    return digest.hexdigest()


def data_folder() -> Path:
    """The folder of packed sets and downloaded weights: ``SLIMLIB_DATA``, else the user's cache folder."""
    if os.environ.get("SLIMLIB_DATA"):
        return Path(os.environ["SLIMLIB_DATA"]).expanduser()
    if sys.platform == "win32":
        cache = Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
    elif sys.platform == "darwin":
        cache = Path.home() / "Library" / "Caches"
    else:
        cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return cache / "slimlib" / "data"


def _read(name: str) -> tuple[dict[str, np.ndarray], str]:
    """The arrays of a set, checked, and where they came from."""
    file = EMBEDDED if name == EMBEDDED.stem else data_folder() / f"{name}.npz"
    source = "embedded" if file == EMBEDDED else "packed"
    if not file.exists():
        _download(name, file)
        source = "torchvision"
    with np.load(file, allow_pickle=False) as packed:
        arrays = {key: packed[key] for key in packed.files}
    if missing := [key for key in ARRAYS if key not in arrays]:
        raise SlimlibError(f"{file} lacks {', '.join(missing)}; a packed set holds uint8 images x_train, x_test "
                           "(N, H, W, C) and int64 labels y_train, y_test")
    if images_sha256(arrays) != KNOWN[name].sha256:
        raise SlimlibError(f"the images in {file} are not those of {name} (their SHA-256 differs); remove the file, so "
                           "that it is fetched again, or put an undamaged one there")
    return arrays, source


def _download(name: str, file: Path) -> None:
    """Fetch a set with torchvision and pack it into ``file``, which appears whole or not at all."""
    if not KNOWN[name].torchvision:
        raise SlimlibError(f"{file} is missing from this installation; scripts/make_embedded_data.py makes it")
    from slimlib._torchvision import import_torchvision

    fetch = getattr(import_torchvision().datasets, KNOWN[name].torchvision)
    file.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=file.parent) as folder:
        try:
            parts = {part: fetch(folder, train=part == "train", download=True) for part in ("train", "test")}
        except (OSError, RuntimeError) as error:
            raise SlimlibError(
                f"{name} is not in {file.parent} and could not be downloaded ({error}). Put {file.name} there: an .npz "
                "with uint8 images x_train, x_test (N, H, W, C) and int64 labels y_train, y_test in the set's original "
                "order. Or set SLIMLIB_DATA to the folder that holds it.") from error
        arrays = {}
        for part, images in parts.items():
            pixels = np.asarray(images.data)
            arrays[f"x_{part}"] = pixels if pixels.ndim == 4 else pixels[..., None]
            arrays[f"y_{part}"] = np.asarray(images.targets, np.int64)
        packed = Path(folder) / file.name
        np.savez(packed, **arrays)
        os.replace(packed, file)
