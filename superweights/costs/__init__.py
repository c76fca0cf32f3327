"""What a run will read, multiply, hold and take, before it is begun: from a model's config alone."""

from __future__ import annotations

from superweights.costs.machine import Machine, measured
from superweights.costs.pricing import WORK, Estimate, Work, price
from superweights.costs.shape import Shape, shape_of

__all__ = ["WORK", "Estimate", "Machine", "Shape", "Work", "measured", "price", "shape_of"]
