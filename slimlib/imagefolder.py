"""Images that stay files and are decoded when they are needed: splits and batches of them.

Worker processes decode and crop; the uint8 pixels are normalised on the device. Augmentation is the field's usual one (Szegedy
et al. 2015): training crops cover 8 to 100 % of the image at an aspect ratio of 3/4 to 4/3, resized to 224; evaluation takes
the central 224 pixels of an image whose shorter side is 256.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from slimlib._torchvision import import_torchvision
from slimlib.distributed import World
from slimlib.division import must_count, sampled
from slimlib.errors import SlimlibError, counted, first_line
from slimlib.randomness import seeded
from slimlib.splits import Normalisation

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
SIZE, SHORT_SIDE = 224, 256
AUGMENTED = {"none": (False, False), "crop": (True, False), "crop_flip": (True, True)}  # recipe.augment: crop, flip


def workers() -> int:
    """Processes that decode for this one: SLIMLIB_WORKERS, or this process's share of the machine's cores, at most 16."""
    if (told := os.environ.get("SLIMLIB_WORKERS")) is not None:
        if not told.isdecimal():
            raise SlimlibError(f"SLIMLIB_WORKERS={told!r} must be a whole number, 0 for none")
        return int(told)
    return min(16, (os.cpu_count() or 1) // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))


@dataclass(frozen=True, eq=False)
class FolderSplit:
    """Image files with labels (N,), int64, on the device; the same questions as a :class:`~slimlib.splits.Split` answers."""

    files: tuple[str, ...]
    labels: Tensor
    mean: tuple[float, ...] = MEAN
    std: tuple[float, ...] = STD

    def __repr__(self) -> str:
        return f"FolderSplit({counted(len(self), 'image')} of shape {self.input_shape} on {self.device})"

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def device(self) -> torch.device:
        return self.labels.device

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """(C, H, W) of one example."""
        return 3, SIZE, SIZE

    def first(self, count: int | None) -> FolderSplit:
        """The first images only, which are of the first classes; all of them for None. See :func:`slimlib.splits.some`."""
        count = None if count is None else must_count(count)
        return replace(self, files=self.files[:count], labels=self.labels[:count])

    def sample(self, count: int | None, seed: int = 0) -> FolderSplit:
        """At most ``count`` images (all for None) that keep the proportions of the classes, in a random order."""
        index = sampled(self.labels.cpu().numpy(), count, seed)
        labels = self.labels[torch.from_numpy(index).to(self.device)]
        return replace(self, files=tuple(self.files[i] for i in index), labels=labels)

    def normalised(self, index: Tensor | slice = slice(None)) -> Tensor:
        """The chosen images, centre crops, as one float32 batch (n, 3, 224, 224), channels-last: for a few of them."""
        chosen, decoder = torch.arange(len(self), device="cpu")[index].tolist(), _Decoder(self.files)
        return self._on_device(torch.stack([decoder[i, None][1] for i in chosen]))

    def in_order(self, batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """All images, centre crops, as normalised batches, each with its labels."""
        parts = [[(i, None) for i in range(start, min(start + batch_size, len(self)))]
                 for start in range(0, len(self), batch_size)]
        for index, pixels in _decoded(_loader(_Decoder(self.files), parts, self.device)):
            yield self._on_device(pixels), self.labels[index.to(self.device)]

    def batches(self, batch_size: int, augment: str, seed: int, world: World | None = None) -> FolderBatches:
        """The images in a new random order each time, cropped and flipped at random; this process's share of each batch."""
        return FolderBatches(self, batch_size, augment, seed, world or World())

    def _on_device(self, pixels: Tensor) -> Tensor:
        """uint8 (N, C, H, W) -> normalised float32 on the device, channels-last."""
        return self._normalisation(pixels.to(self.device, non_blocking=True, memory_format=torch.channels_last))

    @cached_property
    def _normalisation(self) -> Normalisation:
        return Normalisation(self.mean, self.std, self.device)


class FolderBatches:
    """(index, float images, labels), as :class:`slimlib.batches.Batches` gives them of images on the device.

    Order and random crops follow from the seed, the epoch and the image alone, so they do not depend on how many processes
    share the batch or how many workers decode it.
    """

    def __init__(self, split: FolderSplit, batch_size: int, augment: str, seed: int, world: World):
        self.split, self.batch_size, self.augment = split, batch_size, augment
        self.share = world.share(batch_size)
        self.generator = torch.Generator().manual_seed(seed)
        self.loader = _loader(_Decoder(split.files, *AUGMENTED[augment]), _Order(self), split.device, keep=True)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        for index, pixels in _decoded(self.loader):
            index = index.to(self.split.device, non_blocking=True)
            yield index, self.split._on_device(pixels), self.split.labels[index]


class _Order:
    """What a DataLoader asks for the images of each batch: (image, seed of its crop), a new order an epoch."""

    def __init__(self, batches: FolderBatches):
        self.batches = batches

    def __len__(self) -> int:
        return len(self.batches.split) // self.batches.batch_size

    def __iter__(self) -> Iterator[list[tuple[int, int | None]]]:
        b = self.batches
        order = torch.randperm(len(b.split), generator=b.generator, device="cpu")
        draws = torch.randint(2**62, (len(order),), generator=b.generator, device="cpu")
        for start in range(0, len(self) * b.batch_size, b.batch_size):
            part = slice(start, start + b.batch_size)
            yield list(zip(order[part][b.share].tolist(), draws[part][b.share].tolist(), strict=True))


class _Decoder(torch.utils.data.Dataset):
    """(image, seed) -> (image, uint8 pixels (3, 224, 224)); with a seed a random crop, without one the centre."""

    def __init__(self, files: tuple[str, ...], crop: bool = False, flip: bool = False):
        transforms = import_torchvision().transforms
        self.files = files
        self.centre = transforms.Compose([transforms.Resize(SHORT_SIDE), transforms.CenterCrop(SIZE)])
        random = ([transforms.RandomResizedCrop(SIZE)] if crop else [self.centre]) + [transforms.RandomHorizontalFlip()] * flip
        self.random, self.to_tensor = transforms.Compose(random), transforms.PILToTensor()

    def __getitem__(self, asked: tuple[int, int | None]) -> tuple[int, Tensor]:
        from PIL import Image

        index, seed = asked
        try:
            with Image.open(self.files[index]) as file:
                image = file.convert("RGB")
        except OSError as error:
            raise SlimlibError(f"{self.files[index]} cannot be read as an image ({first_line(error)}); replace it") from error
        if seed is None:
            return index, self.to_tensor(self.centre(image))
        with seeded(seed):  # torchvision draws from torch's global generator
            return index, self.to_tensor(self.random(image))


def _loader(decoder: _Decoder, order, device: torch.device, keep: bool = False) -> torch.utils.data.DataLoader:
    count = workers()
    # a generator of its own: without one, each pass would draw from torch's global stream, from which dropout draws as well
    return torch.utils.data.DataLoader(decoder, batch_sampler=order, num_workers=count, persistent_workers=keep and count > 0,
                                       pin_memory=device.type == "cuda", generator=torch.Generator())


def _decoded(loader: torch.utils.data.DataLoader) -> Iterator[list[Tensor]]:
    """What the workers send. Of an error they send the whole traceback as text, at the end of which stands what is to be said."""
    try:
        yield from loader
    except SlimlibError as error:
        raise SlimlibError(str(error).strip().rpartition(f"{SlimlibError.__name__}: ")[2]) from None
