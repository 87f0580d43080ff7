"""Networks in files: a slimmed one with its plan, weights made elsewhere, ONNX. Nothing read here can hold code."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import nn

from slimlib.arguments import A_MODEL, kind
from slimlib.conformance import checked, deviation, first_channels, layout_for
from slimlib.cutting import cut
from slimlib.errors import SlimlibError
from slimlib.files import must_exist, saving
from slimlib.modes import evaluation_mode
from slimlib.plans import WidthPlan
from slimlib.tensor_files import read_tensors, refused_if_damaged, write_tensors

_PLAN = "slimlib_plan"  # the key of the plan in the file's metadata
_READABLE = "give a .safetensors file, or one that torch.save wrote of a state dict alone, which holds no code"


def save(model: nn.Module, plan: WidthPlan, path: str | Path) -> None:
    """Weights and plan in one safetensors file (no pickle), written under another name first and then moved.

    Raises SlimlibError when ``model`` has not the planned widths: such a file could not be loaded again.
    """
    kind("model", model, nn.Module, A_MODEL)
    kind("plan", plan, WidthPlan, "the plan between model and path: save(model, plan, path)")
    if fault := deviation(model, plan):
        raise SlimlibError(f"model: {fault}; give the network that prune or thin made by this plan, without a wrapper")
    state = model.state_dict()
    if odd := [name for name, value in state.items() if not isinstance(value, torch.Tensor)]:
        raise SlimlibError(f"model: {odd[0]} in its state dict is no tensor (get_extra_state), and a file of slimlib holds "
                           "tensors alone; save what it tells in a file of your own, and remove get_extra_state")
    with saving(path) as temporary:
        write_tensors(temporary, state, {_PLAN: json.dumps(plan.to_dict())})


def load(path: str | Path, build: Callable[[], nn.Module]) -> nn.Module:
    """The network that :func:`save` wrote, in evaluation mode, with parameters of the types that they had (float16, say).

    ``build`` makes the dense network, whose weights do not matter. Raises SlimlibError when the file is not there, damaged or
    not of :func:`save`, and when ``build`` makes another network.
    """
    must_exist(path)
    if isinstance(build, nn.Module) or not callable(build):
        raise SlimlibError(f"build is of type {type(build).__name__}; give a function that makes the dense network, such as "
                           "lambda: torchvision.models.resnet18()")
    with refused_if_damaged(f"path={str(path)!r}", _READABLE):
        tensors, texts = read_tensors(path)
    if _PLAN not in texts:
        raise SlimlibError(f"path={str(path)!r} holds no slimlib plan; it was not written by slimlib.save")
    plan = WidthPlan.from_json(texts[_PLAN], f"path={str(path)!r}")
    model = build()
    kind("what build returns", model, nn.Module, "a function that returns the dense network")
    layout = layout_for(model, plan)
    slim = cut(model, layout, first_channels(layout, plan))
    _cast(slim, tensors)
    _fill(slim, tensors, f"path={str(path)!r}")
    return checked(slim, plan).eval()


def load_weights(model: nn.Module, path: str | Path) -> nn.Module:
    """Fill ``model``, in place, with the state dict in a file: .safetensors, or what torch.save wrote of tensors alone.

    The dict may lie under "state_dict" or "model", as training scripts put it, and its names may begin with "module.", as
    DataParallel writes them; counters of batches (``num_batches_tracked``) may be missing. Otherwise every entry must fit.
    Returns ``model``. Raises SlimlibError naming the entries that are missing, not known or of another shape; the model is
    left as it was then.
    """
    kind("model", model, nn.Module, A_MODEL)
    tensors, own = read_weights(path), model.state_dict()
    if all(name.startswith("module.") for name in tensors) and not all(name.startswith("module.") for name in own):
        tensors = {name.removeprefix("module."): tensor for name, tensor in tensors.items()}
    _fill(model, tensors, f"weights={str(path)!r}")
    return model


def read_weights(path: str | Path) -> dict[str, torch.Tensor]:
    """The tensors of a file by name, on the CPU; see :func:`load_weights`."""
    must_exist(path, "weights")
    with refused_if_damaged(f"weights={str(path)!r}", _READABLE):
        if Path(path).suffix == ".safetensors":
            state, _ = read_tensors(path)
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
    for key in ("state_dict", "model"):
        if isinstance(state, Mapping) and isinstance(state.get(key), Mapping):
            state = state[key]
    if not isinstance(state, Mapping) or not state or not all(
            isinstance(name, str) and isinstance(value, torch.Tensor) for name, value in state.items()):
        raise SlimlibError(f"weights={str(path)!r} holds no state dict (names with tensors); save model.state_dict()")
    return dict(state)


def export_onnx(model: nn.Module, example_input: torch.Tensor, path: str | Path) -> None:
    """Write ``model`` in evaluation mode as ONNX: one input "input" and one output "output", any number of examples.

    ``example_input``: a batch of at least 2 for it, on its device. Raises SlimlibError where onnxscript is not installed,
    or where the file cannot be written; it is there when it is complete.
    """
    kind("model", model, nn.Module, A_MODEL)
    kind("example_input", example_input, torch.Tensor, "a tensor, batch first")
    if find_spec("onnxscript") is None:
        raise SlimlibError("export_onnx needs onnxscript, which is not installed: pip install onnxscript")
    if len(example_input) < 2:
        raise SlimlibError(f"example_input has {len(example_input)} examples; give 2, as torch.export takes a 1 for fixed")
    with saving(path) as temporary, evaluation_mode(model):
        torch.onnx.export(model, (example_input,), str(temporary), dynamo=True, verbose=False, external_data=False,
                          input_names=["input"], output_names=["output"], dynamic_shapes=({0: torch.export.Dim("batch")},))


def _fill(model: nn.Module, tensors: Mapping[str, torch.Tensor], origin: str) -> None:
    """``load_state_dict`` that checks everything before it changes anything."""
    own = model.state_dict()
    faults = {
        "missing from the file": [k for k in own if k not in tensors and not k.endswith("num_batches_tracked")],
        "not in the model": [k for k in tensors if k not in own],
        "of another shape": [f"{k} {tuple(tensors[k].shape)} for {tuple(own[k].shape)}" for k in own
                             if k in tensors and tensors[k].shape != own[k].shape],
    }
    told = [f"{len(names)} entries {what} ({', '.join(names[:3])}{', ...' if len(names) > 3 else ''})"
            for what, names in faults.items() if names]
    if told:
        raise SlimlibError(f"{origin} does not fit this {type(model).__name__}: {'; '.join(told)}. "
                           "Build the network that the file was saved from: its name, classes and input channels")
    model.load_state_dict(tensors, strict=False)


def _cast(model: nn.Module, tensors: Mapping[str, torch.Tensor]) -> None:
    """Give parameters and buffers the types of those of the same name."""
    for name, own in [*model.named_parameters(), *model.named_buffers()]:
        if name in tensors:
            own.data = own.data.to(tensors[name].dtype)
