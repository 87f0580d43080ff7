"""Image sets as packed files: which there are, where they lie, and that each is what its name says.

A set is looked for as ``<name>.npz`` in :func:`slimlib.files.data_folder`; else torchvision downloads it and it is packed; else
the error says which file to put where. ``fashionmnist-10k`` comes with slimlib and needs neither.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from zipfile import BadZipFile

import numpy as np

from slimlib.errors import SlimlibError, first_line
from slimlib.files import data_folder


@dataclass(frozen=True)
class _Known:
    num_classes: int
    side: int  # pixels of an image, in height and width
    mean: tuple[float, ...]  # of the training pixels, scaled to [0, 1], a channel each
    std: tuple[float, ...]
    sha256: str  # of the raw bytes of x_train, then of x_test without `may_differ`
    labels_sha256: str  # of those of y_train, then of y_test, int64
    torchvision: str = ""  # the class that downloads it
    may_differ: tuple[int, ...] = ()  # test images that the copy behind the recorded runs has as JPEG re-encodes


KNOWN = {
    "fashionmnist-10k": _Known(10, 28, (0.2860,), (0.3530,),
                               "6acb883917316cab9f690e27db75b3829c5bc0129af70e63fef7e00b96197ebc",
                               "3b69cae817592839d2d8d167b6b77fafb862234febebbcaa26e8146541493fff"),
    "fashionmnist": _Known(10, 28, (0.2860,), (0.3530,),
                           "0fbbfcb392782b3b702472ead3688778e1509e8cf40f5c24d9d3303618b193ab",
                           "138bc5cbc39ee06b83e673e3675e93334169ceae7849de38016fa7ef57c6ffba", "FashionMNIST"),
    "mnist": _Known(10, 28, (0.1307,), (0.3081,),
                    "5b92582eb909c82a9bfefcd44acbe9233be3eb5b419a44cf211022ad2bf4bf96",
                    "818800b46032126b329f9306cb69a6842cc53ea30318374769bb6f46cc861467", "MNIST"),
    "cifar10": _Known(10, 32, (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616),
                      "aa218f25f289cfa10eb854f8654357245397cece4cfc594c144bc9b8d802dac3",
                      "5083e6dd0895f94970ae8513f046bf3004b333931aad82b619d23ab76f2e1845", "CIFAR10",
                      (1259, 1369, 1422, 2245, 2737, 2935, 3695, 3718, 4085, 4496, 5791, 5896, 6286, 7580, 7707, 7724, 7832,
                       8117, 8551, 9254)),
    "cifar100": _Known(100, 32, (0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762),
                       "f33db8ac706110c918c04bd7359201ed472dec17f5afc2905d52ebec1fdc3365",
                       "909ea1aa2cb4bc2f128ff9a16574336db833fba3b0170624c28a0d2ba4041d3d", "CIFAR100"),
}
NAMES = (*KNOWN, "imagenet")
"""Of all sets; the images of the last stay files, in a folder."""
EMBEDDED = Path(__file__).parent / "_data" / "fashionmnist-10k.npz"


ARRAYS = ("x_train", "y_train", "x_test", "y_test")
LAYOUT = "a packed set holds uint8 images x_train, x_test (N, H, W, C) and whole-number labels y_train, y_test (N,)"


def images_sha256(arrays: Mapping[str, np.ndarray]) -> str:
    """SHA-256 of the raw bytes of x_train, then of x_test: the identity of an image set."""
    return _sha256(arrays["x_train"], arrays["x_test"])


def _sha256(*arrays: np.ndarray) -> str:
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(np.ascontiguousarray(array))
    return digest.hexdigest()


def read(name: str) -> tuple[dict[str, np.ndarray], str]:
    """The arrays of a set, checked, and where they came from: "embedded", "packed" or "torchvision".

    Images come as uint8 (N, H, W, C), labels as int64 (N,), also from a file that has grey images as (N, H, W) or labels of
    another integer type.
    """
    file = EMBEDDED if name == EMBEDDED.stem else data_folder() / f"{name}.npz"
    source = "embedded" if file == EMBEDDED else "packed"
    if not file.exists():
        _download(name, file)
        source = "torchvision"
    remedy = "remove the file, so that it is fetched again, or put an undamaged one there"
    try:
        with np.load(file, allow_pickle=False) as packed:
            arrays = {key: packed[key] for key in packed.files}
    except (OSError, EOFError, ValueError, BadZipFile, zlib.error) as error:
        raise SlimlibError(f"{file} is damaged ({first_line(error)}); {remedy}") from error
    if missing := [key for key in ARRAYS if key not in arrays]:
        raise SlimlibError(f"{file} lacks {', '.join(missing)}; {LAYOUT}")
    known, channels = KNOWN[name], len(KNOWN[name].mean)
    for part in ("train", "test"):
        x, y = arrays[f"x_{part}"], arrays[f"y_{part}"]
        x = x[..., None] if x.ndim == 3 and channels == 1 else x
        if x.dtype != np.uint8 or x.ndim != 4 or x.shape[3] != channels or y.dtype.kind not in "iu" or y.shape != x.shape[:1]:
            raise SlimlibError(f"{file} has x_{part} as {x.dtype} of shape {x.shape} and y_{part} as {y.dtype} of shape "
                               f"{y.shape}; {LAYOUT}")
        arrays[f"x_{part}"], arrays[f"y_{part}"] = x, y.astype(np.int64)
    exact = np.delete(arrays["x_test"], [i for i in known.may_differ if i < len(arrays["x_test"])], axis=0)
    for what, found, wanted in (("images", _sha256(arrays["x_train"], exact), known.sha256),
                                ("labels", _sha256(arrays["y_train"], arrays["y_test"]), known.labels_sha256)):
        if found != wanted:
            raise SlimlibError(f"the {what} in {file} are not those of {name} (their SHA-256 differs); {remedy}")
    return arrays, source


def _download(name: str, file: Path) -> None:
    """Fetch a set with torchvision and pack it into ``file``, which appears whole or not at all."""
    if not KNOWN[name].torchvision:
        raise SlimlibError(f"{file} is missing from this installation; scripts/make_embedded_data.py makes it")
    from slimlib._torchvision import import_torchvision

    fetch = getattr(import_torchvision().datasets, KNOWN[name].torchvision)
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=file.parent) as folder:
            arrays = {}
            for part in ("train", "test"):
                images = fetch(folder, train=part == "train", download=True)
                pixels = np.asarray(images.data)
                arrays[f"x_{part}"] = pixels if pixels.ndim == 4 else pixels[..., None]
                arrays[f"y_{part}"] = np.asarray(images.targets, np.int64)
            packed = Path(folder) / file.name
            np.savez(packed, **arrays)
            os.replace(packed, file)
    except (OSError, RuntimeError) as error:
        raise SlimlibError(
            f"{name} is not in {file.parent} and could not be downloaded ({first_line(error)}). Put {file.name} there, "
            f"an .npz in the set's original order: {LAYOUT}. Or set SLIMLIB_DATA to the folder that holds it.") from error
