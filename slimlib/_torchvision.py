"""Import torchvision, also where its compiled operators do not fit the installed torch.

PyPI's torchvision wheel for Linux is compiled against CUDA. Beside a CPU-only torch its C++ extension cannot be
loaded; torchvision tolerates that, and then registers shape rules for two operators, ``nms`` and ``qnms``, that only the
extension would have declared. The import ends with ``RuntimeError: operator torchvision::nms does not exist``, although
nothing but object detection needs these operators. Declaring their signatures first is enough to mend it; calling them
still fails, as it should.
"""

from __future__ import annotations

import sys
from importlib import import_module
from types import ModuleType

_SIGNATURES = ("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
               "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
_declarations = []  # torch withdraws a declaration when its Library object is collected, so they are kept here


def import_torchvision() -> ModuleType:
    """Return the module ``torchvision``, declaring its missing operators first where a plain import fails for them."""
    try:
        return import_module("torchvision")
    except RuntimeError as error:
        if "operator torchvision::" not in str(error):
            raise
    for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
        del sys.modules[name]  # the half-imported pieces of the failed attempt

    import torch

    library = torch.library.Library("torchvision", "FRAGMENT")
    for signature in _SIGNATURES:
        if not hasattr(torch.ops.torchvision, signature.partition("(")[0]):
            library.define(signature)
    _declarations.append(library)
    return import_module("torchvision")
