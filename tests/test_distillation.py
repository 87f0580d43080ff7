"""Distillation losses against plain NumPy in float64, and against torchdistill's own implementations of the papers."""

import copy
import gc
import weakref
from collections import OrderedDict

import numpy as np
import pytest
import torch
from torch import nn

import slimlib
from slimlib import lesson, models
from slimlib._torchvision import import_torchvision
from slimlib.distillation import Distiller, attention_loss, hint_loss, kd_loss, recorded_features
from slimlib.fingerprint import fingerprint
from tests.conftest import Chain, lively_norms
from tests.test_user_networks import Net

TEMPERATURES = (1.0, 2.5, 4.0, 20.0)


@pytest.fixture(scope="module")
def reference():
    """torchdistill's losses by name, and its own recorder of what modules put out."""
    import_torchvision()  # torchdistill imports torchvision, which may need its operators declared first
    from torchdistill.core.forward_hook import ForwardHookManager
    from torchdistill.losses import high_level, mid_level

    names = {name: getattr(mid_level, name) for name in ("KDLoss", "ATLoss", "SimpleLossWrapper")}
    return {**names, "WeightedSumLoss": high_level.WeightedSumLoss, "ForwardHookManager": ForwardHookManager}


def softmax(x):
    e = np.exp(x - x.max(1, keepdims=True))
    return e / e.sum(1, keepdims=True)


def test_one_layer_may_be_named_without_a_list():
    assert slimlib.Distill(hint_weight=1.0, hint_layers="34") == slimlib.Distill(hint_weight=1.0, hint_layers=("34",))


def test_kd_loss_equals_a_hand_written_reference():
    rng = np.random.default_rng(0)
    student, teacher = rng.normal(size=(6, 10)), 3 * rng.normal(size=(6, 10))
    for temperature in (1.0, 4.0):
        p, q = softmax(teacher / temperature), softmax(student / temperature)
        want = temperature**2 * (p * np.log(p / q)).sum(1).mean()
        got = kd_loss(torch.from_numpy(student), torch.from_numpy(teacher), temperature)
        np.testing.assert_allclose(float(got), want, rtol=1e-10)
    assert abs(float(kd_loss(torch.from_numpy(teacher), torch.from_numpy(teacher), 2.0))) < 1e-12


def test_attention_loss_equals_a_hand_written_reference():
    rng = np.random.default_rng(1)
    maps = []
    student, teacher = rng.normal(size=(3, 5, 4, 4)), rng.normal(size=(3, 9, 4, 4))
    for features in (student, teacher):
        flat = (features**2).mean(1).reshape(3, -1)
        maps.append(flat / np.linalg.norm(flat, axis=1, keepdims=True))
    want = ((maps[0] - maps[1]) ** 2).mean()
    got = attention_loss(torch.from_numpy(student), torch.from_numpy(teacher))
    np.testing.assert_allclose(float(got), want, rtol=1e-9)


def test_hint_loss_equals_a_hand_written_reference():
    """Romero et al.'s regressor is a 1 x 1 convolution: a matrix product over the channels of every position."""
    rng = np.random.default_rng(2)
    student, teacher = rng.normal(size=(3, 5, 4, 4)), rng.normal(size=(3, 9, 4, 4))
    matrix, bias = rng.normal(size=(9, 5)), rng.normal(size=9)
    regressor = nn.Conv2d(5, 9, 1).double()
    with torch.no_grad():
        regressor.weight.copy_(torch.from_numpy(matrix)[..., None, None])
        regressor.bias.copy_(torch.from_numpy(bias))
    want = ((np.einsum("oc,nchw->nohw", matrix, student) + bias[:, None, None] - teacher) ** 2).mean()
    got = hint_loss(regressor(torch.from_numpy(student)), torch.from_numpy(teacher))
    np.testing.assert_allclose(float(got.detach()), want, rtol=1e-10)


@pytest.mark.parametrize("temperature", TEMPERATURES)
@pytest.mark.parametrize("kd_weight", [0.1, 0.5, 0.9])
def test_labels_and_soft_targets_equal_torchdistill(reference, temperature, kd_weight):
    torch.manual_seed(0)
    logits, teacher = torch.randn(8, 10).double().requires_grad_(), 3 * torch.randn(8, 10).double()
    labels = torch.randint(10, (8,))
    theirs = reference["KDLoss"](".", "output", ".", "output", temperature, alpha=1 - kd_weight)
    want = theirs({".": {"output": logits}}, {".": {"output": teacher}}, labels)
    got = (1 - kd_weight) * nn.functional.cross_entropy(logits, labels) + kd_weight * kd_loss(logits, teacher, temperature)
    same_value_and_gradient(got, want, [logits], rtol=1e-10)


@pytest.mark.parametrize("shape", [(4, 3, 5, 5), (2, 16, 8, 6)])
def test_attention_equals_torchdistill(reference, shape):
    torch.manual_seed(1)
    student = torch.randn(shape).double().requires_grad_()
    teacher = torch.randn(shape[0], 2 * shape[1], *shape[2:]).double()
    side = {"io": "output", "path": "a"}
    theirs = reference["ATLoss"]({"pair": {"student": side, "teacher": side}}, mode="code")
    want = theirs({"a": {"output": student}}, {"a": {"output": teacher}})
    same_value_and_gradient(attention_loss(student, teacher), want, [student], rtol=1e-10)


KINDS = {
    "soft targets": slimlib.Distill(kd_weight=0.7, temperature=3.0),
    "hints": slimlib.Distill(kd_weight=0.0, hint_weight=0.5, hint_layers=("1", "5")),
    "attention": slimlib.Distill(kd_weight=0.0, attention_weight=200.0, attention_layers=("2", "4")),
    "their sum": slimlib.Distill(kd_weight=0.7, temperature=3.0, hint_weight=0.5, hint_layers=("1", "5"),
                                 attention_weight=200.0, attention_layers=("2", "4")),
}


@pytest.mark.parametrize("kind", KINDS)
def test_the_whole_loss_equals_torchdistill(reference, kind):
    """A student of half the multiply-adds and its teacher, both watched by torchdistill's hooks, against our Distiller."""
    how = KINDS[kind]
    torch.manual_seed(2)
    teacher = lively_norms(Chain())
    x, labels = torch.randn(6, 3, 16, 16), torch.randint(5, (6,))
    student = slimlib.thin(teacher, slimlib.plan_widths(teacher, x, keep_macs=0.5))
    distiller = Distiller(student, teacher, how, x)
    with recorded_features(student, distiller.layers) as ours, recorded_features(teacher, distiller.layers) as theirs:
        logits, answer = student(x), teacher(x).detach()
        got = distiller(logits, nn.functional.cross_entropy(logits, labels), answer, ours, theirs)
    want = torchdistill_loss(reference, student, teacher, distiller, how, x, labels)
    same_value_and_gradient(got, want, [*student.parameters(), *distiller.parameters()], rtol=1e-4)


def test_one_step_of_fit_follows_torchdistills_gradient(reference, two_threads):
    """What training does with the loss: SGD without momentum on one batch of all images moves by -lr times the gradient."""
    how = slimlib.Distill(kd_weight=0.7, temperature=3.0, attention_weight=200.0, attention_layers=("relu2", "relu5"))
    data = slimlib.load_data("fashionmnist-10k", limit=100, device="cpu")
    torch.manual_seed(3)
    teacher = lively_norms(slimlib.models.vgg_small())
    student = slimlib.thin(teacher, slimlib.plan_widths(teacher, data.example_input, keep_macs=0.5))
    before = copy.deepcopy(student).train()
    recipe = slimlib.Recipe(epochs=1, lr=0.05, batch_size=len(data.train), momentum=0.0, nesterov=False, weight_decay=0.0,
                            schedule="constant", warmup=0.0, precision="float32")
    slimlib.fit(student, data, recipe, teacher=teacher, distill=how, progress=False, validate="none")
    loss = torchdistill_loss(reference, before, teacher, None, how, data.train.normalised(), data.train.labels)
    for (name, p), g, q in zip(before.named_parameters(), torch.autograd.grad(loss, list(before.parameters())),
                               student.parameters(), strict=True):
        assert g.abs().max() > 1e-5, f"{name} is not trained by this loss"
        torch.testing.assert_close((p - q) / recipe.lr, g, rtol=2e-3, atol=2e-3 * float(g.abs().max()), msg=name)


@pytest.mark.parametrize("how, told", [
    ({"kd_weight": 1.5}, r"kd_weight=1\.5 must lie in \[0, 1\]"), ({"kd_weight": -0.1}, "kd_weight=-0.1"),
    ({"temperature": 0}, "temperature=0 must be positive"), ({"temperature": float("nan")}, "temperature=nan"),
    ({"hint_weight": 1.0}, "hint_weight=1.0 and hint_layers"), ({"hint_layers": ("1",)}, "hint_weight=0.0 and hint_layers"),
    ({"attention_weight": -1.0, "attention_layers": ("1",)}, "attention_weight=-1.0 and attention_layers"),
    ({"hint_layers": None}, "^hint_layers=None must be names of modules, such as "),
    ({"hint_weight": 1.0, "hint_layers": (3,)}, r"^hint_layers=\(3,\) must be names of modules, such as "),
    ({"attention_weight": 1.0, "attention_layers": 5}, "^attention_layers=5 must be names of modules"),
])  # fmt: skip
def test_what_cannot_be_taught_is_refused(how, told):
    with pytest.raises(slimlib.SlimlibError, match=told):
        slimlib.Distill(**how)


def test_a_look_at_the_shapes_leaves_both_networks_as_they_were():
    torch.manual_seed(0)
    networks = [lively_norms(Chain()).train() for _ in range(2)]
    before = [copy.deepcopy(network.state_dict()) for network in networks]
    Distiller(*networks, slimlib.Distill(hint_weight=1.0, hint_layers=("4",)), torch.randn(2, 3, 16, 16))
    for network, state in zip(networks, before, strict=True):
        assert all(torch.equal(v, state[k]) for k, v in network.state_dict().items()) and network.training


def test_features_are_those_that_a_layer_wrote_whatever_is_done_to_them_in_place():
    model = nn.Sequential(OrderedDict(norm=nn.BatchNorm2d(3), relu=nn.ReLU(inplace=True)))
    x = torch.randn(2, 3, 4, 4, requires_grad=True)
    with recorded_features(model, ["norm", "relu"]) as features:
        model(x * 1)
    assert features["norm"].min() < 0 == features["relu"].min()
    assert torch.equal(features["norm"].relu(), features["relu"])
    features["norm"].sum().backward()
    assert x.grad is not None


def test_regressors_of_hints_learn_with_the_student(monkeypatch):
    made = []

    class Watched(Distiller):
        def __init__(self, *args):
            super().__init__(*args)
            made.append((self, copy.deepcopy(self.regressors.state_dict())))

    monkeypatch.setattr(lesson, "Distiller", Watched)
    data = slimlib.load_data("fashionmnist-10k", limit=50, device="cpu")
    teacher, student = (slimlib.models.vgg_small() for _ in range(2))
    how = slimlib.Distill(hint_weight=1.0, hint_layers=("conv2",))
    recipe = slimlib.Recipe(epochs=1, lr=0.1, batch_size=15, precision="float32")
    slimlib.fit(student, data, recipe, teacher=teacher, distill=how, progress=False, validate="none")
    ((distiller, before),) = made
    assert all((v - before[k]).abs().max() > 1e-3 for k, v in distiller.regressors.state_dict().items())


def test_a_hint_layer_may_be_called_as_a_method_of_torchs_is():
    """As attention's layers are: `keys`, `values`."""
    data = slimlib.load_data("fashionmnist-10k", limit=100, device="cpu")
    networks = [Net(lambda m, x: m.c(m.keys(x).relu().mean((2, 3))), keys=nn.Conv2d(1, 4, 3), c=nn.Linear(4, 10))
                for _ in range(2)]
    how = slimlib.Distill(hint_weight=1.0, hint_layers=("keys",))
    slimlib.fit(networks[0], data, slimlib.Recipe(1, 0.01, batch_size=40), networks[1], how, progress=False, validate="none")


def test_an_empty_container_as_teacher_is_no_absent_one():
    data = slimlib.load_data("fashionmnist-10k", limit=100, device="cpu")
    with pytest.raises(slimlib.SlimlibError, match="teacher"):
        slimlib.fit(models.build("lenet5", 10, 1), data, slimlib.Recipe(1, 0.01, batch_size=40), nn.Sequential(),
                    progress=False, validate="none")  # fmt: skip


def test_features_that_do_not_match_are_refused_by_layer():
    x, student = torch.randn(2, 3, 16, 16), nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(784, 5))
    teacher = nn.Sequential(nn.Conv2d(3, 8, 3, stride=2), nn.Flatten(), nn.Linear(392, 5))
    refused = {"0": "layer '0' gives .* in the student .* equal H and W", "2": "layer '2' gives", "9": "no layer '9'"}
    for layer, told in refused.items():
        with pytest.raises(slimlib.SlimlibError, match=told):
            Distiller(student, teacher, slimlib.Distill(hint_weight=1.0, hint_layers=(layer,)), x)
    idle = nn.Sequential(*student)
    idle.register_module("spare", nn.Conv2d(3, 4, 3))
    idle.forward = lambda x: student(x)
    with pytest.raises(slimlib.SlimlibError, match="layer 'spare' of the teacher gives no tensor"):
        Distiller(nn.Sequential(OrderedDict(spare=student)), idle, slimlib.Distill(hint_weight=1.0, hint_layers=("spare",)), x)
    data = slimlib.load_data("fashionmnist-10k", limit=100, device="cpu")
    model, how = slimlib.models.vgg_small(), slimlib.Distill(attention_weight=1.0, attention_layers=("relu2",))
    with pytest.raises(slimlib.SlimlibError, match="compile=True cannot be combined with hints or attention"):
        slimlib.fit(model, data, slimlib.Recipe(1, 0.1, batch_size=10, compile=True), teacher=copy.deepcopy(model), distill=how,
                    progress=False)


def torchdistill_loss(reference, student, teacher, distiller, how, x, labels):
    """The same sum, put together from torchdistill's parts: its hooks, KDLoss, SimpleLossWrapper(MSELoss) and ATLoss."""
    outputs = {}
    for who, model in (("student", student), ("teacher", teacher)):
        watch = reference["ForwardHookManager"](torch.device("cpu"))
        for name in {*how.hint_layers, *how.attention_layers}:
            watch.add_hook(model, name, requires_input=False, requires_output=True)
        answer = model(x)
        outputs[who] = watch.pop_io_dict() | {".": {"output": answer}}
        watch.clear()
    outputs["teacher"] = {k: {"output": v["output"].detach()} for k, v in outputs["teacher"].items()}
    if how.kd_weight:
        kd = reference["KDLoss"](".", "output", ".", "output", how.temperature, alpha=1 - how.kd_weight)
        terms = {"kd": {"criterion": kd, "weight": 1.0}}
    else:
        labelled = {"input": {"is_from_teacher": False, "module_path": ".", "io": "output"}, "target": {"uses_label": True}}
        terms = {"ce": {"criterion": reference["SimpleLossWrapper"](nn.CrossEntropyLoss(), **labelled), "weight": 1.0}}
    for name in how.hint_layers:
        regressed = dict(zip(how.hint_layers, distiller.regressors, strict=True))[name](outputs["student"][name]["output"])
        outputs["student"][f"regressed {name}"] = {"output": regressed}
        sides = {"input": {"is_from_teacher": False, "module_path": f"regressed {name}", "io": "output"},
                 "target": {"is_from_teacher": True, "module_path": name, "io": "output"}}
        hint = reference["SimpleLossWrapper"](nn.MSELoss(), **sides)
        terms[f"hint {name}"] = {"criterion": hint, "weight": how.hint_weight}
    if how.attention_layers:
        pairs = {name: {side: {"io": "output", "path": name} for side in ("student", "teacher")}
                 for name in how.attention_layers}
        terms["attention"] = {"criterion": reference["ATLoss"](pairs, mode="code"), "weight": how.attention_weight}
    return reference["WeightedSumLoss"](sub_terms=terms)(outputs, {}, labels)


def same_value_and_gradient(got, want, inputs, rtol):
    assert float(want.detach()) > 0
    torch.testing.assert_close(got, want, rtol=rtol, atol=0)
    for a, b in zip(torch.autograd.grad(got, inputs), torch.autograd.grad(want, inputs), strict=True):
        torch.testing.assert_close(a, b, rtol=rtol, atol=rtol * float(b.abs().max()))


class Versioned(torch.nn.Conv2d):
    """Tells, beside its tensors, what is none, as a layer of quantisation does."""

    version = 1

    def get_extra_state(self):
        return {"version": self.version}

    def set_extra_state(self, state):
        self.version = state["version"]


def teacher_with_extra_state():
    return torch.nn.Sequential(Versioned(1, 4, 5), torch.nn.AdaptiveAvgPool2d(2), torch.nn.Flatten(), torch.nn.Linear(16, 10))


def test_a_teacher_may_have_state_that_is_no_tensor():
    data, teacher = slimlib.load_data("fashionmnist-10k", limit=200), teacher_with_extra_state()
    recipe = slimlib.Recipe(epochs=1, lr=0.01, batch_size=60)
    assert slimlib.fit(teacher_with_extra_state(), data, recipe, teacher=teacher, progress=False).steps == 3
    before = fingerprint(teacher)
    teacher[0].version = 2
    assert fingerprint(teacher) != before


def test_what_a_teacher_answered_does_not_keep_the_images_alive():
    data, teacher = slimlib.load_data("fashionmnist-10k", limit=200), models.lenet5()
    slimlib.fit(models.lenet5(), data, slimlib.Recipe(epochs=1, lr=0.001, batch_size=60), teacher=teacher, progress=False)
    images = weakref.ref(data.train)
    del data
    gc.collect()
    assert images() is None


@pytest.mark.parametrize("how, told", [
    ({"kd_weight": "0.9"}, "kd_weight='0.9' must be a finite number"), ({"temperature": float("inf")}, "temperature=inf must be"),
])  # fmt: skip
def test_numbers_that_are_none_are_refused(how, told):
    with pytest.raises(slimlib.SlimlibError, match=told):
        slimlib.Distill(**how)


def test_a_loss_of_another_kind_is_refused():
    data = slimlib.load_data("fashionmnist-10k", limit=200)
    with pytest.raises(slimlib.SlimlibError, match="distill is of type dict; give a"):
        slimlib.fit(models.lenet5(), data, slimlib.Recipe(epochs=1, lr=0.01), teacher=models.lenet5(), distill={"kd_weight": 0.5})
