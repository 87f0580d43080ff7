"""What cannot be done is refused by parameter and remedy, and the model is as it was: weights, modes, gradients, hooks."""

import copy
import json
import math
import re
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

import slimlib
from tests.conftest import Chain, InOrder, Residual, lively_norms
from tests.test_user_networks import Net


def snapshot(model: nn.Module) -> dict:
    """Everything of a model that planning might touch by mistake."""
    modules, plain = dict(model.named_modules()), int | float | str | tuple
    return {
        "state": {k: v.clone() for k, v in model.state_dict().items()},
        "attributes": {n: {k: v for k, v in vars(m).items() if isinstance(v, plain)} for n, m in modules.items()},
        "gradients": {n: None if p.grad is None else p.grad.clone() for n, p in model.named_parameters()},
        "trainable": {n: p.requires_grad for n, p in model.named_parameters()},
        "identity": {n: id(p) for n, p in model.named_parameters()},
        "hooks": {n: (len(m._forward_hooks), len(m._forward_pre_hooks), len(m._backward_hooks)) for n, m in modules.items()},
    }


def unchanged(before: dict, model: nn.Module) -> None:
    after = snapshot(model)
    for part in ("state", "gradients"):
        assert before[part].keys() == after[part].keys()
        for name, old in before[part].items():
            new = after[part][name]
            assert (old is None and new is None) or torch.equal(old.nan_to_num(), new.nan_to_num()), f"{part} of {name}"
            assert old is None or torch.equal(old.isnan(), new.isnan())
    for part in ("attributes", "trainable", "identity", "hooks"):
        assert before[part] == after[part], part


def half_way_through_training() -> nn.Module:
    """A model as users have it: some layers frozen, gradients from the last step, the norms of one block in another mode."""
    torch.manual_seed(0)
    model = lively_norms(Residual()).train()
    model.bn1.eval()
    model.stem.weight.requires_grad_(False)
    nn.functional.cross_entropy(model(torch.randn(4, 3, 16, 16)), torch.arange(4)).backward()
    assert model.inner.weight.grad is not None and model.stem.weight.grad is None
    return model


X = torch.zeros(1, 3, 16, 16)
REFUSED = {
    "unreachable MACs": (X, {"keep_macs": 1e-4}, r"keep_macs=0\.0001 cannot be reached: .* ask for at least that"),
    "unreachable parameters": (X, {"keep_params": 1e-4, "coupling": "joint"}, r"keep_params=0\.0001 cannot be reached: .* keeps"),
    "unreachable by min_width": (X, {"keep_macs": 0.9, "min_width": 6}, r"keep_macs=0\.9 cannot be reached: .* keeps 1\.0000, as "
                                 r"no layer may be narrower under min_width=6; ask for at least that, or lower min_width$"),
    "unreachable by limits": (X, {"keep_macs": 0.9, "min_width": 2, "round_to": 8, "coupling": "joint"}, "as no layer may be "
                              r"narrower under min_width=2 and round_to=8; .*, or lower min_width or round_to$"),
    "unreachable by both": (X, {"keep_macs": 0.3, "min_width": 6}, r"as no layer may be narrower under min_width=6, and 4 layers "
                            r"stay whole \(.*\); ask for at least that, or lower min_width, or give coupling='joint'$"),
    "unreachable by skip": (X, {"keep_macs": 0.1, "skip": "stem", "coupling": "joint"}, r"stem: left out with skip=\['stem'\]"),
    "threshold 0": (X, {"threshold": 0.0}, r"threshold=0\.0 must lie in \(0, 1\]"),
    "threshold below 0": (X, {"threshold": -0.5}, r"threshold=-0\.5 must lie in \(0, 1\]"),
    "threshold above 1": (X, {"threshold": 1 + 1e-9}, r"threshold=1\.0\d* must lie in \(0, 1\]"),
    "threshold NaN": (X, {"threshold": math.nan}, r"threshold=nan must lie in \(0, 1\]"),
    "threshold infinite": (X, {"threshold": math.inf}, r"threshold=inf must lie in \(0, 1\]"),
    "budget 0": (X, {"keep_macs": 0}, r"keep_macs=0 must lie in \(0, 1\]"),
    "budget above 1": (X, {"keep_params": 1.5}, r"keep_params=1\.5 must lie in \(0, 1\]"),
    "budget NaN": (X, {"keep_macs": math.nan}, r"keep_macs=nan must lie in \(0, 1\]"),
    "budget in words": (X, {"keep_macs": "0.5"}, r"keep_macs='0\.5' must be a number in \(0, 1\], not a str"),
    "two budgets": (X, {"keep_macs": 0.5, "threshold": 0.9}, "give exactly one of keep_macs, keep_params and threshold"),
    "no budget": (X, {}, "give exactly one of keep_macs, keep_params and threshold"),
    "other channels": (torch.zeros(1, 4, 16, 16), {"keep_macs": 0.5}, r"example_input of shape \(1, 4, 16, 16\)"),
    "no image": (torch.zeros(1, 3), {"keep_macs": 0.5}, r"example_input of shape \(1, 3\)"),
    "no tensor": ([0.0] * 768, {"keep_macs": 0.5}, "example_input is of type list; give a tensor, batch first"),
    "a unit as well": (X, {"keep_macs": 0.5, "unit": "params"}, r"unit='params': .* give keep_macs or keep_params, or call"),
    "rule": (X, {"keep_macs": 0.5, "rule": "PCA"}, r"rule='PCA' is not known; use one of pca,"),
    "coupling": (X, {"keep_macs": 0.5, "coupling": "all"}, r"coupling='all' is not known; use 'inner' or 'joint'"),
    "min_width": (X, {"keep_macs": 0.5, "min_width": 0}, r"min_width=0 must be a whole number of filters, at least 1"),
    "round_to": (X, {"keep_macs": 0.5, "round_to": 2.5}, r"round_to=2\.5 must be a whole number of filters, at least 1"),
    "seed below 0": (X, {"keep_macs": 0.5, "rule": "random", "seed": -1},
                     r"^seed=-1 must be a whole number from 0 to 2\*\*64 - 1$"),
    "seed that is not read": (X, {"keep_macs": 0.5, "seed": -1}, r"^seed=-1 must be a whole number from 0"),
    "seed above torch's": (X, {"keep_macs": 0.5, "rule": "pca_at_init", "seed": 2**64}, r"^seed=18446744073709551616 must be"),
    "seed in part": (X, {"keep_macs": 0.5, "rule": "random", "seed": 0.5}, r"^seed=0\.5 must be a whole number from 0"),
    "no seed": (X, {"keep_macs": 0.5, "rule": "permuted", "seed": None}, r"^seed=None must be a whole number from 0"),
    "skip nothing": (X, {"keep_macs": 0.5, "skip": None}, "^skip is of type NoneType; give names of layers, such as"),
    "skip a number": (X, {"keep_macs": 0.5, "skip": 3}, "^skip is of type int; give names of layers, such as"),
    "skip lists": (X, {"keep_macs": 0.5, "skip": [["inner"]]}, r"^skip: the model has no layer \['inner'\]"),
    "skip": (X, {"keep_macs": 0.5, "skip": ["nope"]}, "skip: the model has no layer 'nope'; model.named_modules"),
    "skip in one word": (X, {"keep_macs": 0.5, "skip": "nope"}, "skip: the model has no layer 'nope'; model.named_modules"),
    "skip misspelt": (X, {"keep_macs": 0.5, "skip": "iner"}, r"skip: the model has no layer 'iner'; did you mean 'inner'\?$"),
    "a budget of True": (X, {"keep_macs": True}, r"keep_macs=True must be a number in \(0, 1\], not a bool"),
    "min_width of True": (X, {"keep_macs": 0.5, "min_width": True}, r"min_width=True must be a whole number of filters"),
    "skip a norm": (X, {"keep_macs": 0.5, "skip": ["bn1"]}, r"skip: 'bn1' \(BatchNorm2d\) holds no layer .* before it"),
    "all skipped": (X, {"keep_macs": 0.5, "skip": ["inner", "squeeze"]}, "model: no layer can be slimmed with coupling='inner'"),
    "no data": (X, {"keep_macs": 0.5, "rule": "activation_pca"}, "calibration must be given for rule='activation_pca'"),
    "misspelt": (X, {"keep_macs": 0.5, "min_widht": 4}, r"min_widht is no option of rule='pca' .*did you mean min_width\?"),
    "another rule's option": (X, {"keep_macs": 0.5, "power": 1.0}, r"power is no option of rule='pca' \(its own: none\); leave"),
    "own options told": (X, {"keep_macs": 0.5, "rule": "pca_budgeted", "fold": True}, r"fold is no .*\(its own: folded\)"),
    "spectra": (X, {"keep_macs": 0.5, "spectra": {}}, "spectra: no spectrum of the right length for inner, squeeze"),
    "spectra without names": (X, {"keep_macs": 0.5, "spectra": [1, 2]}, "^spectra is of type list; give what slimlib.spectra"),
    "spectra of one number": (X, {"keep_macs": 0.5, "spectra": {"inner": 6, "squeeze": np.ones(4)}},
                              "spectra: no spectrum of the right length for inner; make"),
    "short spectra": (X, {"keep_macs": 0.5, "spectra": {"inner": np.ones(6), "squeeze": np.ones(3)}},
                      "spectra: no spectrum of the right length for squeeze; make them with the same coupling"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_wrong_argument_names_itself_and_leaves_the_model(case):
    example_input, how, told = REFUSED[case]
    model = half_way_through_training()
    before = snapshot(model)
    with pytest.raises(slimlib.SlimlibError, match=told):
        slimlib.plan_widths(model, example_input, **how)
    unchanged(before, model)


MODELS = {
    "no layers": (nn.Sequential(nn.ReLU(), nn.Flatten()), r"model \(Sequential\) has no Conv or Linear layer: there is no width"),
    "only a head": (nn.Sequential(nn.Flatten(), nn.Linear(768, 3)), "model: no layer can be slimmed .*1: its width is"),
    "a depthwise layer on the input": (nn.Sequential(nn.Conv2d(3, 3, 3, groups=3), nn.Flatten(), nn.Linear(588, 3)),
                                       "model: no layer can be slimmed"),
}


@pytest.mark.parametrize("case", MODELS)
@pytest.mark.parametrize("coupling", ["inner", "joint"])
def test_a_model_without_slimmable_layers_says_so(case, coupling):
    model, told = MODELS[case]
    before = snapshot(model)
    with pytest.raises(slimlib.SlimlibError, match=told):
        slimlib.plan_widths(model, X, keep_macs=0.5, coupling=coupling)
    unchanged(before, model)


@pytest.mark.parametrize("value", [math.nan, -math.inf])
@pytest.mark.parametrize("parameter", ["inner.weight", "bn1.weight", "head.bias", "bn1.running_var"])
@pytest.mark.parametrize("rule", ["pca", "uniform"])
def test_weights_that_are_no_numbers_are_named(parameter, value, rule):
    model = half_way_through_training()
    with torch.no_grad():
        model.state_dict()[parameter].view(-1)[1] = value
    before = snapshot(model)
    with pytest.raises(slimlib.SlimlibError, match=rf"model: {parameter} holds NaN or infinite .*weights first"):
        slimlib.plan_widths(model, X, keep_macs=0.5, rule=rule)
    unchanged(before, model)


@pytest.mark.parametrize("layer, shape", [
    (nn.Conv2d(3, 8, 3, padding=1, dtype=torch.complex64), (1, 3, 8, 8)), (nn.Linear(5, 8, dtype=torch.complex128), (2, 5)),
    (nn.ConvTranspose1d(3, 8, 3, dtype=torch.complex64), (1, 3, 8)),
])  # fmt: skip
def test_complex_weights_are_named(layer, shape):
    """A rule or criterion would be told their real part alone."""
    model = nn.Sequential(nn.Identity(), layer, nn.Flatten())
    with torch.no_grad():
        features = model(torch.zeros(shape, dtype=layer.weight.dtype)).shape[1]
    model.append(nn.Linear(features, 3, dtype=layer.weight.dtype))
    before, told = snapshot(model), rf"model: the weight of 1 is of {layer.weight.dtype}, .*real part.*; give a model of real"
    with pytest.raises(slimlib.SlimlibError, match=told):
        slimlib.plan_widths(model, torch.randn(shape, dtype=layer.weight.dtype), keep_macs=0.5)
    unchanged(before, model)


@pytest.mark.parametrize("threshold", [0, -1, 1.1, math.nan])
def test_spectra_and_thresholds_by_themselves(threshold):
    model = half_way_through_training()
    before = snapshot(model)
    found = slimlib.spectra(model, X)
    with pytest.raises(slimlib.SlimlibError, match=r"must lie in \(0, 1\]"):
        slimlib.widths_at(found, threshold)
    unchanged(before, model)


@pytest.mark.parametrize("rule", ["activation_pca", "neyman"])
def test_a_rule_that_looks_at_images_leaves_the_model_in_its_modes(rule):
    model = half_way_through_training()
    before = snapshot(model)
    slimlib.plan_widths(model, X, keep_macs=0.7, rule=rule, calibration=torch.randn(8, 3, 16, 16))
    unchanged(before, model)


def test_what_works_leaves_the_model_as_well():
    model = half_way_through_training()
    before = snapshot(model)
    for coupling in ("inner", "joint"):
        plan = slimlib.plan_widths(model, X, keep_macs=0.7, coupling=coupling, rule="uniform")
        for criterion in ("l1", "l2", "gm", "random"):
            slimlib.prune(model, plan, criterion=criterion)
        slimlib.thin(model, plan)
        unchanged(before, model)


@pytest.mark.parametrize("ratios, told", [(0.5, "^ratios is of type float; give a list of shares"), (["a"], "ratios='a' must")])
def test_shares_that_are_none_are_refused(ratios, told):
    pixels, labels = np.random.default_rng(0).integers(0, 255, (8, 16, 16, 3), np.uint8), np.arange(8) % 2
    data = slimlib.data.from_arrays(pixels, labels, pixels, labels, val_fraction=0.5)
    with pytest.raises(slimlib.SlimlibError, match=told):
        slimlib.sensitivity(lively_norms(Chain()), data, ratios, progress=False)


def test_a_scan_needs_images():
    pixels, labels = np.random.default_rng(0).integers(0, 255, (8, 16, 16, 3), np.uint8), np.arange(8) % 2
    data = slimlib.data.from_arrays(pixels, labels, pixels, labels, val_fraction=0)
    with pytest.raises(slimlib.SlimlibError, match=r"no images to evaluate on: load it with val_fraction > 0"):
        slimlib.sensitivity(lively_norms(Chain()), data, [0.5], progress=False)


@pytest.mark.parametrize("content, told", [
    (None, "no such file"), ("{", "holds no plan .* Expecting property name"), ("[1, 2]", "holds no plan .*a list holds no"),
    ('{"widths": {}}', "holds no plan .* coupling, full_macs"), ("\0", "holds no plan"), (b"\xff", "holds no plan"),
    ({"input_shape": None}, "holds no plan .* input_shape=None must be"), ({"widths": [3]}, "holds no plan .* widths="),
    ({"widths": {"0": "4"}}, "holds no plan .* widths="), ({"macs": None}, "holds no plan .* macs=None must be"),
    ({"rule": None}, "holds no plan .* rule=None must be"), ({"coupling": "foo"}, "holds no plan .* coupling='foo' must be"),
    ({"coupling": ["inner"]}, r"holds no plan .* coupling=\['inner'\] must be 'inner' or 'joint'"),
    ({"threshold": "x"}, "holds no plan .* threshold='x' must be"), ({"threshold": True}, "holds .* threshold=True must be"),
    ({"full_params": 0}, "holds no plan .* full_params=0 must be"), ({"full_macs": -1}, "holds no plan .* full_macs=-1 must be"),
    ({"input_shape": [-1, 3, 8, 8]}, r"holds no plan .* input_shape=\[-1, 3, 8, 8\] must be"),
    ({"input_shape": []}, r"holds no plan .* input_shape=\[\] must be"),
    ({"input_shape": [1, True]}, "holds no plan .* input_shape=.* must be"), ({"input_dtype": 5}, "holds .* input_dtype=5 must"),
    ({"wider": 5}, "holds no plan .* wider=5 must be"), ({"wider": {"macs": 9}}, "holds no plan .* wider=.* must be"),
    ({"whole": None}, "holds no plan .* whole=None must be"), ({"whole": {"0": 1}}, "holds no plan .* whole=.* must be"),
    ({"rank_bound": None}, "holds .* rank_bound=None must be"), ({"rank_bound": {"0": 0}}, "holds .* rank_bound=.* must be"),
])  # fmt: skip
def test_a_file_that_holds_no_plan_is_named(tmp_path, content, told):
    path = tmp_path / "plan.json"
    if isinstance(content, dict):
        plan = slimlib.plan_widths(lively_norms(Chain()), X, keep_macs=0.5)
        content = json.dumps(plan.to_dict() | content)
    if content is not None:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(slimlib.SlimlibError, match=rf"path='.*plan\.json'.* {told}"):
        slimlib.WidthPlan.load(path)


@pytest.mark.parametrize("entry", sorted(slimlib.WidthPlan.__dataclass_fields__.keys() - {"layout"}))
def test_every_entry_of_a_plan_is_one_that_can_be_shown_and_pruned_by_or_is_named(entry):
    """Whatever stands there: a plan that is read has no surprise for later."""
    model = lively_norms(Chain())
    plan = slimlib.plan_widths(model, X, keep_macs=0.5)
    refused = 0
    for value in (None, True, -1, 0, 5, 1.5, "", "x", [], [1], [None], {}, {"0": None}, {"": "x"}, {1: 1}):
        try:
            read = slimlib.WidthPlan.from_dict(plan.to_dict() | {entry: value})
        except slimlib.SlimlibError as error:
            refused += f"plan: {entry}={value!r} must be" in str(error) or entry.endswith("widths")
        else:
            assert str(read) and repr(read)
            try:
                slimlib.prune(model, read)
            except slimlib.SlimlibError as error:
                assert "plan: " in str(error) or "model: " in str(error)
    assert refused >= 8


def test_a_network_file_with_a_broken_plan_is_named(tmp_path):
    path = tmp_path / "slim.safetensors"
    save_file({"a": torch.zeros(1)}, path, metadata={"slimlib_plan": "{"})
    with pytest.raises(slimlib.SlimlibError, match=r"path='.*slim\.safetensors' holds no plan .* Expecting property name"):
        slimlib.load(path, build=Chain)


def test_what_cannot_be_written_is_said_and_leaves_what_was_there(tmp_path, monkeypatch):
    model = lively_norms(Chain())
    plan = slimlib.plan_widths(model, X, keep_macs=0.5)
    for save in (plan.save, partial(slimlib.save, slimlib.prune(model, plan), plan)):
        with pytest.raises(slimlib.SlimlibError, match=r"path='.*none/file': there is no folder '.*none'; make it first"):
            save(tmp_path / "none" / "file")
        with pytest.raises(slimlib.SlimlibError, match=r"path='.*' cannot be written"):
            save(tmp_path)
    assert not (tmp_path / "none").exists()

    plan.save(tmp_path / "plan.json")
    write = Path.write_text

    def full_disk(path, text, **how):
        write(path, text[:20], **how)
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full_disk)
    with pytest.raises(slimlib.SlimlibError, match=r"cannot be written .*No space left"):
        slimlib.plan_widths(model, X, keep_macs=0.7).save(tmp_path / "plan.json")
    assert slimlib.WidthPlan.load(tmp_path / "plan.json") == plan and [p.name for p in tmp_path.iterdir()] == ["plan.json"]


def test_a_mask_may_hold_infinities():
    """A causal mask is a buffer with -inf in it, and no fault."""
    model = lively_norms(Chain())
    model.register_buffer("mask", torch.full((4, 4), -math.inf).triu(1))
    assert slimlib.plan_widths(model, X, keep_macs=0.5).macs > 0


def test_a_plan_or_criterion_that_does_not_fit_leaves_the_model():
    model = lively_norms(Chain())
    plan = slimlib.plan_widths(model, X, keep_macs=0.5)
    other = copy.deepcopy(model)
    other[0] = nn.Conv2d(3, 9, 3, padding=1)
    classes = copy.deepcopy(model)
    classes[-1] = nn.Linear(10, 7)
    told = "plan: widths={'0': True} must be a whole number for each layer"
    with pytest.raises(slimlib.SlimlibError, match=re.escape(told)):  # as JSON's true is read
        slimlib.WidthPlan.from_dict(plan.to_dict() | {"widths": {"0": True}})
    for network, how, told in ((other, {}, "plan: layer 0 has 9 filters, but the plan was made for 8"),
                               (classes, {}, rf"plan: the model has \d+ parameters, but .* for {plan.full_params}; give"),
                               (half_way_through_training(), {}, "plan: the model has no layer '0'"),
                               (model, {"criterion": "bn"}, "criterion='bn' cannot rank the filters of 9"),
                               (model, {"criterion": "L1"}, "criterion='L1' is not known; use one of l1")):
        before = snapshot(network)
        with pytest.raises(slimlib.SlimlibError, match=told):
            slimlib.prune(network, plan, **how)
        unchanged(before, network)


def test_channels_that_no_norm_reads_are_not_ranked_by_norms():
    """Their scale is not zero: there is none."""
    torch.manual_seed(0)
    network = Net(lambda m, x: m.c(m.b(torch.cat([m.n(m.a(x)[:, :4]), m.a(x)[:, 4:]], 1)).mean((2, 3))),
                  a=nn.Conv2d(1, 8, 3), n=nn.BatchNorm2d(4), b=nn.Conv2d(8, 4, 1), c=nn.Linear(4, 3)).eval()
    (group,) = [g for g in slimlib.trace(network, X[:, :1]).groups if g.name == "a"]
    with pytest.raises(slimlib.SlimlibError, match=r"^criterion='bn' cannot rank .* of a: no .* follows all of them; "):
        slimlib.criteria.bn(network, group)


@pytest.mark.parametrize("given", [None, "scores"])
def test_a_criterion_that_gives_no_scores_is_told_so(given):
    model = small_model()
    plan = slimlib.plan_widths(model, X[:, :1], keep_macs=0.5)
    told = rf"^what criterion '<lambda>' gave for 0 is of type {type(given).__name__}; give \d+ scores, one a channel$"
    with pytest.raises(slimlib.SlimlibError, match=told):
        slimlib.prune(model, plan, criterion=lambda network, group: given)


def test_a_norm_where_the_plan_has_a_layer_is_no_layer():
    model = lively_norms(Chain())
    plan = slimlib.plan_widths(model, X, keep_macs=0.5)
    other = nn.Sequential(nn.BatchNorm2d(3, affine=False), *list(model)[1:])
    with pytest.raises(slimlib.SlimlibError, match=r"^plan: the model has no layer '0'; "):
        slimlib.prune(other, plan)


def test_thin_blames_the_widths_that_cannot_be_and_not_itself():
    """A width that is no multiple of a group's blocks, as only a rule or file of one's own gives it."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 1, groups=4), nn.Flatten(), nn.Linear(8 * 64, 3)).eval()
    x = torch.zeros(1, 3, 8, 8)
    plan = slimlib.width_path(network, x).plan_of(np.array([7, 8]))
    with pytest.raises(slimlib.SlimlibError, match=r"^widths\['0'\]=7 is no multiple of 4"):
        slimlib.thin(network, plan)


def test_a_rule_that_needs_norms_names_itself_where_there_are_none():
    with pytest.raises(slimlib.SlimlibError, match=r"^rule='global_bn' cannot rank the filters of 0: .* skip=\['0'\]"):
        slimlib.plan_widths(small_model(), X[:, :1], rule="global_bn", keep_macs=0.5)


def small_data() -> slimlib.data.Data:
    def images(count: int) -> np.ndarray:
        return np.random.default_rng(0).integers(0, 255, (count, 8, 8, 1), np.uint8)

    return slimlib.data.from_arrays(images(40), np.arange(40) % 4, images(8), np.arange(8) % 4)


def arrays(shape: tuple[int, ...] = (8, 8, 1)) -> list[np.ndarray]:
    """Random images of a shape and their labels, to train and to test on."""
    images = np.random.default_rng(0).integers(0, 255, (40, *shape), np.uint8)
    return [images, np.arange(40) % 4, images[:8], np.arange(8) % 4]


def small_model(outputs: int = 4) -> nn.Module:
    return nn.Sequential(nn.Conv2d(1, 6, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, outputs))


def loader(data: slimlib.data.Data) -> torch.utils.data.DataLoader:
    return torch.utils.data.DataLoader(list(zip(data.train.normalised(), data.train.labels, strict=True)), 4)


RECIPE = slimlib.Recipe(epochs=1, lr=0.1, batch_size=4, warmup=0.0)
OF_ANOTHER_KIND = {
    "a plan's file": (
        lambda m, d: slimlib.prune(m, "plan.json"),
        "^plan is of type str; give what plan_widths returns; WidthPlan.load"),
    "the path before the plan": (
        lambda m, d: slimlib.save(m, "slim.safetensors", "plan.json"),
        "^plan is of type str; give the plan"),
    "the network instead of its maker": (
        lambda m, d: slimlib.load(__file__, build=m),
        "^build is of type Sequential; give a function"),
    "a plan's widths": (lambda m, d: slimlib.thin(m, {"0": 3}), "^plan is of type dict; .*plan_from_widths"),
    "the plan first": (
        lambda m, d: slimlib.prune(slimlib.plan_widths(m, d.example_input, keep_macs=0.5), m),
        "^model is of type Width"),
    "a model's name": (
        lambda m, d: slimlib.plan_widths("resnet18", X, keep_macs=0.5),
        "^model is of type str; give a torch.nn.Module"),
    "a model's weights": (lambda m, d: slimlib.trace(m.state_dict(), X), "^model is of type OrderedDict; give"),
    "a loader to train on": (lambda m, d: slimlib.fit(m, loader(d), RECIPE), "^data is of type DataLoader; give what load_data"),
    "a loader to evaluate on": (lambda m, d: slimlib.evaluate(m, loader(d)), "^data is of type DataLoader; give what load_data"),
    "a loader to scan on": (lambda m, d: slimlib.sensitivity(m, loader(d)), "^data is of type DataLoader; give what load_data"),
    "a loader for statistics": (
        lambda m, d: slimlib.calibrate_batchnorm(m, loader(d)),
        "^split is of type DataLoader; give a split"),
    "images that cannot be chosen from": (
        lambda m, d: slimlib.calibrate_batchnorm(m, InOrder(d.val)),
        "^split is of type InOrder; give a split of the data, such as data.train, .* labels, first, sample and normalised$"),
    "centring by a number": (lambda m, d: slimlib.spectra(m, d.example_input, center=20), "^center=20 must be True or False"),
    "centring of a plan": (
        lambda m, d: slimlib.plan_widths(m, d.example_input, threshold=0.9, center="a"),
        "^center='a' must be True or False"),
    "folding by a number": (
        lambda m, d: slimlib.plan_widths(m, d.example_input, keep_macs=0.7, rule="pca_budgeted", folded=2),
        "^folded=2 must be True or False"),
    "filling by a word": (
        lambda m, d: slimlib.plan_widths(m, d.example_input, keep_macs=0.7, fill="a"),
        "^fill='a' must be True or False"),
    "widths of nothing": (
        lambda m, d: (lambda path: path.plan_of(0 * path.full))(slimlib.width_path(m, d.example_input)),
        r"^widths=\[0.*\] must be whole numbers, one a group, from 1 to \["),
    "no seed of fresh weights": (
        lambda m, d: slimlib.thin(m, slimlib.plan_widths(m, d.example_input, keep_macs=0.7), seed=None),
        "^seed=None must be a whole number from 0"),
    "a number that draws weights": (
        lambda m, d: slimlib.thin(m, slimlib.plan_widths(m, d.example_input, keep_macs=0.7), reset=1),
        "^reset is of type int; give a function that draws"),
    "a file of no name": (
        lambda m, d: slimlib.plan_widths(m, d.example_input, keep_macs=0.7).save(None),
        "^path is of type NoneType; give the n"),
    "a number for a file": (lambda m, d: slimlib.load(1, lambda: m), "^path is of type int; give the name of a file"),
    "weights for a name": (lambda m, d: slimlib.storage.load_weights("m", "w.pt"), "^model is of type str; give a torch"),
    "a list of rules": (
        lambda m, d: slimlib.plan_widths(m, d.example_input, keep_macs=0.7, rule=["pca"]),
        r"^rule=\['pca'\] is not known"),
    "a list of criteria": (
        lambda m, d: slimlib.prune(m, slimlib.plan_widths(m, d.example_input, keep_macs=0.7), ["l1"]),
        r"^criterion=\['l1'\] is not known"),
    "couplings in an array": (
        lambda m, d: slimlib.plan_widths(m, d.example_input, keep_macs=0.7, coupling=np.zeros(2)),
        "^coupling=array.* is not known"),
    "units in an array": (lambda m, d: slimlib.width_path(m, d.example_input, unit=np.zeros(2)), "^unit=array.* is not known"),
    "a seed of a criterion": (
        lambda m, d: slimlib.prune(m, slimlib.plan_widths(m, d.example_input, keep_macs=0.7), "random", seed=-1),
        r"^seed=-1 must be a whole number from 0 to 2\*\*64 - 1$"),
    "a seed of a scan": (
        lambda m, d: slimlib.sensitivity(m, d.train, criterion="random", seed=-1, progress=False),
        r"^seed=-1 must be a whole number from 0"),
    "a seed of the images held out": (
        lambda m, d: slimlib.load_data("fashionmnist-10k", split_seed=-1, limit=20),
        r"^split_seed=-1 must be a whole number from 0 to 2\*\*32 - 1$"),
    "a seed beyond 32 bits": (
        lambda m, d: slimlib.load_data("fashionmnist-10k", split_seed=2**32, limit=20),
        r"^split_seed=4294967296 must be a whole number from 0 to 2\*\*32 - 1$"),
    "a seed of one's own images": (
        lambda m, d: slimlib.data.from_arrays(*4 * [np.zeros(0)], split_seed=-1),
        r"^split_seed=-1 must be a whole number from 0"),
    "whole data for statistics": (lambda m, d: slimlib.calibrate_batchnorm(m, d), "^split is of type Data; give a split"),
    "a loader to compare on": (
        lambda m, d: slimlib.compare(m, loader(d), ["pca"], RECIPE, keep_macs=0.5),
        "^data is of type DataLo"),
    "a recipe in a dict": (
        lambda m, d: slimlib.fit(m, d, {"epochs": 1, "lr": 0.1}),
        "^recipe is of type dict; give a slimlib.Recipe"),
    "a number of seeds": (
        lambda m, d: slimlib.compare(m, d, ["pca"], RECIPE, keep_macs=0.5, seeds=3),
        "^seeds is of type int; .*range"),
    "a device of another name": (
        lambda m, d: slimlib.data.from_arrays(*arrays(), device="gpu"),
        "^device='gpu' cannot be used here: Expected one of cpu, .*; give 'cpu', or leave device out$"),
    "a GPU that is not here": (
        lambda m, d: slimlib.load_data("fashionmnist-10k", limit=20, device="cuda:77"),
        "^device='cuda:77' cannot be used here: .*; give 'cpu', or leave device out$"),
    "a list of devices": (
        lambda m, d: slimlib.data.from_arrays(*arrays(), device=["cpu"]),
        r"^device=\['cpu'\] cannot be used here: "),
    "channels first": (
        lambda m, d: slimlib.data.from_arrays(*arrays((3, 12, 12))),
        r"^x_train of shape \(40, 3, 12, 12\) has its channels first; give \(N, H, W, C\): x\.transpose\(0, 2, 3, 1\)$"),
    "nothing to learn from": (
        lambda m, d: slimlib.data.from_arrays(*arrays(), val_fraction=0.999),
        "^val_fraction=0.999 holds out all 40 training images, and none is left to learn from: give less$"),
    "nothing of a known set to learn from": (
        lambda m, d: slimlib.load_data("fashionmnist-10k", limit=20, val_fraction=0.99),
        "^val_fraction=0.99 holds out all 20 training images"),
    "a spread that is no number": (
        lambda m, d: slimlib.data.with_normalisation(d, [0.5], [math.nan]),
        r"^mean=\[0\.5\] and std=\[nan\] must hold one number .* each std positive, and all finite$"),
    "a spread without bounds": (lambda m, d: slimlib.data.with_normalisation(d, [0.5], [math.inf]), "and all finite$"),
    "a mean that is no number": (lambda m, d: slimlib.data.with_normalisation(d, [math.nan], [0.5]), "and all finite$"),
    "a name for statistics": (lambda m, d: slimlib.calibrate_batchnorm("m", d.train), "^model is of type str; give a torch.nn"),
    "part of an image for statistics": (
        lambda m, d: slimlib.calibrate_batchnorm(m, d.train, images=2.5),
        "^images is of type float; give a whole number of them, or None for all$"),
    "spectra in a list": (
        lambda m, d: slimlib.widths_at([np.ones(3)], 0.9),
        "^values is of type list; give what slimlib.spectra returns: the eigenvalues of each group by name$"),
    "depth in words": (lambda m, d: slimlib.models.cifar_resnet("56"), r"^depth='56' must be a whole number, 6 n \+ 2: 8, 14, "),
    "depth as a real number": (lambda m, d: slimlib.models.cifar_resnet(8.0), r"^depth=8\.0 must be a whole number, 6 n \+ 2"),
    "no seeds": (
        lambda m, d: slimlib.compare(m, d, ["pca"], RECIPE, keep_macs=0.5, seeds=[]),
        "^seeds is empty: give at least one"),
    "itself as a teacher": (lambda m, d: slimlib.fit(m, d, RECIPE, teacher=m), "^teacher is the model itself"),
    "a frozen model": (lambda m, d: slimlib.fit(m.requires_grad_(False), d, RECIPE), "^model: no parameter requires a gradient"),
    "half precision": (
        lambda m, d: slimlib.fit(m.half(), d, RECIPE),
        r"^model: 0.weight is of torch.float16; train it as model.float\(\)"),
    "too few outputs": (
        lambda m, d: slimlib.fit(small_model(3), d, RECIPE),
        "^model returns 3 logits, but the data have 4 classes"),
    "an infinite step": (lambda m, d: slimlib.Recipe(epochs=1, lr=math.inf), "^lr=inf must be positive, .* and both finite"),
    "a decay without bounds": (
        lambda m, d: slimlib.Recipe(epochs=1, lr=0.1, weight_decay=math.inf),
        "^lr=0.1 must.* both finite"),
}  # fmt: skip


@pytest.mark.parametrize("seed", [0, np.int64(7), 2**32, 2**64 - 1])
def test_seeds_are_whole_numbers_of_any_kind(seed):
    model, data = small_model(), small_data()
    for rule in ("random", "pca_at_init"):
        plan = slimlib.plan_widths(model, data.example_input, keep_macs=0.7, rule=rule, seed=seed)
        slimlib.prune(model, plan, "random", seed=seed)


@pytest.mark.parametrize("case", OF_ANOTHER_KIND)
def test_what_is_of_another_kind_is_named_with_what_to_give(case):
    call, told = OF_ANOTHER_KIND[case]
    with pytest.raises(slimlib.SlimlibError, match=told):
        call(small_model(), small_data())


def test_a_model_that_is_frozen_in_part_is_trained():
    model, data = small_model(), small_data()
    first = model[0].requires_grad_(False).weight.clone()
    before = model[4].weight.clone()
    slimlib.fit(model, data, RECIPE, progress=False)
    assert torch.equal(model[0].weight, first) and not torch.equal(model[4].weight, before)


@pytest.mark.parametrize("name, shape", [("lenet5", (1, 1, 28, 28)), ("vgg16", (1, 3, 32, 32)), ("resnet20", (1, 3, 32, 32))])
def test_the_least_share_that_is_named_can_be_asked_for_and_no_remedy_is_idle(name, shape):
    torch.manual_seed(0)
    model, x = slimlib.models.build(name, 10, shape[1]), torch.zeros(shape)
    for unit in ("keep_macs", "keep_params"):
        with pytest.raises(slimlib.SlimlibError, match="cannot be reached") as refused:
            slimlib.plan_widths(model, x, **{unit: 1e-7})
        assert "coupling='joint'" not in str(refused.value), "which slims no more layers here"
        least = float(re.search(r"keeps (\S+), as", str(refused.value))[1])
        assert 0 < least < 0.1 and slimlib.plan_widths(model, x, **{unit: least}).widths


@pytest.mark.parametrize("rule", ["pca", "pca_budgeted", "global_l1"])
@pytest.mark.parametrize("beyond", [-1, 0, 50])
def test_a_step_that_is_not_on_the_path_is_refused(rule, beyond):
    path = slimlib.width_path(half_way_through_training().eval(), X, rule=rule)
    step = beyond if beyond < 0 else len(path) + beyond
    with pytest.raises(slimlib.SlimlibError, match=f"step={step} is not on the path, whose steps are 0 to {len(path) - 1}"):
        path.widths(step)


def test_a_threshold_is_not_filled():
    with pytest.raises(slimlib.SlimlibError, match=r"fill=True with threshold=0\.8: .* give keep_macs"):
        slimlib.plan_widths(half_way_through_training(), X, threshold=0.8, fill=True)


@pytest.mark.parametrize("width, told", [
    (999, r"widths\['inner'\]=999 must be .* from 1 to the full width, which is"), (0, r"widths\['inner'\]=0 must be"),
    (None, r"widths\['inner'\]=None must be"), (1, r"params=\d+ do not belong to its widths, .*plan_from_widths"),
])  # fmt: skip
def test_an_edited_plan_file_is_refused(tmp_path, width, told):
    model = half_way_through_training()
    slimlib.plan_widths(model, X, keep_macs=0.7).save(tmp_path / "plan.json")
    edited = json.loads((tmp_path / "plan.json").read_text())
    edited["widths"] |= {"inner": width}
    if width is None:
        del edited["widths"]["inner"]
    (tmp_path / "plan.json").write_text(json.dumps(edited))
    with pytest.raises(slimlib.SlimlibError, match=told):
        slimlib.prune(model, slimlib.WidthPlan.load(tmp_path / "plan.json"))


@pytest.mark.parametrize("call", [
    lambda model, data: slimlib.fit(model, data, slimlib.Recipe(epochs=1, lr=0.1)), slimlib.evaluate, slimlib.sensitivity,
    lambda model, data: slimlib.compare(model, data, ["pca", "uniform"], slimlib.Recipe(epochs=1, lr=0.1), keep_macs=0.5),
], ids=["fit", "evaluate", "sensitivity", "compare"])  # fmt: skip
def test_what_is_no_network_is_named(call):
    with pytest.raises(slimlib.SlimlibError, match=r"model is of type str; give a torch\.nn\.Module"):
        call("resnet", slimlib.load_data("fashionmnist-10k", limit=20))


class Told(nn.Module):
    """A network that wraps its logits."""

    def forward(self, x):
        return {"logits": x.flatten(1)[:, :10]}


@pytest.mark.parametrize("teacher, told", [
    ("resnet", "teacher is of type str"), (Told(), "teacher returns a dict, where logits"),
    (nn.Sequential(nn.Flatten(), nn.Linear(784, 7)), "teacher returns 7 logits and the student 10"),
])  # fmt: skip
@pytest.mark.parametrize("augment", ["none", "crop"])
def test_a_teacher_that_cannot_teach_is_named(teacher, told, augment):
    student, data = nn.Sequential(nn.Flatten(), nn.Linear(784, 10)), slimlib.load_data("fashionmnist-10k", limit=40)
    recipe = slimlib.Recipe(epochs=1, lr=0.1, batch_size=10, augment=augment)
    with pytest.raises(slimlib.SlimlibError, match=told):
        slimlib.fit(student, data, recipe, teacher=teacher, progress=False)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_other_types_than_float32_are_not_trained_but_measured(dtype):
    torch.manual_seed(0)
    model, data = slimlib.models.vgg_small().to(dtype), slimlib.load_data("fashionmnist-10k", limit=40)
    with pytest.raises(slimlib.SlimlibError, match=rf"is of {dtype}; train it as model\.float\(\)"):
        slimlib.fit(model, data, slimlib.Recipe(epochs=1, lr=0.1, batch_size=10), progress=False)
    table = slimlib.sensitivity(model, data.test, [0.5], progress=False)
    assert table["accuracy"].iloc[0] == slimlib.evaluate(model, data.test) and len(table) == 2 * table["group"].nunique()
