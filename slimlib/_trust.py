"""Which operations are known to act on each channel by itself; all others are to be probed."""

from __future__ import annotations

import re

from torch import nn
from torch_pruning.ops import OPTYPE

from slimlib._forward import ForwardFacts
from slimlib._operations import as_signed, padding_of
from slimlib._watch import WITH_NUMBERS
from slimlib.layout import LAYERS, PER_CHANNEL_NORMS

PLAIN_FORWARDS = {t.forward for t in (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.BatchNorm2d, nn.SyncBatchNorm,
                                      nn.InstanceNorm2d, nn.PReLU)}
PLAIN_CONVOLUTIONS = {t._conv_forward for t in (nn.Conv1d, nn.Conv2d, nn.Conv3d)} | {None}
DOUBTFUL = {OPTYPE.RESHAPE: "a reshape", OPTYPE.SPLIT: "a split or chunk", OPTYPE.UNBIND: "an unbind",
            OPTYPE.EXPAND: "an expand", OPTYPE.SLICE: "a slice"}
# Autograd names of operations that treat every channel by itself whatever the number of channels,
TRUSTED = re.compile(
    r"^(Relu|Hardtanh|HardtanhB|LeakyRelu|PreluKernel|Elu|Celu|Selu|Gelu|Silu|Mish|Hardswish|Hardsigmoid|Sigmoid|Tanh|Softplus|"
    r"Clamp\w*|Add|Sub|Mul|Div|Neg|Exp|NativeDropout|FusedDropout|Clone|ToCopy|Alias|Contiguous|NativeBatchNorm|"
    r"CudnnBatchNorm|MiopenBatchNorm)Backward\d*$"
)
# and of those that do where the channels are on the second axis.
POOLING = re.compile(
    r"^(Mean|MaxPool\w*|AvgPool\w*|AdaptiveAvgPool\w*|AdaptiveMaxPool\w*|MkldnnAdaptive\w*|Upsample\w*)Backward\d*$"
)


def is_attention(node) -> bool:
    """Attention in one operation: its scale is the width's, and not on every device are its multiply-adds counted."""
    return node.type == OPTYPE.ELEMENTWISE and node.grad_fn is not None and "ScaledDotProduct" in node.grad_fn.name()


def over_positions(node) -> str:
    """An operation that takes the first two axes for batch and channels, and acts on those behind: its name, or ""."""
    if node.type != OPTYPE.ELEMENTWISE or node.grad_fn is None:
        return ""
    if any(padding_of(node.grad_fn)[1]):
        return "a padding"
    name = node.grad_fn.name()
    return _pooling_name(name) if POOLING.match(name) else ""


def doubt_about(node, names, facts: ForwardFacts) -> str:
    """"" for what acts on each channel by itself, "pad" for zero-padded channels, else a name: to be probed."""
    if node.type in DOUBTFUL:
        return "" if _flattens_pooled(node, facts) else DOUBTFUL[node.type]
    if isinstance(node.module, (*LAYERS, *PER_CHANNEL_NORMS, nn.PReLU)):
        return _own_code(node.module, names) or (
            f"a reading of the weight of {names[node.module]} elsewhere" if names.get(node.module) in facts.read_outside else "")
    if node.type not in (OPTYPE.ELEMENTWISE, OPTYPE.CONCAT) or node.grad_fn is None:
        return ""
    name = node.grad_fn.name()
    if node.grad_fn in facts.constants and not ("BatchNorm" in name and any(o.type == OPTYPE.BN for o in node.outputs)):
        return f"a tensor that no layer makes, in the operation {name}"
    if WITH_NUMBERS.match(name) and node.grad_fn in facts.numbers:
        return f"a number in the operation {name}"  # it may be worked out of the width, as in attention by hand
    if WITH_NUMBERS.match(name) and node.grad_fn in facts.broadcast:
        return f"a tensor of other axes, in the operation {name}"  # of which none need be that of the channels
    if node.type == OPTYPE.CONCAT:
        return "" if node.module.offsets is not None else "a concatenation"
    if name.startswith(("ConstantPad", "Pad")):
        return "pad" if any(padding_of(node.grad_fn)[0]) else ""
    if POOLING.match(name) and not _behind_channels(node.grad_fn, name):
        return _pooling_name(name)
    own_weight = name.startswith("TBackward") and not node.inputs  # a Linear layer's transposed weight, not what it reads
    return "" if own_weight or TRUSTED.match(name) or POOLING.match(name) else f"the operation {name}"


def _flattens_pooled(node, facts: ForwardFacts) -> bool:
    """A flattening of an image pooled to one pixel, as before most classifiers: each channel is one input of the Linear. Not
    where the number of features is named."""
    sizes = getattr(node.grad_fn, "_saved_self_sym_sizes", ()) if node.type == OPTYPE.RESHAPE else ()
    return (node.grad_fn in facts.flattened and len(sizes) > 2 and all(s == 1 for s in sizes[2:]) and bool(node.outputs)
            and all(isinstance(o.module, nn.Linear) and o.module.in_features == sizes[1] for o in node.outputs))


def _pooling_name(name: str) -> str:
    return "a mean" if name.startswith("Mean") else f"the operation {name}"


def _own_code(module: nn.Module, names) -> str:
    """What a layer does beside what its type does in torch: a subclass's own forward, or a hook that its user has given it."""
    if type(module).forward not in PLAIN_FORWARDS or "forward" in vars(module):
        return f"a {type(module).__name__}"
    if getattr(type(module), "_conv_forward", None) not in PLAIN_CONVOLUTIONS:
        return f"a {type(module).__name__}"
    return f"a hook on {names[module]}" if module._forward_hooks or module._forward_pre_hooks else ""


def _behind_channels(grad_fn, name: str) -> bool:
    """Does pooling leave the first two axes alone? A mean says its axes (unsigned: -1 is 2**64 - 1), the others how many."""
    if name.startswith("Mean"):
        axes = len(getattr(grad_fn, "_saved_self_sym_sizes", ()))
        dims = [as_signed(d) % axes for d in getattr(grad_fn, "_saved_dim", ())] if axes > 2 else []
        return bool(dims) and min(dims) >= 2
    pooled = re.search(r"(\d)D", name, re.IGNORECASE)
    return not pooled or len(grad_fn._input_metadata[0].shape) == int(pooled[1]) + 2
