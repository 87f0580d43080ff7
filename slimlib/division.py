"""Which images are taken, and which go into which split: indices, drawn evenly over the classes."""

from __future__ import annotations

from numbers import Integral

import numpy as np

from slimlib.errors import SlimlibError


def stratified(labels: np.ndarray, count: int, seed: int) -> np.ndarray:
    """Sorted indices of ``count`` items that keep the proportions of the classes, to within one item a class.

    NumPy's RandomState draws them because its stream is frozen: the same on every version and platform.
    """
    if not count:
        return np.zeros(0, int)
    classes, sizes = np.unique(labels, return_counts=True)
    exact = count * sizes / len(labels)
    quota = np.floor(exact).astype(int)
    quota[np.argsort(quota - exact, kind="stable")[:count - quota.sum()]] += 1  # largest remainders first
    random = np.random.RandomState(seed)
    chosen = [random.permutation(np.flatnonzero(labels == c))[:n] for c, n in zip(classes, quota, strict=True)]
    return np.sort(np.concatenate(chosen))


def must_count(count: object) -> int:
    """Refuse a number of images that is none: a negative one would leave out the last."""
    if not isinstance(count, Integral) or count < 0:
        raise SlimlibError(f"count={count!r} must be None, for all images, or a whole number of them")
    return int(count)


def sampled(labels: np.ndarray, count: int | None, seed: int) -> np.ndarray:
    """Indices of ``count`` items (all for None) that keep the proportions of the classes, in a random order."""
    count = len(labels) if count is None else min(must_count(count), len(labels))
    return np.random.RandomState(seed).permutation(stratified(labels, count, seed))


def must_reach_all_classes(limit: object, classes: int) -> None:
    """Refuse a ``limit`` that is no whole number, or smaller than the number of classes."""
    if limit is not None and (not isinstance(limit, Integral) or limit < classes):
        raise SlimlibError(f"limit={limit!r} must be None or a whole number, at least the number of classes, {classes}")


def divided(y_train: np.ndarray, y_test: np.ndarray, limit: int | None, val_fraction: float, split_seed: int
            ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Which images are learnt from, which are held out of the training images, and which are tested on: indices, ascending.

    ``limit``: of the training images, held-out ones included, and of the test images at most as many, drawn evenly over the
    classes. Raises SlimlibError where all training images would be held out.
    """
    train, test = (np.arange(len(y)) if limit is None else stratified(y, min(limit, len(y)), seed=0) for y in (y_train, y_test))
    held_out = stratified(y_train[train], round(val_fraction * len(train)), split_seed)
    if len(held_out) == len(train):
        raise SlimlibError(f"val_fraction={val_fraction} holds out all {len(train)} training images, and none is left to learn "
                           "from: give less")
    return np.delete(train, held_out), train[held_out], test
