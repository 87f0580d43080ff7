"""What `import slimlib` offers, for editors and type checkers: the names themselves are loaded when they are first used."""

from slimlib.comparison import compare as compare
from slimlib.criteria import CRITERIA as CRITERIA
from slimlib.data import load_data as load_data
from slimlib.distillation import Distill as Distill
from slimlib.errors import SlimlibError as SlimlibError
from slimlib.evaluation import calibrate_batchnorm as calibrate_batchnorm
from slimlib.evaluation import evaluate as evaluate
from slimlib.fresh import fresh_copy as fresh_copy
from slimlib.planning import plan_from_widths as plan_from_widths
from slimlib.planning import plan_widths as plan_widths
from slimlib.planning import width_path as width_path
from slimlib.plans import WidthPlan as WidthPlan
from slimlib.recipe import Recipe as Recipe
from slimlib.rules import RULES as RULES
from slimlib.scan import sensitivity as sensitivity
from slimlib.spectrum import cumulative as cumulative
from slimlib.spectrum import spectra as spectra
from slimlib.spectrum import widths_at as widths_at
from slimlib.storage import load as load
from slimlib.storage import save as save
from slimlib.surgery import prune as prune
from slimlib.surgery import thin as thin
from slimlib.tracing import trace as trace
from slimlib.training import History as History
from slimlib.training import fit as fit
from slimlib.widths import WidthPath as WidthPath

__version__: str
