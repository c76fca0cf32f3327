"""The functions that make weights of scores, by the name of the attention; softmax and its null slots apart."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from torch import Tensor

from superweights.lab.parts import kernels, rectified, sigmoid

# Each takes scores [..., T, S] in which masked ones are -inf, and gives weights of the same shape, zero there.
WEIGH: Mapping[str, Callable[[Tensor], Tensor]] = {
    "sigmoid": sigmoid.sigmoid,
    "sigmoid_normalized": sigmoid.sigmoid_normalized,
    "sigmoid_log": sigmoid.sigmoid_log,
    "elu": kernels.elu,
    "elu_normalized": kernels.elu_normalized,
    "elu_kernel": kernels.over_sum,
    "linear_kernel": kernels.over_size,
    "mlp_kernel": kernels.plain,
    "mlp_kernel_normalized": kernels.over_size,
    "relu": rectified.relu,
    "softpick": rectified.softpick,
    "softpick_scaled": rectified.softpick,
    "rectified": rectified.rectified,
}
