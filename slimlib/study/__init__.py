"""The experiments: runs and their records, profiles, statistics, claims, figures.

profile = study.load_profile("quick")
records = study.ensure(profile.runs("pruning"), profile.store())
table = study.to_frame(records)
"""

from importlib import import_module
from importlib.util import find_spec
from pkgutil import iter_modules

_HOME = {
    "Run": "runs",
    "RECIPE_VERSION": "runs",
    "with_needs": "runs",
    "Store": "store",
    "RunBusy": "locks",
    "to_frame": "store",
    "default_cache": "store",
    "execute": "execution",
    "ensure": "execution",
    "trained": "execution",
    "provenance_table": "provenance",
    "recorded": "provenance",
    "Profile": "profiles",
    "load_profile": "profiles",
    "profile_names": "profiles",
    "status": "profiles",
    "Claim": "claims",
    "load_claims": "claims",
    "Judgement": "judgement",
    "judge": "judgement",
    "judge_all": "judgement",
    "Evidence": "evidence",
    "gather": "evidence",
}
__all__ = sorted({*_HOME, *(module.name for module in iter_modules(__path__))})  # listed, not loaded


def __getattr__(name: str):
    if name in _HOME:
        return getattr(import_module(f"slimlib.study.{_HOME[name]}"), name)
    if not name.startswith("_") and find_spec(f"slimlib.study.{name}"):  # those that few need as well
        return import_module(f"slimlib.study.{name}")
    raise AttributeError(f"module 'slimlib.study' has no attribute {name!r}")


def __dir__():
    return __all__
