"""What autograd's graph does not show of a forward pass: noted while its operations are called."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from numbers import Number

import torch
from torch.nn.functional import local_response_norm
from torch.overrides import TorchFunctionMode

WITH_NUMBERS = re.compile(r"^(Add|Sub|Mul|Div)Backward\d*$")
_SHAPED_ALIKE = re.compile("_like$|^new_")  # operations that read no number of what they are given


class Watch(TorchFunctionMode):
    """Notes autograd's nodes of all operations, and of those that combine what layers made with a tensor that none did: the
    graph shows no trace of that tensor, and where it has one entry a channel (a scale kept as a buffer, the network's input),
    the channels cannot go. Of reshapes those that name no number of features. And of those that take a number, or a tensor made
    of numbers alone in the pass, which may be worked out of a count of channels; and whether anything is taken out of autograd's
    graph, which shows nothing of it afterwards."""

    def __init__(self, known: Iterable[torch.Tensor]):
        super().__init__()
        self.known = {id(t): t for t in known}  # tensors of one element that are not made of numbers alone: buffers, results
        self.made: set = set()
        self.constants: set = set()
        self.numbers: set = set()
        self.broadcast: set = set()
        self.flattened: set = set()
        self.across: set = set()
        self.of_numbers: dict[int, torch.Tensor] = {}  # tensors made of numbers alone, kept so that their ids stay theirs
        self.severed = False

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        results, given = list(tensors_among((result,))), (*args, *kwargs.values())
        made = {tensor.grad_fn for tensor in results if tensor.grad_fn is not None}
        made -= self.made  # dropout returns what it is given
        self.made |= made
        taken = list(tensors_among(given))
        if made and any(not t.requires_grad and t.numel() > 1 for t in taken):
            self.constants.update(made)
        if made and (any(isinstance(v, Number) for v in given) or any(map(self._of_numbers, taken))):
            self.numbers.update(made)
        if len({t.dim() for t in taken if t.requires_grad and t.numel() > 1}) > 1:
            self.broadcast.update(made)
        if made and _leaves_last_open(func, args[1:], kwargs):
            self.flattened.update(made)
        if func is local_response_norm:
            self.across.update(made)
        alike = _SHAPED_ALIKE.search(getattr(func, "__name__", ""))
        if alike or all(map(self._of_numbers, taken)):  # torch.tensor(8 ** -0.5), and what is worked out of it
            self.of_numbers |= {id(t): t for t in results if not t.requires_grad}
        else:
            self.known |= {id(t): t for t in results if t.numel() == 1}
            self.severed |= any(t.requires_grad for t in taken) and any(not t.requires_grad for t in results)
        return result

    def _of_numbers(self, tensor: torch.Tensor) -> bool:
        """Of one element also where nobody saw it made, as by torch.from_numpy."""
        unseen = tensor.numel() == 1 and not tensor.requires_grad and id(tensor) not in self.known
        return unseen or id(tensor) in self.of_numbers


def _leaves_last_open(func: Callable, sizes: tuple, named: Mapping[str, object]) -> bool:
    """Does a reshape name no last size, as ``flatten(1)`` or ``view(len(x), -1)``? One that does, as ``view(-1, 64)``, may have
    it from the number of channels or from the programmer: the graph is the same."""
    name, last = getattr(func, "__name__", ""), sizes[-1] if sizes else None
    if isinstance(last, (tuple, list)) and last:
        last = last[-1]
    return name == "flatten" or (name in ("view", "reshape") and not named and last == -1)


def tensors_among(values: Iterable[object]) -> Iterator[torch.Tensor]:
    """The tensors among the values, and in the lists among them: as operations take and return them."""
    for value in values:
        if isinstance(value, torch.Tensor):
            yield value
        elif isinstance(value, (list, tuple)):
            yield from (inner for inner in value if isinstance(inner, torch.Tensor))
