"""Learning from a teacher: soft targets, hints, attention maps, and their sum.

A student thinned from its teacher has the teacher's layer names, so the feature losses pair layers by name.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from slimlib.errors import SlimlibError


@dataclass(frozen=True)
class Distill:
    """Which losses teach a student, and how much each weighs.

    The loss is (1 - ``kd_weight``) x cross-entropy + ``kd_weight`` x :func:`kd_loss` at ``temperature``
    + ``hint_weight`` x :func:`hint_loss` + ``attention_weight`` x :func:`attention_loss`, the last two summed over ``layers``
    (names of modules whose outputs are compared).
    """

    kd_weight: float = 0.9
    temperature: float = 4.0
    hint_weight: float = 0.0
    attention_weight: float = 0.0
    layers: tuple[str, ...] = ()

    def __post_init__(self):
        object.__setattr__(self, "layers", tuple(self.layers))
        if not 0 <= self.kd_weight <= 1:
            raise SlimlibError(f"kd_weight={self.kd_weight} must lie in [0, 1]: the rest weighs the cross-entropy")
        if self.temperature <= 0:
            raise SlimlibError(f"temperature={self.temperature} must be positive")
        if self.hint_weight < 0 or self.attention_weight < 0:
            raise SlimlibError("hint_weight and attention_weight must not be negative")
        if (self.hint_weight or self.attention_weight) and not self.layers:
            raise SlimlibError("layers must name the modules that hints or attention compare, for example ('layer2', 'layer3')")


def kd_loss(student_logits: Tensor, teacher_logits: Tensor, temperature: float) -> Tensor:
    """Soft-target loss of Hinton et al. (2015, section 2): T^2 KL(teacher || student) of logits / T, mean over the batch.

    Both logits have shape (batch, classes). The factor T^2 keeps gradients of the same size at every temperature.
    """
    student = F.log_softmax(student_logits / temperature, dim=1)
    teacher = F.log_softmax(teacher_logits / temperature, dim=1)
    return F.kl_div(student, teacher, reduction="batchmean", log_target=True) * temperature**2


def hint_loss(student_features: Tensor, teacher_features: Tensor) -> Tensor:
    """FitNets (Romero et al. 2015, eq. 3): mean squared error of features that have the same shape (after a regressor)."""
    return F.mse_loss(student_features, teacher_features)


def attention_loss(student_features: Tensor, teacher_features: Tensor) -> Tensor:
    """Attention transfer (Zagoruyko & Komodakis 2017, eq. 2, p = 2): mean squared difference of normalised attention maps.

    Features (batch, channels, height, width), whose channel numbers may differ; the map is the mean of squares over channels,
    flattened and divided by its Euclidean norm.
    """
    def attention(x: Tensor) -> Tensor:
        return F.normalize(x.square().mean(1).flatten(1), dim=1)
    return (attention(student_features) - attention(teacher_features)).square().mean()


class Teaching(nn.Module):
    """The loss of one student under one teacher; its parameters (the hints' 1 x 1 regressors) are trained with the student's."""

    def __init__(self, student: nn.Module, teacher: nn.Module, distill: Distill, example: Tensor):
        super().__init__()
        self.settings = distill
        self.__dict__.update(_student=student, _teacher=teacher)  # not registered: their parameters are not ours
        self._student_features: dict[str, Tensor] = {}
        self._teacher_features: dict[str, Tensor] = {}
        self.regressors = nn.ModuleDict()
        for network, role in ((student, "student"), (teacher, "teacher")):
            missing = [n for n in distill.layers if n not in dict(network.named_modules())]
            if missing:
                raise SlimlibError(f"layers: the {role} has no module {', '.join(missing)}")
        if distill.hint_weight:
            with self.listening(), torch.no_grad():
                for network in (student, teacher):
                    was_training = network.training
                    network.eval()(example)
                    network.train(was_training)
            for name in distill.layers:
                s, t = self._student_features[name], self._teacher_features[name]
                layer = nn.Conv2d(s.shape[1], t.shape[1], 1) if s.dim() == 4 else nn.Linear(s.shape[1], t.shape[1])
                self.regressors[name.replace(".", "/")] = layer.to(example.device)

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Keep the named layers' outputs of every forward pass inside the block."""
        with ExitStack() as stack:
            for network, kept in ((self._student, self._student_features), (self._teacher, self._teacher_features)):
                for name in self.settings.layers:
                    def keep(module, args, output, name=name, kept=kept):
                        kept[name] = output
                    handle = network.get_submodule(name).register_forward_hook(keep)
                    stack.callback(handle.remove)
            yield

    def forward(self, images: Tensor, student_logits: Tensor, labels_loss: Tensor) -> Tensor:
        """The whole loss, from the student's logits and their cross-entropy; the teacher is asked without gradient."""
        with torch.no_grad():
            teacher_logits = self._teacher(images)
        s = self.settings
        loss = (1 - s.kd_weight) * labels_loss
        if s.kd_weight:
            loss = loss + s.kd_weight * kd_loss(student_logits, teacher_logits, s.temperature)
        for name in s.layers:
            student, teacher = self._student_features[name], self._teacher_features[name]
            if s.hint_weight:
                loss = loss + s.hint_weight * hint_loss(self.regressors[name.replace(".", "/")](student), teacher)
            if s.attention_weight:
                loss = loss + s.attention_weight * attention_loss(student, teacher)
        return loss
