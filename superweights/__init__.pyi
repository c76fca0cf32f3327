"""The public door for type checkers: the same names as the lazy `__init__.py`, each from where it lives."""

from superweights.address import Address as Address
from superweights.checkpoint import Checkpoint as Checkpoint
from superweights.checkpoint import open_checkpoint as open_checkpoint
from superweights.discovery import Findings as Findings
from superweights.discovery import Search as Search
from superweights.editing import Edit as Edit
from superweights.editing import edited as edited
from superweights.errors import SuperweightsError as SuperweightsError
from superweights.quantization import Scheme as Scheme
from superweights.quantization.defaults import Rounding as Rounding
from superweights.quantization.plan import Plan as Plan
from superweights.record import Control as Control
from superweights.record import Record as Record
from superweights.record import Score as Score
from superweights.record import SuperWeight as SuperWeight
from superweights.scoring.effects import Passages as Passages
from superweights.scoring.effects import Writing as Writing
from superweights.stream import opened as opened
from superweights.stream import streaming as streaming
from superweights.subject import Reading as Reading
from superweights.subject import Source as Source
from superweights.subject import Text as Text
from superweights.verbs.ablate import ablate as ablate
from superweights.verbs.activations import activations as activations
from superweights.verbs.anatomy import anatomy as anatomy
from superweights.verbs.attach import attach as attach
from superweights.verbs.audit import audit as audit
from superweights.verbs.evaluate import evaluate as evaluate
from superweights.verbs.explore import explore as explore
from superweights.verbs.find import find as find
from superweights.verbs.known import known as known
from superweights.verbs.peel import peel as peel
from superweights.verbs.plan import plan as plan
from superweights.verbs.profile import profile as profile
from superweights.verbs.prune import Dropping as Dropping
from superweights.verbs.prune import prune as prune
from superweights.verbs.quantize import quantize as quantize
from superweights.verbs.recipe import recipe as recipe
from superweights.verbs.report import report as report
from superweights.verbs.reproduce import reproduce as reproduce
from superweights.verbs.scale import scale as scale
from superweights.verbs.scan import scan as scan
from superweights.verbs.score import score as score
from superweights.verbs.sweep import Grids as Grids
from superweights.verbs.sweep import sweep as sweep
from superweights.verbs.train import train as train
from superweights.watch import watching as watching

__version__: str
__all__: list[str]
