"""Networks put together at random: what is slimmed in any of them must be exact, whatever they do to their channels."""

from __future__ import annotations

import random

import torch
from torch import nn
from torch.nn import functional as F

KINDS = ["convolution"] * 3 + ["add"] * 2 + ["join"] * 2 + [
    "depthwise", "grouped", "transposed", "slopes", "multiply", "split", "slice", "shuffle", "gate"]  # fmt: skip
NARROWEST, MOST_JOINED = 4, 32


class RandomNetwork(nn.Module):
    """Five to ten steps on images of 3 channels, each from values of before to a new one; then a head of two layers.

    Some values are read often and some by nothing; convolutions come with and without BatchNorm and activation.
    """

    def __init__(self, seed: int):
        super().__init__()
        self.draw, self.layers, self.steps = random.Random(seed), nn.ModuleList(), []
        torch.manual_seed(seed)
        self.channels = [3]
        for _ in range(self.draw.randint(5, 10)):
            self._step(self.draw.choice(KINDS), self.draw.randrange(max(0, len(self.channels) - 4), len(self.channels)))
        last = len(self.channels) - 1
        self.ends = [last, last - 1] if last > 1 and self.draw.random() < 0.5 else [last]
        self.side = self.draw.choice([1, 1, 2])
        self.hidden = nn.Linear(sum(self.channels[end] for end in self.ends) * self.side**2, 10)
        self.head = nn.Linear(10, 4)

    def _step(self, kind: str, at: int) -> None:
        """Append a step of a kind that reads the value ``at``, if that can be."""
        width, draw = self.channels[at], self.draw
        alike = [i for i in range(1, len(self.channels)) if i != at and self.channels[i] == width]
        even = at > 0 and width % 2 == 0
        if kind == "convolution":
            self._layer(at, self._convolution(width, draw.choice([4, 6, 8, 8, 8, 12])), self._out)
        elif kind == "depthwise" and at:
            self._layer(at, self._convolution(width, width, width), width)
        elif kind == "grouped" and even:
            self._layer(at, self._convolution(width, draw.choice([4, 8, 12]), 2), self._out)
        elif kind == "transposed":
            self._out = draw.choice([4, 8])
            self._layer(at, nn.Sequential(nn.ConvTranspose2d(width, self._out, 3, padding=1), nn.ReLU()), self._out)
        elif kind == "slopes" and at:
            self._layer(at, nn.PReLU(width), width)
        elif kind in ("add", "multiply") and at and alike:
            self._append((kind, at, draw.choice(alike)), width)
        elif kind == "join" and len(self.channels) > 2:
            joined = [draw.randrange(1, len(self.channels)) for _ in range(draw.choice([2, 2, 3]))]
            if (total := sum(self.channels[i] for i in joined)) <= MOST_JOINED:
                self._append((kind, joined), total)
        elif kind == "split" and even and width >= NARROWEST:
            self._append((kind, at), width // 2, width // 2)
        elif kind == "slice" and at and width >= NARROWEST:
            self._append((kind, at, width // 2), width // 2)
        elif kind == "shuffle" and even:
            self._append((kind, at), width)
        elif kind == "gate" and at:
            gate = nn.Sequential(nn.Conv2d(width, 4, 1), nn.ReLU(), nn.Conv2d(4, width, 1), nn.Sigmoid())
            self.layers.append(gate)
            self._append((kind, at, len(self.layers) - 1), width)

    def _convolution(self, inputs: int, outputs: int, groups: int = 1) -> nn.Sequential:
        draw, self._out = self.draw, outputs
        size = 3 if groups > 1 else draw.choice([1, 3])
        parts = [nn.Conv2d(inputs, outputs, size, padding=size // 2, groups=groups, bias=draw.random() < 0.5)]
        parts += [nn.BatchNorm2d(outputs)] * (draw.random() < 0.6)
        return nn.Sequential(*parts, draw.choice([nn.ReLU(), nn.Hardswish(), nn.Identity(), nn.LeakyReLU(0.1)]))

    def _layer(self, at: int, layer: nn.Module, width: int) -> None:
        self.layers.append(layer)
        self._append(("layer", at, len(self.layers) - 1), width)

    def _append(self, step: tuple, *widths: int) -> None:
        self.steps.append(step)
        self.channels += widths

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        values = [x]
        for kind, at, *more in self.steps:
            values += self._made(kind, at, more, values)
        ends = torch.cat([values[end] for end in self.ends], 1)
        return self.head(F.relu(self.hidden(F.adaptive_avg_pool2d(ends, self.side).flatten(1))))

    def _made(self, kind: str, at, more: list, values: list[torch.Tensor]) -> list[torch.Tensor]:
        if kind == "join":
            return [torch.cat([values[i] for i in at], 1)]
        value = values[at]
        if kind == "split":
            return list(value.chunk(2, 1))
        if kind == "shuffle":
            n, c, h, w = value.shape
            return [value.view(n, 2, c // 2, h, w).transpose(1, 2).reshape(n, c, h, w)]
        (which,) = more
        return [{"layer": lambda: self.layers[which](value), "add": lambda: value + values[which],
                 "multiply": lambda: value * values[which], "slice": lambda: value[:, :which],
                 "gate": lambda: value * self.layers[which](value.mean((2, 3), keepdim=True))}[kind]()]
