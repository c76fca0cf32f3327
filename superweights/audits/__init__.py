"""What quantization did to the super weights of a model, to its super activation and to its attention sinks."""

from superweights.audits.auditing import Audit, WeightFate, audit

__all__ = ["Audit", "WeightFate", "audit"]
