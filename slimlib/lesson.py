"""The teacher's part in a training step.

Without augmentation an image looks the same in every epoch, and to every student: the teacher is then asked once, and what
it answered is kept for as long as it lives. Sixty students of one teacher cost one pass of it over the images.
"""

from __future__ import annotations

from contextlib import ExitStack
from weakref import WeakKeyDictionary, ref

import torch
from torch import Tensor, nn

from slimlib.distillation import Distill, Distiller, recorded_features
from slimlib.errors import SlimlibError
from slimlib.evaluation import logits_of
from slimlib.fingerprint import fingerprint
from slimlib.modes import evaluation_mode, in_channels_last
from slimlib.precision import autocast
from slimlib.recipe import Recipe
from slimlib.splits import Data

_ANSWERS: WeakKeyDictionary[nn.Module, tuple[ref, tuple, Tensor]] = WeakKeyDictionary()
"""Teacher -> (the split, which is not kept alive; what else its answers depend on; its logits of all the split's images); the
latest only."""


class Lesson:
    """The teacher's logits and features of a batch, and the loss made of both networks'.

    The teacher is moved to the data's device and only evaluated.
    """

    def __init__(self, student: nn.Module, teacher: nn.Module, distill: Distill, data: Data, precision: str,
                 recipe: Recipe, stack: ExitStack):
        self.teacher, self.device, self.precision = teacher.to(data.device), data.device, precision
        stack.enter_context(evaluation_mode(teacher))
        stack.enter_context(in_channels_last(teacher))
        self.distiller = Distiller(student, teacher, distill, data.example_input)
        if self.distiller.layers and recipe.compile:
            raise SlimlibError(f"compile={recipe.compile!r} cannot be combined with hints or attention transfer, which "
                               "look inside the network: give compile=False")
        self.features = [stack.enter_context(recorded_features(model, self.distiller.layers)) for model in (student, teacher)]
        same_images = recipe.augment == "none" and not self.distiller.layers
        self.known = self._answers(data, recipe.batch_size) if same_images else None

    def _ask(self, images: Tensor) -> Tensor:
        with torch.no_grad(), autocast(self.device, self.precision):  # inference_mode's tensors may not enter a graph
            return logits_of(self.teacher(images), who="teacher").float()

    def _answers(self, data: Data, batch_size: int) -> Tensor:
        """The teacher's logits of all training images, (N, classes); those of last time if nothing has changed since."""
        split = data.train
        # the weights too, so that a teacher that was changed, in whatever way, is asked again
        rests_on = (fingerprint(self.teacher), str(self.device), self.precision, batch_size)
        known = _ANSWERS.get(self.teacher)
        if known is None or known[0]() is not split or known[1] != rests_on:
            known = ref(split), rests_on, torch.cat([self._ask(images) for images, _ in split.in_order(batch_size)])
            _ANSWERS[self.teacher] = known
        return known[2]

    def __call__(self, index: Tensor, images: Tensor, logits: Tensor, label_loss: Tensor) -> Tensor:
        answer = self._ask(images) if self.known is None else self.known[index]
        if answer.shape != logits.shape:
            raise SlimlibError(f"teacher returns {answer.shape[1]} logits and the student {logits.shape[1]}: give a teacher "
                               "of the same classes")
        return self.distiller(logits, label_loss, answer, *self.features)
