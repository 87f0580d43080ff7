"""What the objects that people hold look like in a terminal and in a notebook: short, and saying what matters."""

import dataclasses
import re

import pytest
import torch
from torch import nn

import slimlib
from slimlib import models


@pytest.fixture(scope="module")
def resnet():
    return models.cifar_resnet(20), torch.zeros(1, 3, 32, 32)


@pytest.fixture(scope="module")
def plan(resnet):
    return slimlib.plan_widths(*resnet, keep_macs=0.5, coupling="inner")


def test_a_plan_prints_as_its_table(plan):
    lines = str(plan).splitlines()
    rows = {line.split()[0]: [float(number) for number in line.split()[1:4]] for line in lines[1:len(plan.widths) + 1]}
    assert rows == {n: [plan.full_widths[n], w, round(w / plan.full_widths[n], 3)] for n, w in plan.widths.items()}
    assert f"rule pca, coupling inner, level {plan.threshold:.6g}" in lines
    assert f"MACs {plan.macs:,} of {plan.full_macs:,} ({plan.keep_macs:.1%})" in str(plan)
    assert f"left whole: {len(plan.whole)} layers" in lines
    told = " ".join(" ".join(lines).split())
    for layer, reason in plan.whole.items():
        assert layer in told and reason in told
    assert max(map(len, lines)) <= 110


@pytest.mark.parametrize("name", ["0", "conv1", "features_conv"])
def test_the_columns_stand_below_their_heads(name):
    model = nn.Sequential()
    model.add_module(name, nn.Linear(4, 6))
    model.add_module("head", nn.Linear(6, 2))
    head, row, *_ = str(slimlib.plan_widths(model, torch.zeros(1, 4), keep_params=0.5, rule="uniform")).splitlines()
    ends = [[part.end() for part in re.finditer(r"\S+", line)][1:] for line in (head, row)]
    assert ends[0] == ends[1] and row.startswith(f"{name} ")


def test_a_notebook_shows_the_same_table(plan):
    formatter = pytest.importorskip("IPython.lib.pretty")
    assert formatter.pretty(plan) == str(plan)


def test_the_short_form_tells_rule_costs_and_widths(plan):
    assert repr(plan) == (f"WidthPlan(rule='pca', coupling='inner', keep_macs={plan.keep_macs:.4f}, "
                          f"keep_params={plan.keep_params:.4f}, widths={plan.widths})")


def test_layouts_groups_and_paths_are_one_line(resnet):
    layout, path = slimlib.trace(*resnet), slimlib.width_path(*resnet)
    assert repr(layout) == ("Layout(11 groups: 9 slimmed with coupling='inner', 9 slimmed with coupling='joint'; "
                            "traced with an example of shape (1, 3, 32, 32))")
    assert repr(path) == f"WidthPath(rule='pca', coupling='inner', {len(path)} plans of 9 groups)"
    group = layout.slimmable()[0]
    assert repr(group) == "Group(name='layer1.0.conv1', width=16, blocks=1, reason='')"
    assert repr(group.writers()[0]) == "Member(module='layer1.0.conv1', role='out')"


def test_tied_layers_count_under_joint_coupling():
    layout = slimlib.trace(models.cifar_resnet(20, shortcut="B"), torch.zeros(1, 3, 32, 32))
    inner, joint = (len(layout.slimmable(coupling)) for coupling in ("inner", "joint"))
    assert f"{inner} slimmed with coupling='inner', {joint} slimmed with coupling='joint'" in repr(layout) and inner < joint


def test_image_sets_say_how_many_images_and_not_their_pixels():
    data = slimlib.load_data("fashionmnist-10k", limit=100)
    assert repr(data.val) == f"Split({len(data.val)} images of shape (1, 28, 28) on cpu)"
    parts = ", ".join(f"{part}={getattr(data, part)!r}" for part in ("train", "val", "test"))
    assert repr(data) == f"Data('fashionmnist-10k', 10 classes, source='embedded', {parts})"
    assert repr(dataclasses.replace(data.test, labels=data.test.labels[:1])) == "Split(1 image of shape (1, 28, 28) on cpu)"


def test_a_bound_by_rank_is_told_and_one_is_singular():
    model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2))
    with pytest.warns(UserWarning, match="bounds 1 group "):
        plan = slimlib.plan_widths(model, torch.zeros(1, 4), keep_params=0.9)
    assert str(plan).splitlines()[1].split() == ["0", "6", "3", "0.500", "by", "rank", "at", "most", "3"]
    assert "left whole: 1 layer\n" in str(plan) + "\n"
