"""ImageNet, or any folder of its form, whose images stay files (:mod:`slimlib.imagefolder`).

The folder is ``imagenet`` in :func:`slimlib.files.data_folder`, with ``train/<class>/*.JPEG`` and ``val/<class>/*.JPEG``, as
torchvision's ImageFolder reads it. ``val`` is the test split here, as its labels are the public ones; the validation
split is held out of ``train``.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import numpy as np
import torch

from slimlib._torchvision import import_torchvision
from slimlib.division import divided, must_reach_all_classes
from slimlib.errors import SlimlibError
from slimlib.files import data_folder
from slimlib.imagefolder import MEAN, STD, FolderSplit
from slimlib.splits import Data


def load(device: torch.device, split_seed: int, val_fraction: float, limit: int | None) -> Data:
    """ImageNet as :class:`~slimlib.data.Data`; the arguments are those of :func:`slimlib.data.load_data`.

    Its ``sha256`` is of the files' names and sizes, as reading them all takes an hour. Classes are what the folders say.
    """
    root = data_folder() / "imagenet"
    found = {part: _files(root / part) for part in ("train", "val")}
    classes = found["train"].classes
    if found["val"].classes != classes:
        raise SlimlibError(f"{root}: train/ and val/ must hold the same class folders; put each image of val/ into the folder "
                           "of its class")
    must_reach_all_classes(limit, len(classes))
    labels = {part: np.array(images.targets) for part, images in found.items()}
    train, val, test = divided(labels["train"], labels["val"], limit, val_fraction, split_seed)

    def split(part: str, index: np.ndarray) -> FolderSplit:
        files = tuple(found[part].samples[i][0] for i in index)
        return FolderSplit(files, torch.from_numpy(labels[part][index]).to(device))

    return Data("imagenet", len(classes), MEAN, STD, _identity(root, found), "folder",
                train=split("train", train), val=split("train", val), test=split("val", test))


def _files(folder: Path):
    try:
        return import_torchvision().datasets.ImageFolder(str(folder))
    except FileNotFoundError as error:
        raise SlimlibError(f"imagenet: no images in {folder} ({error}). Put the images there, one folder a class, or set "
                           "SLIMLIB_DATA to the folder that holds imagenet/train and imagenet/val") from error


def _identity(root: Path, found: dict) -> str:
    digest = hashlib.sha256()
    for images in found.values():
        for file, _ in images.samples:
            digest.update(f"{Path(file).relative_to(root).as_posix()} {os.path.getsize(file)}\n".encode())
    return digest.hexdigest()
