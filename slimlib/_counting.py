"""Multiply-adds of a forward pass, as torch counts them, on every device the same."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import torch
from torch.utils.flop_counter import FlopCounterMode

Shape = Sequence[int]


def operation_counter() -> FlopCounterMode:
    """torch's counter of floating-point operations, two a multiply-add, which also counts what it does not know: the recurrent
    layers that run as one kernel, on the CPU an LSTM in float32 and not in float64, on a GPU all of them."""
    fused = {torch.ops.aten.mkldnn_rnn_layer: _on_cpu, torch.ops.aten._cudnn_rnn: _on_gpu, torch.ops.aten.miopen_rnn: _on_gpu}
    return FlopCounterMode(display=False, custom_mapping=fused)


def _on_cpu(inputs: Shape, of_input: Shape, of_state: Shape, *rest: object, **named: object) -> int:
    return _products(inputs, (of_input, of_state))


def _on_gpu(inputs: Shape, weights: Sequence[Shape], *rest: object, **named: object) -> int:
    return _products(inputs, weights)


def _products(inputs: Shape, weights: Sequence[Shape]) -> int:
    """Each matrix is multiplied once a step and example, which all axes of the input but the last are; biases are no products."""
    return 2 * prod(inputs[:-1]) * sum(prod(weight) for weight in weights if len(weight) == 2)
