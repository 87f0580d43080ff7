"""What slimming means: the network without some channels answers as the whole one does with these channels set to zero."""

from __future__ import annotations

import torch
from torch import nn

from slimlib.copying import copied
from slimlib.cutting import Keep, dropped
from slimlib.layout import Layout, is_depthwise, output_first


def masked(model: nn.Module, layout: Layout, keep: Keep) -> nn.Module:
    """A copy of ``model`` at full width in which every dropped channel is zero wherever it is written, and is read nowhere: an
    activation may make something of the zero, as a sigmoid does.

    On it, and on the network that :func:`~slimlib.cutting.cut` returns, every input gives the same output.
    """
    copy_ = copied(model)
    with torch.no_grad():
        for name, sides in dropped(layout, keep).items():
            module = copy_.get_submodule(name)
            if isinstance(module, nn.PReLU) or getattr(module, "weight", None) is None:
                continue
            written, read = (torch.as_tensor(sides[s], dtype=torch.long, device=module.weight.device) if s in sides else None
                             for s in ("norm" if "norm" in sides else "out", "in"))
            if written is not None:
                output_first(module).index_fill_(0, written, 0)
                if module.bias is not None:
                    module.bias.index_fill_(0, written, 0)
            if read is not None and not is_depthwise(module):  # which is both in one
                _columns(module, read)
    return copy_


def _columns(module: nn.Module, index: torch.Tensor) -> None:
    """Zero what a layer has for these inputs: of a grouped convolution each group has its own."""
    if isinstance(module, nn.Linear):  # which may have very many, and fills them slowly
        module.weight.mul_(module.weight.new_ones(module.in_features).index_fill_(0, index, 0))
    elif module.transposed:
        output_first(module).index_fill_(1, index, 0)
    else:
        by_group = module.weight.unflatten(0, (module.groups, -1))
        by_group[index // by_group.shape[2], :, index % by_group.shape[2]] = 0


class OtherShapes(ValueError):
    """Two networks do not answer with tensors of the same shapes."""


def difference(got: list[torch.Tensor], want: list[torch.Tensor], beside: list[torch.Tensor] | None = None) -> float:
    """The largest deviation over all outputs: max ``|got - want|`` over the scale of ``want`` for floating and complex ones, the
    share of entries that differ for integer ones. Where both are the same infinity there is none.

    beside  what is wanted of another input: what is the same there is a constant (-1e9 for a choice that a mask forbids), and
            no scale
    """
    if [t.shape for t in got] != [t.shape for t in want]:
        raise OtherShapes(f"the thin network answers with shapes {[tuple(t.shape) for t in got]}, not those of the dense one, "
                          f"{[tuple(t.shape) for t in want]}")
    beside = beside if beside and len(beside) == len(want) else want  # a network may answer more to one input than to another
    triples = [three for three in zip(got, want, beside, strict=True) if three[1].numel()]
    errors = [_relative(*three) if three[1].is_floating_point() or three[1].is_complex()
              else (three[0] != three[1]).float().mean() for three in triples]
    return float(torch.stack([e.cpu().double() for e in errors]).max()) if errors else 0.0  # NaN, if one of them is


def _relative(ours: torch.Tensor, its: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    error = (ours - its).abs().masked_fill(ours == its, 0)
    finite = its.abs().masked_fill(~its.isfinite(), 0)
    varying = finite.masked_fill(its == other, 0).max() if its.shape == other.shape else finite.max()
    return error.max() / (varying if varying else finite.max()).clamp_min(1e-12)
