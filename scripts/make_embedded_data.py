#!/usr/bin/env python3
"""Make slimlib/_data/fashionmnist-10k.npz, the data set that comes with slimlib, from the original Fashion-MNIST files.

    python scripts/make_embedded_data.py FOLDER [DESTINATION]

FOLDER holds the four files of https://github.com/zalandoresearch/fashion-mnist: train-images-idx3-ubyte.gz,
train-labels-idx1-ubyte.gz, t10k-images-idx3-ubyte.gz, t10k-labels-idx1-ubyte.gz. The set has 10,000 of the 60,000
training images, 1,000 of each class, chosen by a fixed seed, and all 10,000 test images. The same input gives the same
file, byte by byte (under the same compression library): neither time nor machine enters it.
"""

from __future__ import annotations

import gzip
import io
import os
import sys
import zipfile
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from slimlib.division import stratified
from slimlib.imagesets import EMBEDDED, KNOWN, images_sha256

SEED = 2202


def read_idx(file: Path) -> np.ndarray:
    """One array of Y. LeCun's idx format: two zero bytes, type (8: uint8), dimensions, sizes as big-endian int32, data."""
    raw = gzip.decompress(file.read_bytes())
    shape = np.frombuffer(raw, ">i4", count=raw[3], offset=4)
    return np.frombuffer(raw, np.uint8, offset=4 + 4 * raw[3]).reshape(shape)


def choose(folder: Path) -> dict[str, np.ndarray]:
    """The arrays of the embedded set; ``train_indices`` says which of the 60,000 training images they are."""
    images, labels = {}, {}
    for part, prefix in (("train", "train"), ("test", "t10k")):
        images[part] = read_idx(folder / f"{prefix}-images-idx3-ubyte.gz")[..., None]
        labels[part] = read_idx(folder / f"{prefix}-labels-idx1-ubyte.gz").astype(np.int64)
    original = {f"x_{part}": images[part] for part in images}
    if images_sha256(original) != KNOWN["fashionmnist"].sha256:
        raise SystemExit(f"{folder} does not hold the original Fashion-MNIST: the SHA-256 of the images differs")
    chosen = stratified(labels["train"], 10_000, SEED)
    return {"x_train": images["train"][chosen], "y_train": labels["train"][chosen], "x_test": images["test"],
            "y_test": labels["test"], "train_indices": chosen.astype(np.int64)}


def write_npz(file: Path, arrays: dict[str, np.ndarray]) -> None:
    """Like numpy.savez_compressed, but at the highest level, without a time stamp, and atomically."""
    part = file.with_suffix(".part")
    with zipfile.ZipFile(part, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        for key, array in arrays.items():
            buffer = io.BytesIO()
            np.lib.format.write_array(buffer, np.ascontiguousarray(array), allow_pickle=False)
            entry = zipfile.ZipInfo(f"{key}.npy", date_time=(1980, 1, 1, 0, 0, 0))
            entry.compress_type, entry.create_system, entry.external_attr = zipfile.ZIP_DEFLATED, 3, 0o644 << 16
            archive.writestr(entry, buffer.getvalue(), compresslevel=9)
    os.replace(part, file)


def main(folder: str, destination: str = str(EMBEDDED)) -> None:
    arrays = choose(Path(folder))
    write_npz(Path(destination), arrays)
    print(f"{destination}: {Path(destination).stat().st_size:,} bytes, SHA-256 of the images {images_sha256(arrays)}")


if __name__ == "__main__":
    if not 2 <= len(sys.argv) <= 3 or sys.argv[1].startswith("-"):
        raise SystemExit(__doc__)
    main(*sys.argv[1:])
