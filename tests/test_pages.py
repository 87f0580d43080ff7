"""Pages made of one template for several profiles, and what they are made of."""

from __future__ import annotations

import re
from pathlib import Path

import slimlib
from slimlib.notebooks import _labelled_for

ROOT = Path(__file__).resolve().parents[1]


def test_exercises_of_one_template_have_other_labels_on_each_profiles_page():
    text = "```{exercise}\n:label: one\n\nWhy :label: here?\n```\n\n```{solution} one\n:class: dropdown\n```"
    found = _labelled_for("laptop", text)
    assert found.count("laptop-one") == 2 and ":label: laptop-one" in found and "{solution} laptop-one" in found
    assert found.replace("laptop-", "") == text


def test_the_reference_has_every_public_name():
    text = (ROOT / "book" / "reference.md").read_text(encoding="utf-8")
    named = set(re.findall(r"^\.\. auto(?:function|class|exception):: slimlib\.(\w+)$", text, flags=re.MULTILINE))
    assert named == {name for name in slimlib.__all__ if callable(getattr(slimlib, name))}
    members = [set(found.split(", ")) for found in re.findall(r"^   :members: (.*)$", text, flags=re.MULTILINE)]
    for described in (slimlib.RULES, slimlib.CRITERIA):
        assert any(set(described) - {"random"} <= listed for listed in members)
