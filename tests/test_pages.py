"""Pages made of one template for several profiles, and what they are made of."""

from __future__ import annotations

from slimlib.notebooks import _labelled_for


def test_exercises_of_one_template_have_other_labels_on_each_profiles_page():
    text = "```{exercise}\n:label: one\n\nWhy :label: here?\n```\n\n```{solution} one\n:class: dropdown\n```"
    found = _labelled_for("laptop", text)
    assert found.count("laptop-one") == 2 and ":label: laptop-one" in found and "{solution} laptop-one" in found
    assert found.replace("laptop-", "") == text
