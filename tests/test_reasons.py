"""Which reason is told of channels that cannot go, where several hold: by the order in which the walk over them meets each."""

from itertools import permutations, product
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch_pruning.ops import OPTYPE

import slimlib
from slimlib._coupling import Touched
from slimlib._grouping import read_group
from tests.test_user_networks import Net, conv, pooled

WIDTH = 8
X = torch.randn(2, WIDTH, 6, 6, requires_grad=True)
PADDED, STEPS, MIXED, FLIPPED = (F.pad(X, (0,) * 4 + (1, 1)), X[:, ::2], F.avg_pool2d(X, 2), X.flip(1))
ATTENTION = F.scaled_dot_product_attention(*[X.flatten(2).mT[:, None].contiguous()] * 3)
GROUPS_OF_TWO = nn.Conv2d(WIDTH, 4, 3, groups=4)
LAYERS = {nn.Conv2d(3, WIDTH, 3): "root", nn.Conv2d(WIDTH, 4, 3): "reader", nn.Conv2d(4, 4, 3): "narrow", GROUPS_OF_TWO: "groups"}
MODULES = {name: layer for layer, name in LAYERS.items()}


def at(of=None, kind=OPTYPE.ELEMENTWISE, layer=None, returned=False, **found):
    """What the walk meets at one node: at a layer that reads the channels, or at the operation that made a tensor."""
    node = SimpleNamespace(type=OPTYPE.CONV if layer else kind, module=MODULES.get(layer, object()), inputs=[],
                           outputs=[] if returned else [object()], grad_fn=(X.relu() if of is None else of).grad_fn)  # fmt: skip
    return Touched(node, "out" if layer == "root" else "in", np.arange(WIDTH), np.arange(WIDTH), **found)


def told(*met):
    """The reason, and what is doubtful, of a group whose walk starts at its layer and meets these."""
    none = dict.fromkeys(("last_axis", "read_outside", "constants", "numbers", "broadcast", "flattened"), ())
    facts = SimpleNamespace(across={MIXED.grad_fn}, **none)
    graph = SimpleNamespace(is_out_channel_pruning_fn=lambda handler: handler == "out")
    raw, doubt = read_group(graph, [at(layer="root"), *met], LAYERS, WIDTH, facts)
    return raw.reason, doubt


OUTPUT, PADDING = "the width of the model's output", "a padding that adds channels"
OVERRULING = {OUTPUT: at(returned=True), PADDING: at(PADDED)}
OF_ONE_NODE = {
    "a LayerNorm normalises": at(kind=OPTYPE.LN),
    "a parameter that belongs to no layer": at(kind=OPTYPE.PARAMETER),
    "an attention product": at(ATTENTION),
    "in one channel of reader (a gate over halves)": at(layer="reader", meet=True),
    "one filter per group of several inputs": at(layer="groups"),
    "cannot be followed": at(lost=True),
    "a slice takes its channels in steps": at(STEPS, OPTYPE.SLICE),
    "a response normalisation": at(MIXED),
}
BETWEEN, MISFIT = "in one channel of what is made of them between layers", "its channels do not fit narrow, which has 4 there"
OF_ALL = {BETWEEN: at(meet=True), MISFIT: at(layer="narrow")}


@pytest.mark.parametrize("reason", [*OVERRULING, *OF_ONE_NODE, *OF_ALL])
def test_each_reason_is_told_where_it_is_the_only_one(reason):
    assert reason in told({**OVERRULING, **OF_ONE_NODE, **OF_ALL}[reason])[0] and told() == ("", "")


def test_of_those_of_one_node_the_first_is_told():
    for first, second in permutations(OF_ONE_NODE, 2):
        assert first in told(OF_ONE_NODE[first], OF_ONE_NODE[second])[0], second


def test_the_output_and_a_padding_overrule_the_others_and_the_last_of_them_is_told():
    for one, other in product(OVERRULING, [*OF_ONE_NODE, *OF_ALL]):
        item = {**OF_ONE_NODE, **OF_ALL}[other]
        assert one in told(OVERRULING[one], item)[0] and one in told(item, OVERRULING[one])[0], other
    for first, last in permutations(OVERRULING, 2):
        assert last in told(OVERRULING[first], OF_ONE_NODE["cannot be followed"], OVERRULING[last])[0]
        assert first in told(OVERRULING[first], OVERRULING[last], OVERRULING[first])[0]


def test_what_is_seen_of_all_nodes_is_told_where_none_has_a_reason():
    for one, other in product(OF_ONE_NODE, OF_ALL):
        assert one in told(OF_ALL[other], OF_ONE_NODE[one])[0], other
    for met in permutations(OF_ALL.values()):
        assert BETWEEN in told(*met)[0]


@pytest.mark.parametrize("node, reason", [
    (at(PADDED, returned=True), PADDING), (at(PADDED, lost=True), PADDING), (at(lost=True, returned=True), OUTPUT),
    (at(kind=OPTYPE.LN, lost=True), "a LayerNorm"), (at(kind=OPTYPE.LN, meet=True), "a LayerNorm"),
    (at(layer="groups", lost=True, meet=True), "in one channel of groups"),
    (at(layer="groups", lost=True), "one filter per group"), (at(layer="groups", returned=True), "one filter per group"),
    (at(STEPS, OPTYPE.SLICE, lost=True), "cannot be followed"), (at(MIXED, lost=True), "cannot be followed"),
    (at(ATTENTION, meet=True), BETWEEN), (at(ATTENTION, lost=True), "an attention product"),
    (at(kind=OPTYPE.LN, returned=True), OUTPUT),
])  # fmt: skip
def test_one_node_may_have_several(node, reason):
    assert reason in told(node)[0]


def test_a_misfit_behind_a_doubtful_operation_is_told_by_that():
    assert told(at(FLIPPED)) == ("", "the operation FlipBackward0")
    want = "its channels pass through the operation FlipBackward0, which needs them all: without some, the network does not run"
    assert {told(*met)[0] for met in permutations([at(FLIPPED), OF_ALL[MISFIT]])} == {want}
    assert MISFIT in told(at(), OF_ALL[MISFIT])[0]


def test_of_doubtful_operations_the_first_that_is_of_all_channels_is_told():
    shapes = [at(X.flatten(1), OPTYPE.RESHAPE), at(X[:, 2:], OPTYPE.SLICE)]
    assert told(*shapes)[1] == "a slice" and told(*shapes[::-1])[1] == "a reshape", "else the last"
    assert told(shapes[0], at(FLIPPED), at(X.cumsum(1)), shapes[1])[1] == "the operation FlipBackward0"
    assert told(at(PADDED), at(MIXED)) == (told(at(PADDED))[0], ""), "what refuses them is not doubtful"


def padded(m, h):
    return m.b(pooled(F.pad(h, (0,) * 4 + (1, 1))))


@pytest.mark.parametrize("answers, reason", [
    (lambda m, h: (h, padded(m, h)), PADDING), (lambda m, h: (padded(m, h), h), OUTPUT),
    (lambda m, h: padded(m, F.local_response_norm(h, 3)), PADDING),
    (lambda m, h: m.b(pooled(F.local_response_norm(h, 3))), "a response normalisation"),
])  # fmt: skip
def test_so_it_is_in_networks(answers, reason):
    model = Net(lambda m, x: answers(m, m.a(x)), a=conv(3, WIDTH), b=nn.LazyLinear(4)).eval()
    model(torch.randn(2, 3, 6, 6))  # the reader's width is set
    assert reason in slimlib.trace(model, torch.randn(2, 3, 6, 6)).whole("joint")["a"]
