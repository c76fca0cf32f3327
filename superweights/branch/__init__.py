"""Many edited versions of a model in a single pass over its weights.

An edit changes nothing before the block it stands in, and nothing but its block's own arithmetic there. So
the model runs once, unedited; where a branch's first edit stands, that block runs again on the same input
with the edit in place, and from there on the branch's hidden states go through every further block right
after the model's own, while that block's weights are in memory. No shape is assumed and no arithmetic is
imitated: every branch is the model's own block on its own edited weights, so a branch without edits is
equal to the model bit for bit (tests/test_branch.py, on every family).

Asked to, several branches go through a block as further rows of one batch: faster where each has few tokens,
and equal to rounding.

Models whose blocks do not form a chain (something happens between two blocks) are noticed while they run,
and their branches fall back to passes of their own. Towers are chains one after the other: what changes in the last
one rides along, what changes in one before it (an encoder, a vision tower) gets a pass of its own.
"""

from __future__ import annotations

from superweights.branch.branching import Branching, branching
from superweights.branch.nouns import Branch, Pausable, Visit

__all__ = ["Branch", "Branching", "Pausable", "Visit", "branching"]
