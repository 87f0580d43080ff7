"""What no layout could be read of, refused by name before anything is run."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.modules.lazy import LazyModuleMixin

from slimlib.arguments import A_MODEL, kind
from slimlib.errors import SlimlibError, counted
from slimlib.layout import LAYERS, PER_CHANNEL_NORMS, declared, filters_and_inputs


def check(model: nn.Module, example_input: torch.Tensor) -> None:
    """Refuse, by name, what no plan could be made of."""
    kind("model", model, nn.Module, A_MODEL)
    check_example(example_input)
    if example_input.is_floating_point() and not torch.isfinite(example_input).all():
        raise SlimlibError("example_input holds NaN or infinite values; give examples as the model is trained on")
    check_layers(model)
    for name, tensor in model.state_dict(keep_vars=True).items():
        if isinstance(tensor, torch.Tensor) and tensor.is_meta:
            raise SlimlibError(f"model: {name} is on the meta device, without values; load weights first, or build it on another")
    _check_inference(model)
    tensors = dict(model.named_parameters())
    for name, m in model.named_modules():  # of the buffers only these: a mask may well hold infinities
        tensors |= {f"{name}.{k}": b for k, b in m.named_buffers()} if isinstance(m, PER_CHANNEL_NORMS) else {}
    for name, t in tensors.items():
        if not (torch.isfinite(t.detach().sum()) or torch.isfinite(t).all()):  # the sum tells it faster, if it does
            raise SlimlibError(f"model: {name} holds NaN or infinite values; load or train finite weights first")
    for name, m in model.named_modules():
        variance = getattr(m, "running_var", None) if isinstance(m, PER_CHANNEL_NORMS) else None
        if variance is not None and variance.numel() and variance.min() + m.eps <= 0:
            raise SlimlibError(f"model: {name}.running_var holds {variance.min():g}, which with eps={m.eps:g} is no variance to "
                               "divide by; load or compute its statistics first")


def check_example(example_input: torch.Tensor) -> None:
    """Refuse what is no batch of examples."""
    kind("example_input", example_input, torch.Tensor, "a tensor, batch first")
    if example_input.dim() < 1 or not len(example_input):
        raise SlimlibError(f"example_input of shape {tuple(example_input.shape)} holds no example; give one batch, batch first")


def check_layers(model: nn.Module) -> None:
    """Refuse, by name, a network of which a layer is not plain. What is in the weights is not looked at."""
    for name, m in model.named_modules():  # first, as the layers within a script are not of torch's classes
        if isinstance(m, torch.jit.ScriptModule):
            raise SlimlibError(f"model: {name or 'the model'} is a ScriptModule, into which no hook can look; give the module it "
                               "was made of")
    if not any(isinstance(m, LAYERS) for m in model.modules()):
        raise SlimlibError(f"model ({type(model).__name__}) has no Conv or Linear layer: there is no width to choose")
    for name, m in model.named_modules():
        if isinstance(m, LazyModuleMixin) and m.has_uninitialized_params():
            raise SlimlibError(f"model: {name} has no shape yet; run it once on an example first")
        for key in ("weight", "bias") if isinstance(m, (*LAYERS, *PER_CHANNEL_NORMS)) else ():
            if key not in m._parameters:  # None, where a layer has none, stands there as well
                raise SlimlibError(f"model: the {key} of {name} is computed from other tensors at each pass (weight_norm, "
                                   "spectral_norm, a pruning mask); make it a plain parameter first: by remove_parametrizations "
                                   "in torch.nn.utils.parametrize, remove_weight_norm in torch.nn.utils, or remove in "
                                   "torch.nn.utils.prune")
            if isinstance(m, LAYERS) and m.weight.is_complex():
                raise SlimlibError(f"model: the weight of {name} is of {m.weight.dtype}, of which rules and criteria see the "
                                   "real part alone; give a model of real layers, with real and imaginary parts in channels "
                                   "of their own")
            if isinstance(m, LAYERS) and not m.weight.is_floating_point():
                raise SlimlibError(f"model: the weight of {name} is of {m.weight.dtype}; give the model as it was before it was "
                                   "quantised")
            if isinstance(m, LAYERS) and filters_and_inputs(m) != (told := declared(m)):
                filters, inputs = filters_and_inputs(m)
                raise SlimlibError(f"model: the weight of {name or 'the model'} has {counted(filters, 'filter')} on "
                                   f"{counted(inputs, 'input')}, but the layer says {told[0]} on {told[1]}; let it say what its "
                                   "weight has (out_channels, in_channels, out_features, in_features)")


def _check_inference(model: nn.Module) -> None:
    """Autograd, off whose graph the layout is read, is closed to inference mode and to what was made in it."""
    if torch.is_inference_mode_enabled():
        raise SlimlibError("model: its layout cannot be read within torch.inference_mode(); call this outside it")
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        if tensor.is_inference():
            raise SlimlibError(f"model: {name} was made within torch.inference_mode(); give copy.deepcopy(model), made outside")
