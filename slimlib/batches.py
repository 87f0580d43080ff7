"""The training images batch by batch, cut, flipped and normalised where they are."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn import functional as F

from slimlib.distributed import World
from slimlib.splits import Split

PADDING = 4  # pixels of black border that a random crop may reach into, as He et al. (2016, section 4.2)


class Batches:
    """The training images in a new random order each time it is iterated: (index, float images, labels).

    Only whole batches are given; what is left over, other images each time, is left out.

    Every process draws the order and the augmentation of the whole batch and keeps its own share, so what is computed
    does not depend on how many share it.
    """

    def __init__(self, split: Split, batch_size: int, augment: str, seed: int, world: World | None = None):
        self.split, self.batch_size, self.crop, self.flip = split, batch_size, augment != "none", augment == "crop_flip"
        self.share = (world or World()).share(batch_size)
        self.generator = torch.Generator(split.images.device).manual_seed(seed)
        self.pixels = split.images.permute(0, 2, 3, 1)
        if self.crop:
            height, width = self.pixels.shape[1:3]
            padded = F.pad(self.pixels, (0, 0, PADDING, PADDING, PADDING, PADDING))
            # A view (N, 9, 9, H, W, C) of all 81 positions of the crop: it takes no memory, and one gather cuts a batch.
            self.pixels = padded.unfold(1, height, 1).unfold(2, width, 1).permute(0, 1, 2, 4, 5, 3)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        size, device, draw = self.batch_size, self.split.images.device, self.generator
        order = torch.randperm(len(self.split), generator=draw, device=device)
        for index in order.split(size)[:len(order) // size]:
            index = index[self.share]
            if self.crop:
                down, right = torch.randint(2 * PADDING + 1, (2, size), generator=draw, device=device)[:, self.share]
                pixels = self.pixels[index, down, right]
            else:
                pixels = self.pixels[index]
            if self.flip:
                mirrored = torch.rand(size, generator=draw, device=device)[self.share] < 0.5
                pixels = torch.where(mirrored.view(-1, 1, 1, 1), pixels.flip(2), pixels)
            yield index, self.split.normalise(pixels), self.split.labels[index]
