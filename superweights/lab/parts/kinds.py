"""The names of the parts a lab model can be made of, and what is known of each before it is built (no torch)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class AttentionKind:
    """How scores become weights.

    `null` is the logit of an extra slot whose value is zero ("none", "zero", "logit": a learned number per head,
    "key": a learned key); with the slot counted in, weights of a row add up to one wherever `sums_to_one` is true.
    `paired`: two maps are subtracted, so that there are two query heads to a head of the output.
    """

    about: str
    """What it is, in a line."""
    source: str
    """Where it is from."""
    null: str = "none"
    null_value: bool = False
    """Whether the slot has a learned value instead."""
    sums_to_one: bool = True
    paired: bool = False

    @property
    def sums_over_tokens_to_one(self) -> bool:
        """Whether the weights that fall on tokens add up to one, so that no proxy is needed to read a sink."""
        return self.sums_to_one and self.null == "none" and not self.paired


_MILLER = "Miller 2023; Kaul et al. 2410.17174, section 3"
_GU = "Gu et al. 2410.10781"
_SOFTPICK = "Zuhri et al. 2504.20966"

ATTENTION: Mapping[str, AttentionKind] = {
    "softmax": AttentionKind("exp(s) over its sum", "Vaswani et al. 1706.03762"),
    "softmax1": AttentionKind("exp(s) over one plus its sum", _MILLER, null="zero"),
    "sink_logit": AttentionKind(
        "one learned extra logit per head", "gpt-oss (transformers gpt_oss)", null="logit"
    ),
    "k_bias": AttentionKind("one learned extra key per head, its value zero", _GU, null="key"),
    "kv_bias": AttentionKind("one learned extra key and value per head", _GU, null="key", null_value=True),
    "v_bias": AttentionKind("softmax, and a learned vector added to each head's output", _GU),
    "sigmoid": AttentionKind("sigmoid(s)", _GU, sums_to_one=False),
    "sigmoid_normalized": AttentionKind("sigmoid(s) over its sum", _GU),
    "sigmoid_log": AttentionKind("sigmoid(s - log T)", "Ramapuram et al. 2409.04431", sums_to_one=False),
    "elu": AttentionKind("elu(s) + 1", _GU, sums_to_one=False),
    "elu_normalized": AttentionKind("elu(s) + 1 over its sum", _GU),
    "elu_kernel": AttentionKind("phi(q) phi(k) over its sum, phi = elu + 1", _GU),
    "linear_kernel": AttentionKind("s over the size of its sum, at least one", _GU, sums_to_one=False),
    "mlp_kernel": AttentionKind("phi(q) phi(k), phi two linear maps with ReLU", _GU, sums_to_one=False),
    "mlp_kernel_normalized": AttentionKind(
        "phi(q) phi(k) over the size of its sum, at least one", _GU, sums_to_one=False
    ),
    "relu": AttentionKind("max(0, s)", "Guo et al. 2410.13835", sums_to_one=False),
    "softpick": AttentionKind("max(0, e^s - 1) over the sum of |e^s - 1|", _SOFTPICK, sums_to_one=False),
    "softpick_scaled": AttentionKind(
        "softpick of s times a learned number times log T", _SOFTPICK, sums_to_one=False
    ),
    "rectified": AttentionKind("max(0, e^s - 1) over its own sum (negative control)", _SOFTPICK),
    "differential": AttentionKind(
        "the difference of two softmax maps, normed per head",
        "Ye et al. 2410.05258",
        paired=True,
        sums_to_one=False,
    ),
    "differential_v2": AttentionKind(
        "the difference of two heads that share keys and values",
        "unilm Diff-Transformer V2",
        paired=True,
        sums_to_one=False,
    ),
}

GATES: Mapping[str, str] = {
    "none": "no gate",
    "element": "each number of a head's output times sigmoid(x W)",
    "head": "each head's output times sigmoid(x W), one number per head",
    "static": "each number of a head's output times sigmoid(w): does not see the input (negative control)",
    "ns": "element-wise, 0.5 + 0.5 sigmoid(x W): never sparse (negative control)",
}

NORMS: Mapping[str, str] = {
    "rms": "x over its root mean square, one gain per channel",
    "rms_single": "x over its root mean square, one gain in all",
    "rms_none": "x over its root mean square, no gain",
    "layer": "LayerNorm: centred, over its standard deviation, gain and bias per channel",
    "tanh": "gain times tanh(alpha x) plus bias: no statistic of x",
}

PLACEMENTS: Mapping[str, str] = {
    "pre": "x + f(norm(x))",
    "post": "norm(x + f(x))",
    "sandwich": "x + norm(f(norm(x)))",
    "op": "x + beta f(x): outlier-protected, one LayerNorm before the first attention",
}

ACTIVATIONS: Mapping[str, str] = {
    "relu": "max(0, x)",
    "gelu": "x Phi(x)",
    "silu": "x sigmoid(x)",
    "relu2": "max(0, x) squared",
    "relu2_clipped": "max(0, x) squared, at most 50",
    "gelu2": "gelu(x) squared",
    "gelu2_clipped": "gelu(x) squared, at most 50",
    "tanh": "tanh(x): symmetric (control of the drift claim)",
}

POSITIONS: Mapping[str, str] = {
    "rope": "queries and keys are rotated by their position",
    "none": "no position is told; the causal mask alone orders tokens",
}

INITS: Mapping[str, str] = {
    "normal": "N(0, init_std^2) for every matrix",
    "depth_scaled": "the two matrices that write to the residual stream: init_std / sqrt(2 layers)",
}
