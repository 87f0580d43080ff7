"""The traced operations as a plain list, and which BatchNorm reads a layer alone."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import chain

from torch_pruning.ops import OPTYPE

from slimlib import moments
from slimlib._forward import ForwardFacts

CONSTANTS = sorted({"alpha", *chain.from_iterable(moments.CONSTANTS.values())})  # alpha of a sum as well: a + alpha b


@dataclass(frozen=True)
class Op:
    """One node of the traced graph: ``module`` is a name or "", ``kind`` a type or an autograd operation's name, ``inputs`` the
    indices of the nodes before it, ``pad`` how many channels a padding puts before and behind the others, ``calls`` how
    often a module is called in one pass, ``constants`` the numbers and words that autograd keeps of an operation (the slope of
    a leaky ReLU, the bounds of a clamp), by name."""

    kind: str
    module: str
    inputs: tuple[int, ...]
    pad: tuple[int, ...] = ()
    calls: int = 1
    constants: tuple[tuple[str, object], ...] = ()


def padding_of(grad_fn) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """What a constant padding adds: before and behind the second axis, and to the axes behind that; () for other operations.

    torch's amounts start with the last axis, so where those of the channels stand depends on how many axes there are.
    """
    pad = tuple(getattr(grad_fn, "_saved_pad", ())) if grad_fn.name().startswith(("ConstantPad", "Pad")) else ()
    at = 2 * (len(grad_fn._input_metadata[0].shape) - 2) if pad else 0
    return pad[at : at + 2], pad[:at]


def as_signed(number: int) -> int:
    """A place that autograd keeps unsigned, where it was counted from the end: -8, not 2**64 - 8."""
    return number - 2**64 if number >= 2**63 else number


def sliced_axis(grad_fn) -> tuple[int, int]:
    """The axis that a slice cuts, from the front, and how many axes there are."""
    axes = len(grad_fn._saved_self_sym_sizes)
    return as_signed(grad_fn._saved_dim) % axes, axes


def _through_batch_norm(node):
    """The node after ``node``; a norm with a built-in activation shows its bare operation first, which is stepped over."""
    after = node.outputs[0]
    if after.type == OPTYPE.ELEMENTWISE and after.grad_fn is not None and "BatchNorm" in after.grad_fn.name():
        after = after.outputs[0] if len(after.outputs) == 1 else after
    return after


def norm_after(graph, layers, names, facts: ForwardFacts) -> dict[str, str]:
    """Layer -> the BatchNorm that alone reads its output; not of a Linear layer whose channels are on another axis than those."""
    found = {}
    for layer in layers:
        node = graph.module2node[layer]
        if len(node.outputs) == 1 and names[layer] not in facts.last_axis:
            after = _through_batch_norm(node)
            if after.type == OPTYPE.BN and after.module.running_var is not None:
                found[names[layer]] = names[after.module]
    return found


def operations(graph, names, facts: ForwardFacts) -> list[Op]:
    """The traced graph without its ends, inputs before users; a layer that reads what it wrote itself, being called again, comes
    before that."""
    index: dict = {}
    ops: list[Op] = []
    opened = set()
    for start in graph.module2node.values():
        stack = [(start, False)] if start.grad_fn not in facts.ends else []
        while stack:
            node, ready = stack.pop()
            if ready:
                module = names.get(node.module, "")
                kind = node.grad_fn.name() if not module and node.grad_fn is not None else type(node.module).__name__
                index[node] = len(ops)
                pad = padding_of(node.grad_fn)[0] if kind.startswith("ConstantPad") else ()
                inputs = tuple(index[i] for i in node.inputs if i in index)
                ops.append(Op(kind, module, inputs, pad, facts.calls.get(module, 1), _constants(node.grad_fn)))
            elif node not in opened:
                opened.add(node)
                stack.append((node, True))
                stack.extend((i, False) for i in node.inputs if i not in opened)
    return ops


def _constants(grad_fn) -> tuple[tuple[str, object], ...]:
    """What the operation was told beside its tensors, as far as autograd keeps it."""
    kept = [(name, getattr(grad_fn, f"_saved_{name}", None)) for name in CONSTANTS]
    if grad_fn is not None and grad_fn.name().startswith("SliceBackward") and hasattr(grad_fn, "_saved_self_sym_sizes"):
        kept.append(("axis", sliced_axis(grad_fn)[0]))
    return tuple((name, value) for name, value in kept if isinstance(value, (int, float, str)))
