"""A bit budget spent where it does most: sensitivities measured matrix by matrix, and the plan that they give."""

from superweights.budget.allotting import Allotment, Choice, Step, allot
from superweights.budget.measuring import CANDIDATES, Sensitivity, candidates_for, check_plans, sensitivities

__all__ = [
    "CANDIDATES",
    "Allotment",
    "Choice",
    "Sensitivity",
    "Step",
    "allot",
    "candidates_for",
    "check_plans",
    "sensitivities",
]
