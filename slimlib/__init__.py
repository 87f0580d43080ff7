"""slimlib: every layer's width from PCA of its filters, then prune or distil at those widths (3AS, arXiv 2202.10461).

Names are loaded when they are first used, so that importing the method does not load the training loop or the book.
"""

from importlib import import_module
from importlib.util import find_spec

__version__ = "0.1.0"

_HOME = {
    "SlimlibError": "errors", "spectra": "spectrum", "cumulative": "spectrum", "widths_at": "spectrum", "trace": "tracing",
    "WidthPlan": "plans", "WidthPath": "widths", "plan_widths": "planning", "plan_from_widths": "planning",
    "width_path": "planning", "RULES": "rules", "CRITERIA": "criteria", "prune": "surgery", "thin": "surgery",
    "save": "storage", "load": "storage", "fresh_copy": "fresh", "sensitivity": "scan", "load_data": "data",
    "Recipe": "recipe", "History": "training", "fit": "training", "evaluate": "evaluation",
    "calibrate_batchnorm": "evaluation", "Distill": "distillation", "compare": "comparison",
}
_MODULES = {"models", "data", "training", "distillation", "study", "book", "layout", "spectrum", "widths", "rules", "steps",
            "cost", "criteria", "surgery", "storage", "sampling", "latency", "planning", "plans", "filters", "request", "fresh",
            "evaluation"}

__all__ = sorted({*_HOME, *_MODULES})


def __getattr__(name: str):
    if name in _HOME:
        module = import_module(f"slimlib.{_HOME[name]}")
        value = getattr(module, name)
        globals()[name] = value
        return value
    if name in _MODULES or (not name.startswith("__") and find_spec(f"slimlib.{name}")):
        return import_module(f"slimlib.{name}")
    raise AttributeError(f"module 'slimlib' has no attribute {name!r}")


def __dir__():
    return sorted({*globals(), *__all__})
