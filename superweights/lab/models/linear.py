"""The linear layers that write to the residual stream, told apart because they may start smaller."""

from __future__ import annotations

from torch import nn


class Writing(nn.Linear):
    """A matrix without bias whose output is added to the residual stream."""

    def __init__(self, inputs: int, outputs: int):
        super().__init__(inputs, outputs, bias=False)
