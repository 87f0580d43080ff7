"""The book's figures: one style, one colour and marker a rule, the data behind each figure written beside it.

Every function takes a table (or several, by name) and returns a matplotlib Figure; `show` displays it once and writes
the data. Figures carry their own light panel, so that they read equally well on a dark page.
"""

from slimlib.study.figures.comparisons import accuracy_by_rule, differences_by_rule
from slimlib.study.figures.forests import control_forest, correlation_forest, forest
from slimlib.study.figures.glance import at_a_glance, deciding_comparisons
from slimlib.study.figures.sensitivity import agreement, sensitivity_curves, sensitivity_map
from slimlib.study.figures.structure import budget_path, scree, trained_and_untrained, widths, widths_by_shape
from slimlib.study.figures.style import (
    BLACK,
    BLUE,
    GREEN,
    GREY,
    LOOKS,
    ORANGE,
    PINK,
    RED,
    SKY,
    STYLE,
    WIDE,
    WINE,
    YELLOW,
    look,
    nothing,
    show,
    show_each,
    use_style,
)
from slimlib.study.figures.timing import latency_against_macs
from slimlib.study.names import NAMES, budget_name, name

__all__ = [
    "BLACK", "BLUE", "GREEN", "GREY", "LOOKS", "NAMES", "ORANGE", "PINK", "RED", "SKY", "STYLE", "WIDE", "WINE", "YELLOW",
    "accuracy_by_rule", "agreement", "at_a_glance", "budget_name", "budget_path", "control_forest", "correlation_forest",
    "deciding_comparisons", "differences_by_rule", "forest", "latency_against_macs", "look", "name", "nothing",
    "scree", "sensitivity_curves", "sensitivity_map", "show", "show_each", "trained_and_untrained", "use_style",
    "widths", "widths_by_shape",
]  # fmt: skip
