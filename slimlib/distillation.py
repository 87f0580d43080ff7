"""Distillation: a student learns from the labels and from a trained teacher (outputs, hints, attention).

The student here is the teacher's own architecture at smaller widths, so both call their layers by the same names, and
layers are matched by name.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from difflib import get_close_matches

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from slimlib import arguments
from slimlib.errors import SlimlibError
from slimlib.modes import evaluation_mode
from slimlib.passing import passing


@dataclass(frozen=True)
class Distill:
    """What a student takes from its teacher. The loss of a batch is

        (1 - kd_weight) * cross-entropy + kd_weight * KD + hint_weight * hints + attention_weight * attention.

    Attributes:
        kd_weight: the share of Hinton et al.'s soft targets, in [0, 1]; the labels have the rest.
        temperature: softens both output distributions; usual values are 2 to 5.
        hint_weight: weight of FitNets' hints, summed over ``hint_layers``.
        hint_layers: names of modules with outputs (N, C, H, W) that the student must be able to map to the teacher's.
        attention_weight: weight of attention transfer, summed over ``attention_layers``; about 1000 is usual.
        attention_layers: names of modules with outputs (N, C, H, W) whose spatial attention is compared.
    """

    kd_weight: float = 0.9
    temperature: float = 4.0
    hint_weight: float = 0.0
    hint_layers: tuple[str, ...] = ()
    attention_weight: float = 0.0
    attention_layers: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name in ("kd_weight", "temperature", "hint_weight", "attention_weight"):
            arguments.number(name, getattr(self, name))
        if not 0 <= self.kd_weight <= 1:
            raise SlimlibError(f"kd_weight={self.kd_weight} must lie in [0, 1]: the labels have the remaining weight")
        if not self.temperature > 0:
            raise SlimlibError(f"temperature={self.temperature} must be positive; 4 is usual")
        for kind in ("hint", "attention"):
            weight, layers = getattr(self, f"{kind}_weight"), getattr(self, f"{kind}_layers")
            layers = (layers,) if isinstance(layers, str) else tuple(layers) if isinstance(layers, Iterable) else layers
            if not isinstance(layers, tuple) or not all(isinstance(name, str) for name in layers):
                raise SlimlibError(f"{kind}_layers={layers!r} must be names of modules, such as ('layer1', 'layer2')")
            object.__setattr__(self, f"{kind}_layers", layers)  # a list, as JSON gives it, becomes a tuple
            if weight < 0 or bool(weight) != bool(layers):
                raise SlimlibError(f"{kind}_weight={weight} and {kind}_layers={layers} must both be given, the weight "
                                   "positive, or neither")


def kd_loss(student_logits: Tensor, teacher_logits: Tensor, temperature: float) -> Tensor:
    """tau^2 KL(softmax(teacher / tau) || softmax(student / tau)), the mean over the batch: a scalar; tau is the temperature.

    Hinton, Vinyals and Dean (2015), section 2. The factor tau^2 keeps the gradient's size once tau is large against the
    logits. Their cross-entropy and this divergence differ by the entropy of the teacher, which has no gradient.
    Logits: (N, classes).
    """
    student = F.log_softmax(student_logits / temperature, dim=1)
    teacher = F.log_softmax(teacher_logits / temperature, dim=1)
    return F.kl_div(student, teacher, reduction="batchmean", log_target=True) * temperature**2


def hint_loss(regressed: Tensor, hint: Tensor) -> Tensor:
    """Mean squared difference between the student's regressed features and the teacher's, both (N, C, H, W): a scalar.

    Romero et al. (2015), equation 3, as a mean over all elements, so that the weight need not follow the layer's size.
    """
    return F.mse_loss(regressed, hint)


def attention_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean squared difference between two normalised attention maps, from features (N, C, H, W): a scalar.

    Zagoruyko and Komodakis (2017), equation 2, as their published code computes it: the attention of a position is the
    mean of its squared activations over the channels, and each example's map is scaled to unit length. The two may
    differ in C, but not in H and W.
    """
    return F.mse_loss(_attention(student), _attention(teacher))


def _attention(features: Tensor) -> Tensor:
    return F.normalize(features.square().mean(dim=1).flatten(1))


class Distiller(nn.Module):
    """The weighted sum of :class:`Distill` for one student and one teacher.

    Its parameters are the hints' regressors, 1 x 1 convolutions from the student's widths to the teacher's, trained
    jointly with the student. The teacher is no submodule: it is only ever evaluated.
    """

    def __init__(self, student: nn.Module, teacher: nn.Module, distill: Distill, example_input: Tensor):
        super().__init__()
        self.distill = distill
        self.layers = tuple(dict.fromkeys(distill.hint_layers + distill.attention_layers))
        widths = [self._feature_shapes(model, example_input, who) for model, who in ((student, "model"), (teacher, "teacher"))]
        for name, ours, theirs in ((name, *(shapes[name] for shapes in widths)) for name in self.layers):
            if len(ours) != 4 or len(theirs) != 4 or ours[2:] != theirs[2:]:
                raise SlimlibError(f"layer {name!r} gives {tuple(ours)} in the student and {tuple(theirs)} in the "
                                   "teacher; both must be (N, C, H, W) with equal H and W: name another layer")
        self.regressors = nn.ModuleList(  # one a hint layer
            nn.Conv2d(widths[0][name][1], widths[1][name][1], 1) for name in distill.hint_layers).to(example_input.device)

    def _feature_shapes(self, model: nn.Module, example_input: Tensor, who: str) -> dict[str, torch.Size]:
        # in evaluation mode, so that the trial leaves the statistics of the normalisation alone
        features_of = recorded_features(model, self.layers)
        with torch.no_grad(), evaluation_mode(model), features_of as features, passing(example_input, who=who):
            model(example_input)
        if odd := [name for name in self.layers if not isinstance(features.get(name), Tensor)]:
            raise SlimlibError(f"layer {odd[0]!r} of the {who} gives no tensor to learn from: it is not called in evaluation, or "
                               "returns several; name another layer")
        return {name: features[name].shape for name in self.layers}

    def forward(self, logits: Tensor, label_loss: Tensor, teacher_logits: Tensor,
                student_features: dict[str, Tensor], teacher_features: dict[str, Tensor]) -> Tensor:
        """The total loss of a batch, given the loss on its labels and what both networks made of it."""
        how = self.distill
        loss = (1 - how.kd_weight) * label_loss
        if how.kd_weight:
            loss = loss + how.kd_weight * kd_loss(logits, teacher_logits, how.temperature)
        for name, regressor in zip(how.hint_layers, self.regressors, strict=True):
            regressed = regressor(student_features[name].float())
            loss = loss + how.hint_weight * hint_loss(regressed, teacher_features[name].float())
        for name in how.attention_layers:
            pair = student_features[name].float(), teacher_features[name].float()
            loss = loss + how.attention_weight * attention_loss(*pair)
        return loss


@contextmanager
def recorded_features(model: nn.Module, layers: Sequence[str]) -> Iterator[dict[str, Tensor]]:
    """Within the context, each forward pass of ``model`` puts the outputs of the named modules into the dictionary.

    As they were written: what is done to them in place afterwards, as by ReLU(inplace=True), is not seen.
    """
    modules = dict(model.named_modules())
    if unknown := [name for name in layers if name not in modules]:
        near = get_close_matches(unknown[0], modules) or [name for name in modules if name][:10]
        raise SlimlibError(f"no layer {unknown[0]!r} in this {type(model).__name__}; it has {', '.join(near)}, and others that "
                           "model.named_modules() tells")
    features: dict[str, Tensor] = {}

    def keep(name: str):
        def hook(_module, _inputs, output) -> None:
            features[name] = output.clone() if isinstance(output, Tensor) else output
        return hook

    handles = [modules[name].register_forward_hook(keep(name)) for name in layers]
    try:
        yield features
    finally:
        for handle in handles:
            handle.remove()
