"""Training: the same seed gives the same network, nothing leaks, and the numbers are those of plain loops."""

import copy
import dataclasses
import shutil
import socket
from contextlib import contextmanager

import numpy as np
import pytest
import torch
from scipy import stats
from torch import multiprocessing
from torch.nn import functional as F

import slimlib
from slimlib import models
from slimlib.batches import Batches
from slimlib.distillation import kd_loss
from slimlib.distributed import World
from slimlib.evaluation import calibrate_batchnorm
from slimlib.modes import in_channels_last
from slimlib.precision import resolve_precision
from slimlib.randomness import seeded

RECIPE = slimlib.Recipe(epochs=2, lr=0.05, batch_size=50)
# LeNet-5 has no BatchNorm and diverges at ten times this rate
GENTLE = slimlib.Recipe(epochs=2, lr=0.005, batch_size=50, precision="float32")
HINTS = slimlib.Distill(kd_weight=0.0, hint_weight=1.0, hint_layers=("conv2",))


@pytest.fixture(scope="module")
def data():
    return slimlib.load_data("fashionmnist-10k", limit=600)


def network(seed=0, name="vgg_small"):
    torch.manual_seed(seed)
    return models.build(name, 10, 1)


def test_the_same_seed_gives_the_same_network(data):
    trained = []
    for seed in (3, 3, 4):
        model = network()
        slimlib.fit(model, data, slimlib.Recipe(epochs=1, lr=0.05, batch_size=50, augment="crop_flip"), seed=seed, progress=False)
        trained.append(torch.cat([p.flatten() for p in model.parameters()]))
    assert torch.equal(trained[0], trained[1]) and not torch.equal(trained[0], trained[2])


def test_global_random_state_is_left_alone(data):
    model, state = network(), torch.random.get_rng_state()
    slimlib.fit(model, data, RECIPE, progress=False)
    assert torch.equal(torch.random.get_rng_state(), state)


def test_a_seed_reaches_every_device_in_use_and_is_taken_back(monkeypatch):
    """CUDA is played by a list of numbers, one a device."""
    states, asleep = [11, 22], []
    with seeded(5):
        drawn = torch.rand(3)
    assert torch.equal(drawn, torch.rand(3, generator=torch.Generator().manual_seed(5)))
    monkeypatch.setattr(torch.cuda, "manual_seed_all", asleep.append)
    with seeded(5):
        pass
    assert not asleep, "a CUDA that is not in use was given a seed for later"
    for name, fake in {
        "is_initialized": lambda: True, "device_count": lambda: 2, "get_rng_state": lambda device: states[device],
        "set_rng_state": lambda state, device: states.__setitem__(device, state),
        "manual_seed_all": lambda seed: states.__setitem__(slice(None), [seed, seed]),
    }.items():  # fmt: skip
        monkeypatch.setattr(torch.cuda, name, fake)
    before = torch.random.get_rng_state()
    with seeded(7):
        assert states == [7, 7]
    assert states == [11, 22] and torch.equal(torch.random.get_rng_state(), before)


def test_the_generator_of_apples_gpu_goes_on_from_where_it_was(monkeypatch):
    state = [11]
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    for name, fake in {"get_rng_state": lambda: state[0], "set_rng_state": lambda to: state.__setitem__(0, to),
                       "manual_seed": lambda seed: state.__setitem__(0, seed)}.items():  # fmt: skip
        monkeypatch.setattr(torch.mps, name, fake)
    with pytest.raises(KeyError), seeded(7):
        assert state == [7]
        raise KeyError
    assert state == [11]


@pytest.mark.parametrize("draw", ["fresh weights", "training"])
def test_no_device_is_left_with_another_seed(data, monkeypatch, draw):
    monkeypatch.setattr(torch, "manual_seed", lambda seed: pytest.fail("torch.manual_seed seeds what it does not put back"))
    if draw == "training":
        slimlib.fit(models.vgg_small(), data, slimlib.Recipe(epochs=1, lr=0.05), progress=False)
    else:
        slimlib.fresh_copy(models.vgg_small(), seed=1)


@pytest.mark.parametrize("how", [{}, {"nesterov": False, "momentum": 0.5, "label_smoothing": 0.2, "schedule": "cosine"}])
def test_fit_equals_a_plain_loop(data, how):
    """Momentum SGD written out, over the same batches, gives the same weights and losses."""
    recipe = slimlib.Recipe(epochs=2, lr=0.005, batch_size=100, weight_decay=1e-3, precision="float32", **how)
    ours, plain = network(name="lenet5"), network(name="lenet5")
    history = slimlib.fit(ours, data, recipe, seed=1, progress=False, validate="none")
    velocity = [torch.zeros_like(p) for p in plain.parameters()]
    batches, steps, losses = Batches(data.train, 100, "none", 1), 2 * (len(data.train) // 100), []
    for epoch in range(2):
        for step, (_, images, labels) in enumerate(batches, start=epoch * steps // 2):
            surprise = -plain(images).log_softmax(1)
            share = recipe.label_smoothing  # goes to all classes alike
            loss = ((1 - share) * surprise.gather(1, labels[:, None])[:, 0] + share * surprise.mean(1)).mean()
            losses.append(loss.item())
            gradients = torch.autograd.grad(loss, list(plain.parameters()))
            with torch.no_grad():
                for p, g, v in zip(plain.parameters(), gradients, velocity, strict=True):
                    g = g + 1e-3 * p
                    v.mul_(recipe.momentum).add_(g)
                    p -= recipe.learning_rate(step, steps) * (g + recipe.momentum * v if recipe.nesterov else v)
    np.testing.assert_allclose(history.loss, np.reshape(losses, (2, -1)).mean(1), rtol=1e-4)
    for a, b in zip(ours.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-5)


def test_training_never_looks_at_test_images(data):
    """There are none to look at: what is validated on are the held-out images, as often as is asked for."""
    blind, recipe = dataclasses.replace(data, test=None), dataclasses.replace(GENTLE, epochs=3)
    for validate, times in (("epoch", 3), ("last", 1), ("none", 0)):
        model = network(name="lenet5")
        history = slimlib.fit(model, blind, recipe, progress=False, validate=validate)
        assert len(history.val_accuracy) == times and len(history.loss) == 3 and not model.training
        if times:
            assert history.val_accuracy[-1] == slimlib.evaluate(model, data.val)
    nothing = dataclasses.replace(data, val=data.val.first(0))
    with pytest.raises(slimlib.SlimlibError, match=r"validate='last' needs held-out images: .* val_fraction > 0"):
        slimlib.fit(model, nothing, recipe, progress=False)


def test_validation_takes_as_many_images_at_a_time_as_is_asked(data):
    trained = []
    for how, want in (({}, [60]), ({"eval_batch_size": 25}, [25, 25, 10])):
        model, sizes = network(name="lenet5"), []
        model.register_forward_hook(lambda m, given, out, sizes=sizes: None if m.training else sizes.append(len(out)))
        slimlib.fit(model, data, GENTLE, progress=False, **how)
        trained.append(torch.cat([p.flatten() for p in model.parameters()]))
        assert sizes == want
    assert torch.equal(*trained)
    with pytest.raises(slimlib.SlimlibError, match=r"^eval_batch_size=0 must be a whole number of images, at least 1$"):
        slimlib.fit(model, data, GENTLE, progress=False, validate="none", eval_batch_size=0)


def watched(model):
    """The images that a model is asked about, batch by batch."""
    seen = []
    model.register_forward_pre_hook(lambda module, args: seen.append(args[0].detach().clone()))
    return seen


def linear(seed=0):
    torch.manual_seed(seed)
    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(784, 10))


@pytest.mark.parametrize("augment", ["none", "crop", "crop_flip"])
def test_student_and_teacher_are_shown_the_same_augmented_images(data, augment):
    recipe = slimlib.Recipe(epochs=2, lr=0.01, batch_size=90, augment=augment, precision="float32")
    student, teacher = linear(0), linear(1)
    shown, asked = watched(student), watched(teacher)
    slimlib.fit(student, data, recipe, teacher=teacher, seed=5, progress=False, validate="none")
    batches = Batches(data.train, 90, augment, 5)
    want = [images for _ in range(2) for _, images, _ in batches]
    assert len(want) == 12 and all(torch.equal(a, b) for a, b in zip(shown[-12:], want, strict=True))
    if augment == "none":  # asked once for each image, in their order
        assert torch.equal(torch.cat(asked[-6:]), data.train.normalised())
    else:
        assert all(torch.equal(a, b) for a, b in zip(asked[-12:], want, strict=True))


@pytest.mark.parametrize("augment", ["none", "crop"])
def test_a_student_is_told_what_the_teacher_says_of_its_own_images(data, augment):
    """Whether the answers are kept or asked for: plain gradient descent on the divergence from them, batch by batch."""
    recipe = slimlib.Recipe(epochs=2, lr=0.01, batch_size=90, augment=augment, precision="float32", momentum=0.0, nesterov=False,
                            weight_decay=0.0, schedule="constant", warmup=0.0)
    student, plain, teacher = linear(0), linear(0), linear(1)
    how = slimlib.Distill(kd_weight=1.0, temperature=2.0)
    slimlib.fit(student, data, recipe, teacher=teacher, distill=how, seed=5, progress=False, validate="none")
    batches = Batches(data.train, 90, augment, 5)
    for _, images, _ in [batch for _ in range(2) for batch in batches]:
        loss = kd_loss(plain(images), teacher(images).detach(), 2.0)
        for p, g in zip(plain.parameters(), torch.autograd.grad(loss, list(plain.parameters())), strict=True):
            p.data -= recipe.lr * g
    torch.testing.assert_close(student[1].weight, plain[1].weight, rtol=1e-4, atol=1e-6)


def test_dropout_is_drawn_by_the_seed_and_not_by_the_callers_state(data):
    trained = []
    for state in (1, 2):
        model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Dropout(0.5), linear()[1])
        torch.manual_seed(state)
        slimlib.fit(model, data, GENTLE, seed=3, progress=False, validate="none")
        trained.append(model[2].weight.detach())
    assert torch.equal(*trained)


def test_evaluate_equals_counting(data):
    model = network().eval()
    with torch.no_grad():
        right = sum(int(model(data.test.normalised(slice(i, i + 1))).argmax()) == int(data.test.labels[i]) for i in range(100))
    part = type(data.test)(data.test.images[:100], data.test.labels[:100], data.test.mean, data.test.std)
    model.train()
    assert slimlib.evaluate(model, part, batch_size=33) == right / 100
    assert model.training


def test_learning_learns(data):
    model = network()
    history = slimlib.fit(model, data, slimlib.Recipe(epochs=6, lr=0.05, batch_size=50), progress=False)
    assert history.loss[-1] < 0.5 * history.loss[0]
    assert slimlib.evaluate(model, data) > 0.6  # guessing gives 0.1


def test_crops_and_mirror_images_are_windows_of_the_padded_image(data):
    index, images, _ = next(iter(Batches(data.train, 20, "crop_flip", 0)))
    for i, image in zip(index.tolist(), images, strict=True):
        padded = F.pad(data.train.images[i : i + 1], (4, 4, 4, 4)).permute(0, 2, 3, 1)
        windows = [padded[:, y : y + 28, x : x + 28] for y in range(9) for x in range(9)]
        candidates = [data.train.normalise(w) for window in windows for w in (window, window.flip(2))]
        assert any(torch.equal(c[0], image) for c in candidates)


@pytest.mark.parametrize("augment", ["crop", "crop_flip"])
def test_all_shifts_up_to_four_pixels_are_equally_likely_and_half_of_the_images_mirrored(augment):
    """Images whose pixels are numbered tell where they were cut."""
    count, numbered = 81 * 40, torch.arange(1, 37, dtype=torch.uint8).view(1, 6, 6)
    images, labels = numbered.expand(count, 1, 6, 6).contiguous(), torch.zeros(count, dtype=torch.int64)
    split = slimlib.data.Split(images, labels, (0.0,), (1 / 255,))
    padded = F.pad(numbered[0].float(), (4, 4, 4, 4))
    cuts = {}
    for y in range(9):
        for x in range(9):
            window = padded[y : y + 6, x : x + 6]
            cuts[window.numpy().tobytes()] = y, x, 0
            cuts[window.flip(1).contiguous().numpy().tobytes()] = y, x, 1
    found = np.zeros((9, 9, 2), int)
    ((_, images, _),) = Batches(split, count, augment, 0)
    for image in images[:, 0].round():
        found[cuts[image.contiguous().numpy().tobytes()]] += 1
    if augment == "crop":
        assert found[..., 1].sum() == 0
    else:
        assert stats.binomtest(int(found[..., 1].sum()), count, 0.5).pvalue > 0.001
    assert stats.chisquare(found.sum(2).ravel()).pvalue > 0.001


def test_each_epoch_has_another_order_in_which_no_image_comes_twice(data):
    batches = Batches(data.train, 100, "none", 0)
    epochs = [torch.cat([index for index, _, _ in batches]) for _ in range(3)]
    assert not torch.equal(epochs[0], epochs[1]) and not torch.equal(epochs[1], epochs[2])
    assert all(len(order) == len(set(order.tolist())) == 500 for order in epochs)
    assert len(set(torch.cat(epochs).tolist())) > 530, "the images that an epoch leaves out are others each time"


@pytest.mark.parametrize("augment", ["none", "crop_flip"])
def test_two_processes_share_the_batches_of_one(data, augment):
    whole, *halves = (list(Batches(data.train, 50, augment, 2, world)) for world in (World(), World(0, 2), World(1, 2)))
    for both, first, second in zip(whole, *halves, strict=True):
        assert all(torch.equal(a, torch.cat([b, c])) for a, b, c in zip(both, first, second, strict=True))


def test_schedule_rises_and_falls_to_the_end():
    for schedule in ("onecycle", "cosine"):
        recipe = slimlib.Recipe(epochs=1, lr=0.4, schedule=schedule, warmup=0.25)
        rates = [recipe.learning_rate(i, 100) for i in range(100)]
        assert max(rates) == pytest.approx(0.4) and rates[0] < 0.02 and rates[-1] < 0.01
        assert (np.diff(rates[:25]) > 0).all() and (np.diff(rates[25:]) < 0).all()


@pytest.mark.parametrize("schedule, want", [
    ("onecycle", [0.2, 0.4, 0.4, 0.3, 0.2, 0.1]), ("constant", [0.2, 0.4, 0.4, 0.4, 0.4, 0.4]),
    ("cosine", [0.2, 0.4, 0.4, 0.2 + 0.2 * 0.5**0.5, 0.2, 0.2 - 0.2 * 0.5**0.5]),
])  # fmt: skip
def test_the_learning_rate_of_each_of_six_steps(schedule, want):
    """Two steps up, then a quarter of the way down with each."""
    recipe = slimlib.Recipe(epochs=1, lr=0.4, schedule=schedule, warmup=1 / 3)
    assert [recipe.learning_rate(step, 6) for step in range(6)] == pytest.approx(want)


def test_batchnorm_statistics_are_recomputed_and_weights_are_not(data, two_threads):
    model = network()
    before = copy.deepcopy(model.state_dict())
    calibrate_batchnorm(model, data.train, batch_size=500, images=500)
    first = model.bn1
    x = model.conv1(data.train.normalised(slice(0, 500)))
    torch.testing.assert_close(first.running_mean, x.mean((0, 2, 3)), rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(first.running_var, x.var((0, 2, 3)), rtol=1e-3, atol=1e-4)
    assert all(torch.equal(before[n], p) for n, p in model.named_parameters())
    assert first.momentum == 0.1


@pytest.mark.parametrize("order", [torch.contiguous_format, torch.channels_last])
def test_weights_lie_in_memory_as_they_did(order):
    model = network().to(memory_format=order)
    with in_channels_last(model):
        assert model.conv2.weight.is_contiguous(memory_format=torch.channels_last)
    assert all(p.is_contiguous(memory_format=order) for p in model.parameters() if p.dim() == 4)


def test_kernels_that_share_their_memory_still_do_after_training(data):
    """Tied by hand, which is no parameter of one name twice; one of them alone in another order would lie elsewhere."""
    model = torch.nn.Sequential(torch.nn.Conv2d(1, 4, 3), *(torch.nn.Conv2d(4, 4, 3) for _ in range(3)),
                                torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Linear(4, 10))
    model[2].weight.data = model[1].weight.data
    with in_channels_last(model):
        assert model[1].weight.data_ptr() == model[2].weight.data_ptr()
        assert model[3].weight.is_contiguous(memory_format=torch.channels_last)
    slimlib.fit(model, data, GENTLE, progress=False)
    assert model[1].weight.data_ptr() == model[2].weight.data_ptr() and torch.equal(model[1].weight, model[2].weight)
    assert all(p.is_contiguous() for p in model.parameters())


@pytest.mark.parametrize("batch_size", [0, 1])
def test_statistics_need_batches_of_several_images(data, batch_size):
    with pytest.raises(slimlib.SlimlibError, match=f"batch_size={batch_size} must be at least 2"):
        calibrate_batchnorm(network(), data.train, batch_size=batch_size)


def test_batchnorm_statistics_are_the_average_over_equal_batches(data):
    """250 images in two batches of 125, however many more there are."""
    norm = torch.nn.BatchNorm2d(1)
    calibrate_batchnorm(norm, data.train, batch_size=100, images=250)
    parts = [data.train.normalised(slice(start, start + 125)).double() for start in (0, 125)]
    assert norm.running_mean.item() == pytest.approx(sum(p.mean().item() for p in parts) / 2, abs=1e-5)
    assert norm.running_var.item() == pytest.approx(sum(p.var().item() for p in parts) / 2, rel=1e-5)


def test_hints_and_attention_train_a_thin_student(data):
    teacher = network()
    student = slimlib.thin(teacher, slimlib.plan_widths(teacher, data.example_input, keep_macs=0.4), seed=1)
    before = copy.deepcopy(teacher.state_dict())
    distill = slimlib.Distill(hint_weight=1.0, hint_layers=("conv3",), attention_weight=10.0, attention_layers=("conv5",))
    history = slimlib.fit(student, data, RECIPE, teacher=teacher, distill=distill, progress=False)
    assert history.loss[-1] < history.loss[0]
    assert all(torch.equal(before[k], v) for k, v in teacher.state_dict().items())


def test_a_teacher_is_asked_once_for_all_its_students(data):
    """The second student of a teacher learns as if it were the first; a teacher that has changed is asked again."""
    teacher, asked = network(), []
    teacher.register_forward_hook(lambda module, args, output: asked.append(len(args[0])))

    def student(teacher):
        model = network(seed=1)
        slimlib.fit(model, data, RECIPE, teacher=teacher, progress=False, validate="none")
        return torch.cat([p.flatten() for p in model.parameters()])

    first, once = student(teacher), sum(asked)
    assert torch.equal(first, student(teacher)) and sum(asked) - once <= 2  # its shapes are still looked at
    teacher.fc.weight.data.mul_(-1.0)  # behind autograd's back
    changed = student(teacher)
    assert sum(asked) > 2 * len(data.train) and torch.equal(changed, student(copy.deepcopy(teacher)))
    assert not torch.equal(changed, first)


def test_a_teacher_is_asked_again_about_other_images_and_in_another_arithmetic(data):
    teacher, other = linear(0), slimlib.load_data("fashionmnist-10k", limit=600, split_seed=1)

    def taught(by, images, precision):
        model, recipe = linear(1), dataclasses.replace(GENTLE, epochs=1, precision=precision)
        slimlib.fit(model, images, recipe, teacher=by, progress=False, validate="none")
        return model[1].weight.detach()

    for images, precision in ((data, "float32"), (other, "float32"), (other, "bfloat16")):
        assert torch.equal(taught(teacher, images, precision), taught(copy.deepcopy(teacher), images, precision))


class Talkative(torch.nn.Module):
    def __init__(self, network, kind):
        super().__init__()
        self.network, self.kind = network, kind

    def forward(self, x):
        return self.kind(self.network(x))


def test_a_model_that_returns_no_logits_is_named(data):
    for kind, told in ((lambda y: {"logits": y}, "a dict"), (lambda y: (y, y), "a tuple"),
                       (lambda y: y[:, :, None], r"a tensor of shape \(\d+, 10, 1\)")):
        model = Talkative(slimlib.models.build("lenet5", 10, 1), kind)
        with pytest.raises(slimlib.SlimlibError, match=f"model returns {told}, where logits"):
            slimlib.evaluate(model, data)
        with pytest.raises(slimlib.SlimlibError, match=f"model returns {told}, where logits"):
            slimlib.fit(model, data, slimlib.Recipe(1, 0.1), progress=False)


def test_images_that_a_network_was_not_made_for_are_named(data):
    """The embedded images have one channel of 28 x 28 pixels."""
    good, recipe = slimlib.models.build("lenet5", 10, 1), slimlib.Recipe(1, 0.1)
    for made_for, model in (("channels", slimlib.models.build("resnet20", 10, 3)),
                            ("sizes", torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(32 * 32, 10)))):
        before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        told = r"the data's images, of shape \(1, 28, 28\) and torch.float32, do not pass through the "
        for who, call in (
            ("model", lambda model=model: slimlib.fit(model, data, recipe, progress=False)),
            ("model", lambda model=model: slimlib.evaluate(model, data)),
            ("model", lambda model=model: slimlib.calibrate_batchnorm(model, data.train)),
            ("teacher", lambda model=model: slimlib.fit(good, data, recipe, teacher=model, progress=False)),
        ):
            with pytest.raises(slimlib.SlimlibError, match=told + who):
                call()
        assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items()), made_for


def test_errors_name_the_parameter(data):
    for message, how in {"schedule='step'": {"schedule": "step"}, "lr=-1": {"lr": -1}, "epochs=0": {"epochs": 0},
                         "lr=0": {"lr": 0}, "batch_size=0": {"batch_size": 0}, "warmup=1": {"warmup": 1.0},
                         "label_smoothing=1": {"label_smoothing": 1.0}, "weight_decay=-1": {"weight_decay": -1},
                         "augment='flip'": {"augment": "flip"}, "nesterov=True needs": {"momentum": 0.0}}.items():
        with pytest.raises(slimlib.SlimlibError, match=message):
            slimlib.Recipe(**{"epochs": 1, "lr": 0.1} | how)
    with pytest.raises(slimlib.SlimlibError, match="without a teacher"):
        slimlib.fit(network(), data, RECIPE, distill=slimlib.Distill())
    with pytest.raises(slimlib.SlimlibError, match=r"lower lr=10000000000\.0"):
        slimlib.fit(network(name="lenet5"), data, slimlib.Recipe(epochs=1, lr=1e10, batch_size=50), progress=False)


@pytest.mark.parametrize("able", [{"avx512_bf16": True}, {"amx_bf16": True}, {"avx512_bf16": False}, {}])
def test_only_auto_leaves_the_arithmetic_to_the_machine(able, monkeypatch):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: able)
    found = [resolve_precision(asked, torch.device("cpu")) for asked in ("float32", "bfloat16", "auto")]
    assert found == ["float32", "bfloat16", "bfloat16" if any(able.values()) else "float32"]


@pytest.mark.slow
@pytest.mark.parametrize(("how", "tolerance"), [({"precision": "bfloat16"}, 0.02), ({"compile": True}, 1e-3)])
def test_every_path_learns_the_same(data, how, tolerance):
    """Mixed precision and compiled code change the rounding only: the loss curve stays within a stated tolerance."""
    if "compile" in how and not (shutil.which("c++") or shutil.which("g++") or shutil.which("clang++")):
        pytest.skip("torch.compile needs a C++ compiler on a CPU")
    histories = [slimlib.fit(network(name="lenet5"), data, recipe, progress=False)
                 for recipe in (GENTLE, dataclasses.replace(GENTLE, **how))]
    plain, other = histories
    assert other.precision == how.get("precision", "float32")
    np.testing.assert_allclose(other.loss, plain.loss, rtol=tolerance)


class NormAct(torch.nn.BatchNorm2d):
    """A norm with its activation, as timm has them."""

    def forward(self, x):
        return super().forward(x).relu()


@pytest.mark.parametrize("training", [False, True])
def test_statistics_are_shared_without_changing_what_is_computed(training):
    """On GPUs plain norms become torch's joint ones, which know nothing of what a subclass does beside."""
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.BatchNorm2d(8), torch.nn.Sequential(NormAct(8)))
    model.train(training)
    x, before = torch.randn(4, 3, 8, 8), list(model.modules())
    outside = copy.deepcopy(model)(x)
    with World(0, 2).shared_statistics(model, torch.device("cuda")) as notes:
        assert type(model[1]) is torch.nn.SyncBatchNorm and type(model[2][0]) is NormAct
        torch.testing.assert_close(model(x), outside)
    assert notes == ["NormAct used the statistics of each of 2 processes separately: torch computes jointly those of plain "
                     "BatchNorm layers only"]
    assert list(model.modules()) == before


@pytest.mark.parametrize("norm", [torch.nn.BatchNorm1d, torch.nn.BatchNorm2d, torch.nn.BatchNorm3d, torch.nn.SyncBatchNorm])
def test_norms_that_share_their_statistics_need_no_note(norm):
    model = torch.nn.Sequential(norm(8))
    with World(0, 2).shared_statistics(model, torch.device("cuda")) as notes:
        assert type(model[0]) is torch.nn.SyncBatchNorm and model[0].weight.shape == (8,)
    assert notes == [] and type(model[0]) is norm


def test_processes_without_gpus_say_that_statistics_are_not_shared():
    model = torch.nn.Sequential(torch.nn.BatchNorm2d(8), NormAct(8))
    with World(0, 2).shared_statistics(model, torch.device("cpu")) as notes:
        assert type(model[0]) is torch.nn.BatchNorm2d
    assert len(notes) == 1 and "each of 2 processes separately" in notes[0] and notes[0].endswith("on GPUs only")
    with World().shared_statistics(model, torch.device("cuda")) as notes:
        assert notes == [] and type(model[0]) is torch.nn.BatchNorm2d


def _one_of_two(rank, port, queue):
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    history = slimlib.fit(network(name="lenet5"), slimlib.load_data("fashionmnist-10k", limit=600), GENTLE, progress=False)
    teacher, student = network(name="lenet5"), network(seed=1, name="lenet5")
    taught = slimlib.fit(student, slimlib.load_data("fashionmnist-10k", limit=600), GENTLE, teacher, HINTS, progress=False)
    queue.put((rank, history.loss, history.processes, taught.loss))
    torch.distributed.destroy_process_group()


@pytest.mark.slow
def test_two_processes_have_the_loss_curve_of_one(data):
    alone = slimlib.fit(network(name="lenet5"), data, GENTLE, progress=False)
    taught = slimlib.fit(network(seed=1, name="lenet5"), data, GENTLE, network(name="lenet5"), HINTS, progress=False)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    workers = [context.Process(target=_one_of_two, args=(rank, port, queue)) for rank in range(2)]
    for worker in workers:
        worker.start()
    told = [queue.get(timeout=120) for _ in workers]
    for worker in workers:
        worker.join(timeout=60)
    for _, loss, processes, taught_loss in told:
        assert processes == 2
        np.testing.assert_allclose(loss, alone.loss, rtol=1e-4)
        np.testing.assert_allclose(taught_loss, taught.loss, rtol=1e-4)  # also with regressors that DDP does not know


def test_gradients_that_the_caller_left_do_not_count(data):
    """A loop of one's own leaves some, also in layers that are frozen afterwards."""
    networks = [network(name="lenet5") for _ in range(2)]
    networks[0](data.train.normalised(slice(0, 50))).sum().backward()
    for model in networks:
        model.conv1.requires_grad_(False)
        slimlib.fit(model, data, GENTLE, progress=False)
    assert torch.equal(networks[0].conv1.weight, network(name="lenet5").conv1.weight)
    assert all(torch.equal(a, b) for a, b in zip(*(model.parameters() for model in networks), strict=True))


def test_a_network_is_left_in_evaluation_mode_where_its_norms_had_twins_meanwhile(data, monkeypatch):
    """On several GPUs other modules stand in for the plain norms while it trains."""
    @contextmanager
    def twins(self, model, device):
        norm, model.bn1 = model.bn1, copy.deepcopy(model.bn1)
        try:
            yield []
        finally:
            model.bn1 = norm

    monkeypatch.setattr(World, "shared_statistics", twins)
    model = network()
    slimlib.fit(model, data, slimlib.Recipe(epochs=1, lr=0.05, batch_size=50), progress=False)
    assert not any(module.training for module in model.modules())


def test_statistics_survive_what_stops_their_recomputation(data):
    model = network()
    slimlib.fit(model, data, slimlib.Recipe(epochs=1, lr=0.05, batch_size=50), progress=False)
    before, calls = copy.deepcopy(model.state_dict()), []

    def stop(*_):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt

    model.conv2.register_forward_hook(stop)
    with pytest.raises(KeyboardInterrupt):
        calibrate_batchnorm(model, data.train, batch_size=100)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


@pytest.mark.parametrize("batch_size", [0, -1, 2.5, True])
def test_no_accuracy_comes_from_no_batches(data, batch_size):
    with pytest.raises(slimlib.SlimlibError, match=f"^batch_size={batch_size} must be a whole number of images, at least 1$"):
        slimlib.evaluate(network(), data, batch_size=batch_size)
    with pytest.raises(slimlib.SlimlibError, match="batch_size is of type float; give a whole number of images"):
        calibrate_batchnorm(network(), data.train, batch_size=2.5)


def test_kernels_of_video_are_left_as_they_lie(data):
    class Clip(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.head = torch.nn.Conv3d(1, 2, 3, padding=1), torch.nn.Conv2d(2, 2, 3)

        def forward(self, x):
            return self.head(self.conv(x[:, :, None])[:, :, 0]).mean((2, 3))

    model = Clip()
    with in_channels_last(model):
        assert model(data.train.normalised(slice(0, 2))).shape == (2, 2)
    assert all(p.is_contiguous() for p in model.parameters())


@pytest.mark.parametrize("may", [True, False])
def test_convolutions_may_round_to_tf32_only_where_the_caller_lets_them(data, monkeypatch, may):
    seen = []
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", may)
    model = network()
    model.register_forward_hook(lambda *_: seen.append((torch.backends.cudnn.allow_tf32, torch.backends.cudnn.deterministic)))
    slimlib.fit(model, data, slimlib.Recipe(epochs=1, lr=0.05, batch_size=200, precision="float32"), progress=False)
    assert set(seen) == {(may, True)}


def test_a_network_is_left_in_evaluation_mode_where_training_fails(data):
    model = network(name="lenet5")
    with pytest.raises(slimlib.SlimlibError, match="the loss became"):
        slimlib.fit(model, data, dataclasses.replace(RECIPE, lr=1e6), progress=False)
    assert not model.training


def test_no_answer_is_no_accuracy(data):
    model = network()
    with pytest.raises(slimlib.SlimlibError, match="returns 10 logits, but the data have 11 classes"):
        slimlib.evaluate(model, dataclasses.replace(data, num_classes=11))
    model.register_forward_hook(lambda m, args, out: torch.where(torch.arange(len(out))[:, None] == 3, torch.nan, out))
    with pytest.raises(slimlib.errors.Diverged, match=rf"returns NaN for 3 of {len(data.test)} images"):
        slimlib.evaluate(model, data, batch_size=len(data.test) // 3 + 1)


def test_what_fit_notes_it_says_where_it_was_called(data, monkeypatch):
    @contextmanager
    def noted(self, model, device):
        yield ["statistics are of each process"]

    monkeypatch.setattr(World, "shared_statistics", noted)
    with pytest.warns(UserWarning, match="statistics are of each process") as said:
        history = slimlib.fit(network(), data, dataclasses.replace(RECIPE, epochs=1), progress=False)
    assert history.notes == ["statistics are of each process"] and said[0].filename == __file__


@pytest.mark.parametrize("seed", [-1, 1.5, 2**63, "a", None])
def test_a_seed_that_is_none_is_refused(data, seed):
    with pytest.raises(slimlib.SlimlibError, match=r"^seed=.* must be a whole number from 0 to 2\*\*63 - 1"):
        slimlib.fit(network(), data, RECIPE, seed=seed, progress=False)


@pytest.mark.parametrize("how, told", [
    ({"epochs": True}, "epochs=True must be a whole number, at least 1"), ({"lr": True}, "lr=True must be a number"),
    ({"compile": "fast"}, "compile='fast' must be one of False, True, 'default'"), ({"compile": 1}, "compile=1 must be one of"),
    ({"nesterov": "no"}, "nesterov='no' must be True or False"), ({"epochs": 0}, "epochs=0 must be a whole"),
])  # fmt: skip
def test_a_recipe_that_cannot_be_followed_is_refused(how, told):
    with pytest.raises(slimlib.SlimlibError, match=told):
        slimlib.Recipe(**{"epochs": 1, "lr": 0.1} | how)


def test_a_recipe_takes_whole_numbers_of_numpy_and_keeps_plain_ones():
    recipe = slimlib.Recipe(epochs=np.int64(3), lr=0.1)
    assert recipe == slimlib.Recipe(epochs=3, lr=0.1) and type(recipe.epochs) is int
