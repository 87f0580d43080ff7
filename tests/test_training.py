"""Training: the same seed gives the same network, nothing leaks, and the numbers are those of plain loops."""

import copy
import dataclasses
import shutil
import socket

import numpy as np
import pytest
import torch
from torch import multiprocessing
from torch.nn import functional as F

import slimlib
from slimlib import models
from slimlib.batches import Batches, in_channels_last
from slimlib.evaluation import calibrate_batchnorm
from slimlib.randomness import seeded

RECIPE = slimlib.Recipe(epochs=2, lr=0.05, batch_size=50)
# LeNet-5 has no BatchNorm and diverges at ten times this rate
GENTLE = slimlib.Recipe(epochs=2, lr=0.005, batch_size=50, precision="float32")


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


@pytest.mark.parametrize("draw", ["fresh weights", "training"])
def test_no_device_is_left_with_another_seed(data, monkeypatch, draw):
    monkeypatch.setattr(torch, "manual_seed", lambda seed: pytest.fail("torch.manual_seed seeds what it does not put back"))
    if draw == "training":
        slimlib.fit(models.vgg_small(), data, slimlib.Recipe(epochs=1, lr=0.05), progress=False)
    else:
        slimlib.fresh_copy(models.vgg_small(), seed=1)


def test_fit_equals_a_plain_loop(data):
    """Momentum SGD written out, over the same batches, gives the same weights and losses."""
    recipe = slimlib.Recipe(epochs=2, lr=0.005, batch_size=100, weight_decay=1e-3, precision="float32")
    ours, plain = network(name="lenet5"), network(name="lenet5")
    history = slimlib.fit(ours, data, recipe, seed=1, progress=False, validate="none")
    velocity = [torch.zeros_like(p) for p in plain.parameters()]
    batches, steps, losses = Batches(data.train, 100, "none", 1), 2 * (len(data.train) // 100), []
    for epoch in range(2):
        for step, (_, images, labels) in enumerate(batches, start=epoch * steps // 2):
            loss = F.cross_entropy(plain(images), labels)
            losses.append(loss.item())
            gradients = torch.autograd.grad(loss, list(plain.parameters()))
            with torch.no_grad():
                for p, g, v in zip(plain.parameters(), gradients, velocity, strict=True):
                    g = g + 1e-3 * p
                    v.mul_(0.9).add_(g)
                    p -= recipe.learning_rate(step, steps) * (g + 0.9 * v)
    np.testing.assert_allclose(history.loss, np.reshape(losses, (2, -1)).mean(1), rtol=1e-4)
    for a, b in zip(ours.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-5)


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


def test_schedule_rises_and_falls_to_the_end():
    for schedule in ("onecycle", "cosine"):
        recipe = slimlib.Recipe(epochs=1, lr=0.4, schedule=schedule, warmup=0.25)
        rates = [recipe.learning_rate(i, 100) for i in range(100)]
        assert max(rates) == pytest.approx(0.4) and rates[0] < 0.02 and rates[-1] < 0.01
        assert (np.diff(rates[:25]) > 0).all() and (np.diff(rates[25:]) < 0).all()


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


@pytest.mark.parametrize("batch_size", [0, 1])
def test_statistics_need_batches_of_several_images(data, batch_size):
    with pytest.raises(slimlib.SlimlibError, match=f"batch_size={batch_size} must be at least 2"):
        calibrate_batchnorm(network(), data.train, batch_size=batch_size)


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


def test_errors_name_the_parameter(data):
    for message, how in {"schedule='step'": {"schedule": "step"}, "lr=-1": {"lr": -1}, "epochs=0": {"epochs": 0}}.items():
        with pytest.raises(slimlib.SlimlibError, match=message):
            slimlib.Recipe(**{"epochs": 1, "lr": 0.1} | how)
    with pytest.raises(slimlib.SlimlibError, match="without a teacher"):
        slimlib.fit(network(), data, RECIPE, distill=slimlib.Distill())
    with pytest.raises(slimlib.SlimlibError, match=r"lower lr=10000000000\.0"):
        slimlib.fit(network(name="lenet5"), data, slimlib.Recipe(epochs=1, lr=1e10, batch_size=50), progress=False)


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


def _one_of_two(rank, port, queue):
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    history = slimlib.fit(network(name="lenet5"), slimlib.load_data("fashionmnist-10k", limit=600), GENTLE, progress=False)
    queue.put((rank, history.loss, history.processes))
    torch.distributed.destroy_process_group()


@pytest.mark.slow
def test_two_processes_have_the_loss_curve_of_one(data):
    alone = slimlib.fit(network(name="lenet5"), data, GENTLE, progress=False)
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
    for _, loss, processes in told:
        assert processes == 2
        np.testing.assert_allclose(loss, alone.loss, rtol=1e-4)
