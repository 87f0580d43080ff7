"""Real architectures: exact widths, budgets met, and outputs equal to zero-masking, or a refusal with its reason.

The table that the book shows is written by this test: SLIMLIB_WRITE_TABLE=1 pytest tests/test_architectures.py
"""

import json
import os
from pathlib import Path

import pytest
import torch

import slimlib
from slimlib._torchvision import import_torchvision
from tests.architectures import SIZES, build, examine, widest_by_rank

TABLE = Path(__file__).parents[1] / "book" / "records" / "architectures.json"
WRITE = bool(os.environ.get("SLIMLIB_WRITE_TABLE"))


@pytest.fixture(scope="module")
def table():
    """The committed rows by architecture; rewritten after the last test where that is asked for."""
    rows = json.loads(TABLE.read_text()) if TABLE.exists() else []
    found = {row["architecture"]: row for row in rows}
    yield found
    if WRITE:
        TABLE.write_text(json.dumps([found[name] for name in SIZES], indent=1) + "\n")


@pytest.mark.slow
@pytest.mark.parametrize("name", SIZES)
def test_half_the_macs_of_an_architecture(name, table):
    import_torchvision()  # before timm, which imports it plainly
    if name.startswith("timm:"):
        pytest.importorskip("timm")
    row = examine(name)
    assert row["outcome"] != "wrong", row["told"]
    named = any(f"{layer}: " in row["told"] for layer, _ in build(name).named_modules() if layer)
    assert row["outcome"] == "exact" or named, "a refusal names layers and reasons"
    if WRITE:
        table[name] = row
    assert row == table[name], "the table in the book shows something else: write it anew"


def test_the_table_is_complete_and_mostly_exact(table):
    assert list(table) == list(SIZES) and len(table) >= 25
    outcomes = [row["outcome"] for row in table.values()]
    assert outcomes.count("wrong") == 0 and outcomes.count("exact") >= 22


@pytest.mark.parametrize("name", ["torchvision:mobilenet_v2", "timm:lcnet_050"])
def test_what_pca_can_keep_follows_from_the_shapes(name, table):
    """Depthwise networks: the components of drawn weights end where the shapes say, and what PCA keeps of the MACs with them."""
    import_torchvision()
    if name.startswith("timm:"):
        pytest.importorskip("timm")
    model, x = build(name), torch.zeros(1, 3, SIZES[name], SIZES[name])
    layout = slimlib.trace(model, x)
    by_shape = widest_by_rank(model, x, layout)
    found = slimlib.width_path(model, x, coupling="joint", layout=layout).plan(threshold=1.0)
    assert found.widths == by_shape.widths and found.rank_bound == by_shape.rank_bound
    row = table[name]
    assert (row["rank_bound"], row["pca_macs"]) == (len(found.rank_bound), round(found.keep_macs, 4))


def test_rank_bounds_in_the_table(table):
    for row in table.values():
        if row["outcome"] == "exact":
            assert 0 < row["pca_macs"] <= 1 and (row["pca_macs"] < 1) == (row["rank_bound"] > 0)
            assert row["rule"] != "pca" or row["keep_macs"] <= row["pca_macs"]
    assert table["torchvision:vgg11_bn"]["rank_bound"] == 2, "26 of 64 in the first layer, 4,095 of 4,096 in the last but one"
    assert table["torchvision:mobilenet_v2"]["pca_macs"] < 0.5, "PCA cannot keep half of a depthwise network"
