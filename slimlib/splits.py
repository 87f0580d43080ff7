"""What an image set is once it is loaded: its three splits, uint8 and channels-last on one device, normalised batch by batch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from types import MappingProxyType
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from slimlib.division import must_count, sampled
from slimlib.errors import counted


@runtime_checkable
class LabelledImages(Protocol):
    """What a network can be evaluated on: a :class:`Split` in memory, a folder of files, answers kept halfway."""

    device: torch.device

    def __len__(self) -> int: ...

    def in_order(self, batch_size: int) -> Iterator[tuple[Tensor, Tensor]]: ...


@runtime_checkable
class ImagePart(LabelledImages, Protocol):
    """Labelled images of which some can be taken and normalised as one batch: a :class:`Split`, or a folder of files."""

    labels: Tensor

    def first(self, count: int | None) -> ImagePart: ...

    def sample(self, count: int | None, seed: int = 0) -> ImagePart: ...

    def normalised(self, index: Tensor | slice = slice(None)) -> Tensor: ...


class Normalisation:
    """uint8 (N, C, H, W) -> (pixel / 255 - mean) / std in each channel, float32.

    Made once a split: its numbers, copied to a GPU, would make the host wait in every batch.
    """

    def __init__(self, mean: tuple[float, ...], std: tuple[float, ...], device: torch.device):
        scale, shift = [1 / (255 * s) for s in std], [m / s for m, s in zip(mean, std, strict=True)]
        self.scale, self.shift = (torch.tensor(v, device=device).view(1, -1, 1, 1) for v in (scale, shift))

    def __call__(self, pixels: Tensor) -> Tensor:
        return pixels.float().mul_(self.scale).sub_(self.shift)


@dataclass(frozen=True, eq=False)
class Split:
    """Images (N, C, H, W), uint8 and channels-last, with labels (N,), int64, both on one device."""

    images: Tensor
    labels: Tensor
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __repr__(self) -> str:
        return f"Split({counted(len(self), 'image')} of shape {self.input_shape} on {self.device})"

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
        """The first images only; all of them for None. Where they may be sorted by class, see :func:`some`."""
        count = None if count is None else must_count(count)
        return replace(self, images=self.images[:count], labels=self.labels[:count])

    def sample(self, count: int | None, seed: int = 0) -> Split:
        """At most ``count`` images (all for None) that keep the proportions of the classes, in a random order."""
        index = torch.from_numpy(sampled(self.labels.cpu().numpy(), count, seed)).to(self.device)
        images = self.images.permute(0, 2, 3, 1)[index].permute(0, 3, 1, 2)
        return replace(self, images=images, labels=self.labels[index])

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
        return self._normalisation(pixels.permute(0, 3, 1, 2))

    @cached_property
    def _normalisation(self) -> Normalisation:
        return Normalisation(self.mean, self.std, self.device)


def some(split: ImagePart, count: int | None) -> ImagePart:
    """At most ``count`` images of a split, in memory or of files (all for None), that stand for all of them.

    The first ones; or, where images lie class by class, in whatever order of the classes, :meth:`Split.sample`, as the first
    ones, and every batch, would be of one class.
    """
    runs, classes = 1 + int((split.labels.diff() != 0).sum()), len(split.labels.unique())
    return split.sample(count) if runs == classes > 1 else split.first(count)


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
    source: str  # "embedded", "packed", "torchvision", "folder" or "arrays"
    train: Split  # or, of image files, a slimlib.imagefolder.FolderSplit; so are the other two
    val: Split
    test: Split
    notes: Mapping[str, object] = field(default_factory=lambda: MappingProxyType({}))

    def __repr__(self) -> str:
        return (f"Data({self.name!r}, {self.num_classes} classes, source={self.source!r}, train={self.train}, val={self.val}, "
                f"test={self.test})")

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
