"""Latency: what is told of the rounds is checked on made-up clocks; no speed of this machine is asserted."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from conftest import Chain

from slimlib import latency
from slimlib.errors import SlimlibError


def test_rounds_are_compared_with_the_first_network_in_the_same_round():
    # the machine slows down tenfold half way: the ratio of the two networks is the same in every round
    first = np.array([10.0, 11.0, 12.0, 100.0, 110.0])
    found = latency._summaries({"dense": first, "slim": first / 4})
    assert found["slim"]["relative"] == found["slim"]["relative_low"] == found["slim"]["relative_high"] == 0.25
    assert found["dense"]["ms"] == np.median(first) and found["slim"]["ms"] == np.median(first) / 4
    assert found["dense"]["ms_low"] == 11.0 and found["dense"]["ms_high"] == 100.0


def test_a_clock_that_counts_the_work_gives_the_ratio_of_the_work(monkeypatch):
    """With a clock that ticks once a call of the slow network's layers, the table says exactly how they compare."""
    now, order = [0.0], []

    class Works(torch.nn.Module):
        def __init__(self, name, cost):
            super().__init__()
            self.name, self.cost = name, cost

        def forward(self, batch):
            now[0] += self.cost * len(batch)
            order.append(self.name)
            return batch

    monkeypatch.setattr(latency.time, "perf_counter", lambda: now[0])
    networks = {"dense": Works("dense", 0.008), "slim": Works("slim", 0.002)}
    found = latency.measure(networks, torch.zeros(4, 3), batch_sizes=(1, 8), repeats=9, on=["cpu"])
    table = found.set_index(["batch_size", "model"])
    assert table.loc[(1, "slim"), "relative"] == pytest.approx(0.25)
    assert table.loc[(8, "dense"), "ms"] == pytest.approx(64.0) and table.loc[(8, "slim"), "ms"] == pytest.approx(16.0)
    assert (table["rounds"] == 9).all() and len(table) == 4
    rounds = [order[at : at + 2] for at in range(len(order) - 18, len(order), 2)]  # the last nine, one call each
    assert all(set(turn) == {"dense", "slim"} for turn in rounds), "each round times both"
    assert len({tuple(turn) for turn in rounds}) == 2, "and not always in the same order"


def test_networks_are_left_as_they_are():
    torch.manual_seed(0)
    network, example = Chain().train(), torch.randn(2, 3, 16, 16)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    found = latency.measure({"dense": network}, example, batch_sizes=[2], repeats=2)
    assert network.training and all(torch.equal(before[n], v) for n, v in network.state_dict().items())
    assert set(found["device"]) == set(latency.devices()) and (found["relative"] == 1).all()
    assert (found["ms_low"] <= found["ms"]).all() and (found["ms"] <= found["ms_high"]).all()


def test_a_network_that_holds_an_activation_is_measured(chain):
    """As a hook for a heat map keeps it: copy.deepcopy refuses such a tensor."""
    model, x = chain
    model.kept = model(x.requires_grad_())
    assert len(latency.measure({"kept": model}, x.detach(), batch_sizes=[1], repeats=1, on=["cpu"])) == 1


def test_threads_are_put_back():
    seen, before = [], torch.get_num_threads()

    class Asks(torch.nn.Module):
        def forward(self, batch):
            seen.append(torch.get_num_threads())
            assert not self.training, "networks are timed as they are used"
            return batch

    latency.measure({"dense": Asks().train()}, torch.zeros(1, 3), [1], repeats=1, on=["cpu"], threads=1)
    assert set(seen) == {1} and torch.get_num_threads() == before


def test_a_slow_machine_makes_fewer_rounds_and_says_so(chain):
    network, example = chain
    found = latency.measure({"dense": network}, example, batch_sizes=[1], repeats=50, on=["cpu"], limit_s=0.0)
    assert found["rounds"].tolist() == [3]


def test_wrong_arguments_are_refused_by_name(chain):
    network, example = chain
    for wrong, told in (({"models": {}}, r"^models=\[\], on=.*, batch_sizes=.*: give at least one of each$"),
                        ({"batch_sizes": []}, r"batch_sizes=\[\]: give at least one of each$"),
                        ({"batch_sizes": [0]}, r"^batch_sizes\[0\]=0 must be a whole number of images, at least 1$"),
                        ({"repeats": 0}, "^repeats=0 must be a whole number of rounds, at least 1$"),
                        ({"threads": 0}, "^threads=0 must be a whole number, at least 1$"),
                        ({"example_input": example[:, :1]}, r"example_input, of shape \(1, .* through the network 'a': "),
                        ({"models": [network]}, "models is of type list; give networks by name"),
                        ({"models": {"a": "net"}}, r"models\['a'\] is of type str; give a torch\.nn\.Module"),
                        ({"example_input": (1, 3)}, "example_input is of type tuple"),
                        ({"example_input": example[:0]}, r"^example_input of shape \(0, 3, 16, 16\) holds no example; give one"),
                        ({"example_input": torch.tensor(1.0)}, r"^example_input of shape \(\) holds no example"),
                        ({"batch_sizes": 64}, r"^batch_sizes is of type int; give a list of whole numbers, such as \(1, 64\)$"),
                        ({"batch_sizes": [1, 2.5]}, r"^batch_sizes\[1\]=2\.5 must be a whole number of images, at least 1$"),
                        ({"threads": 1.5}, r"^threads=1\.5 must be a whole number, at least 1$"),
                        ({"on": 0}, "^on is of type int; give the name of a device, or a list of them$"),
                        ({"limit_s": "30"}, "^limit_s is of type str; give a number of seconds$"),
                        ({"repeats": 2.5}, r"^repeats=2\.5 must be a whole number of rounds")):
        with pytest.raises(SlimlibError, match=told):
            latency.measure(**{"models": {"a": network}, "example_input": example} | wrong)
    with pytest.raises(SlimlibError, match="on='tpu'"):
        latency.measure({"a": network}, example, on=["tpu"])
    with pytest.raises(SlimlibError, match=r"^seed=-1 must be a whole number from 0"):
        latency.measure({"a": network}, example, batch_sizes=[1], repeats=1, on=["cpu"], seed=-1)


def test_networks_keep_the_names_they_were_given():
    models = {"dense": torch.nn.Linear(2, 2), 0.5: torch.nn.Linear(2, 1), ("pca", 1): torch.nn.Linear(2, 1)}
    table = latency.measure(models, torch.zeros(1, 2), batch_sizes=[1], repeats=1, on="cpu", threads=1)
    assert list(table["model"]) == list(models)


def test_one_device_may_be_named_alone():
    table = latency.measure({"a": torch.nn.Linear(2, 2)}, torch.zeros(1, 2), batch_sizes=[1], repeats=1, on="cpu", threads=1)
    assert table["device"].tolist() == ["cpu"]
