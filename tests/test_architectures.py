"""Real architectures: exact widths, budgets met, and outputs equal to zero-masking, or a refusal with its reason.

The table that the book shows is written by this test: SLIMLIB_WRITE_TABLE=1 pytest tests/test_architectures.py
"""

import json
import os
from pathlib import Path

import pytest

from slimlib._torchvision import import_torchvision
from tests.architectures import SIZES, build, examine

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
