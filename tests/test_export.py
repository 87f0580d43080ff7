"""Slim networks in other forms: torch.export, ONNX in onnxruntime, slimlib's own files. All must answer as the module."""

from functools import partial

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from safetensors.torch import load_file

import slimlib
from slimlib import models, storage
from slimlib._torchvision import import_torchvision
from tests.conftest import MODELS, lively_norms

tv = import_torchvision().models

# Real architectures, few layers of each: what matters is the kinds of layers, and export takes time by their number
NETWORKS = {
    "CIFAR ResNet, inner": (partial(models.cifar_resnet, 8), "inner"),
    "ResNet, joint": (partial(tv.ResNet, tv.resnet.BasicBlock, [1, 1, 1, 1], num_classes=10), "joint"),
    "MobileNetV2, joint": (partial(tv.MobileNetV2, 10, 0.5, [[1, 16, 1, 1], [6, 24, 2, 2], [6, 32, 1, 2]]), "joint"),
    "DenseNet, concatenations": (partial(tv.DenseNet, 8, (2, 2), 16, num_classes=10), "joint"),
    "squeeze and excite": (MODELS["residual"], "joint"),
}


def slimmed(build, coupling):
    torch.manual_seed(0)
    model, x = lively_norms(build()), torch.randn(2, 3, 32, 32)
    plan = slimlib.plan_widths(model, x, keep_macs=0.5, coupling=coupling, rule="uniform")
    assert plan.widths != plan.full_widths
    return plan, slimlib.prune(model, plan).eval(), x


@pytest.mark.parametrize("name", [n for n in NETWORKS if n != "squeeze and excite"])  # exported further below
def test_exported_networks_answer_as_the_module_does(name, tmp_path):
    plan, slim, x = slimmed(*NETWORKS[name])
    other = torch.randn(5, 3, 32, 32)  # not the images, nor the number of them, that the export saw
    with torch.no_grad():
        want, want_other = slim(x), slim(other)
    program = torch.export.export(slim, (x,))
    torch.testing.assert_close(program.module()(x), want, rtol=1e-5, atol=1e-6)

    storage.export_onnx(slim, x, tmp_path / "slim.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "slim.onnx", providers=["CPUExecutionProvider"])
    for images, answers in ((x, want), (other, want_other)):
        (got,) = session.run(["output"], {"input": images.numpy()})
        assert np.abs(got - answers.numpy()).max() < 1e-5 * float(answers.std()), "not the module's answers"
    held = sum(np.prod(t.dims) for t in onnx.load(tmp_path / "slim.onnx").graph.initializer if len(t.dims) > 1)
    assert held == sum(p.numel() for p in slim.parameters() if p.dim() > 1) < plan.full_params, "not the slim weights"


def test_export_leaves_the_mode_and_refuses_a_single_example(tmp_path):
    _, slim, x = slimmed(*NETWORKS["squeeze and excite"])
    slim.train()
    slim.bn.eval()
    with pytest.raises(slimlib.SlimlibError, match="example_input has 1 examples; give 2"):
        storage.export_onnx(slim, x[:1], tmp_path / "slim.onnx")
    with pytest.raises(slimlib.SlimlibError, match=r"there is no folder '.*none'; make it first"):
        storage.export_onnx(slim, x, tmp_path / "none" / "slim.onnx")
    storage.export_onnx(slim, x, tmp_path / "slim.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "slim.onnx", providers=["CPUExecutionProvider"])
    assert slim.training and slim.bn1.training and not slim.bn.training
    (got,) = session.run(None, {"input": x.numpy()})
    with torch.no_grad():
        np.testing.assert_allclose(got, slim.eval()(x).numpy(), rtol=1e-4, atol=1e-5)  # of the evaluation mode


def test_export_without_onnxscript_says_what_is_missing(monkeypatch, tmp_path):
    _, slim, x = slimmed(*NETWORKS["squeeze and excite"])
    monkeypatch.setattr(storage, "find_spec", lambda name: None)
    with pytest.raises(slimlib.SlimlibError, match="pip install onnxscript"):
        storage.export_onnx(slim, x, tmp_path / "slim.onnx")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["CIFAR ResNet, inner", "DenseNet, concatenations"])
def test_a_file_gives_the_network_back_bit_by_bit(name, tmp_path):
    build, _ = NETWORKS[name]
    plan, slim, x = slimmed(*NETWORKS[name])
    slimlib.save(slim, plan, tmp_path / "slim.safetensors")
    again = slimlib.load(tmp_path / "slim.safetensors", build=build).eval()
    assert torch.equal(again(x), slim(x)) and type(again) is type(slim)
    held = load_file(tmp_path / "slim.safetensors")
    assert {k: v.shape for k, v in held.items()} == {k: v.shape for k, v in slim.state_dict().items()}


def test_what_cannot_be_saved_or_loaded_is_refused_by_name(tmp_path):
    build, _ = NETWORKS["squeeze and excite"]
    plan, slim, x = slimmed(*NETWORKS["squeeze and excite"])
    file = tmp_path / "slim.safetensors"
    with pytest.raises(slimlib.SlimlibError, match="layer stem is 8 wide instead of"):
        slimlib.save(build(), plan, file)
    with pytest.raises(slimlib.SlimlibError, match="there is no layer stem"):
        slimlib.save(torch.nn.DataParallel(slim), plan, file)
    with pytest.raises(slimlib.SlimlibError, match=r"there are \d+ parameters instead of \d+"):
        longer = slimlib.prune(build(), plan)
        longer.head = torch.nn.Linear(longer.head.in_features, 6)  # no layer that was slimmed
        slimlib.save(longer, plan, file)
    assert not file.exists()
    with pytest.raises(slimlib.SlimlibError, match="no such file"):
        slimlib.load(file, build=build)
    slimlib.save(slim, plan, file)
    with pytest.raises(slimlib.SlimlibError, match="layer 'stem'; the plan was made for another network"):
        slimlib.load(file, build=MODELS["grouped"])
    torch.save(slim.state_dict(), tmp_path / "weights.pt")
    storage.load_weights(slim, tmp_path / "weights.pt")  # plain weights have a reader of their own
    for broken in (file.read_bytes()[:-100], (tmp_path / "weights.pt").read_bytes(), b""):
        (tmp_path / "broken.safetensors").write_bytes(broken)
        with pytest.raises(slimlib.SlimlibError, match=r"broken\.safetensors' cannot be read"):
            slimlib.load(tmp_path / "broken.safetensors", build=build)
    assert torch.equal(slimlib.load(file, build=build).eval()(x), slim(x))


def test_a_file_holds_no_code(tmp_path):
    """What is written is a JSON header and numbers: nothing in it is a pickle."""
    plan, slim, _ = slimmed(*NETWORKS["squeeze and excite"])
    slimlib.save(slim, plan, tmp_path / "slim.safetensors")
    content = (tmp_path / "slim.safetensors").read_bytes()
    header = int.from_bytes(content[:8], "little")
    numbers = sum(t.numel() * t.element_size() for t in slim.state_dict().values())
    assert len(content) == 8 + header + numbers and content[8:9] == b"{"
