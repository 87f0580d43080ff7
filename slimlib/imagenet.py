"""ImageNet, or any folder of its form, whose images stay files (:mod:`slimlib.imagefolder`).

The folder is ``imagenet`` in :func:`slimlib.imagesets.data_folder`, with ``train/<class>/*.JPEG`` and ``val/<class>/*.JPEG``, as
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
from slimlib.errors import SlimlibError
from slimlib.imagefolder import MEAN, STD, FolderSplit
from slimlib.imagesets import data_folder, stratified
from slimlib.splits import Data


def load(device: torch.device | str | None = None, split_seed: int = 0, val_fraction: float = 0.1,
         limit: int | None = None) -> Data:
    """ImageNet as :class:`~slimlib.data.Data`; the arguments are those of :func:`slimlib.data.load_data`.

    Its ``sha256`` is of the files' names and sizes, as reading them all takes an hour. Classes are what the folders say.
    """
    root = data_folder() / "imagenet"
    found = {part: _files(root / part) for part in ("train", "val")}
    classes = found["train"].classes
    if found["val"].classes != classes:
        raise SlimlibError(f"{root}: train/ and val/ must hold the same class folders; put each image of val/ into the folder "
                           "of its class")
    if limit is not None and limit < len(classes):
        raise SlimlibError(f"limit={limit} must be None or at least the number of classes, {len(classes)}")
    device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))

    labels = {part: np.array(images.targets) for part, images in found.items()}
    chosen = {part: np.arange(len(y)) if limit is None else stratified(y, min(limit, len(y)), seed=0)
              for part, y in labels.items()}
    held_out = stratified(labels["train"][chosen["train"]], round(val_fraction * len(chosen["train"])), split_seed)

    def split(part: str, index: np.ndarray) -> FolderSplit:
        files = tuple(found[part].samples[i][0] for i in index)
        return FolderSplit(files, torch.from_numpy(labels[part][index]).to(device))

    train = chosen["train"]
    return Data("imagenet", len(classes), MEAN, STD, _identity(root, found), "folder",
                train=split("train", np.delete(train, held_out)), val=split("train", train[held_out]),
                test=split("val", chosen["val"]))


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
