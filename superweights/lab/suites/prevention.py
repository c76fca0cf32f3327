"""The main suite: who prevents sinks and outliers on testbed A."""

from __future__ import annotations

from typing import Any

from superweights.lab.architecture import Architecture
from superweights.lab.optimizers.spec import OptimizerSpec
from superweights.lab.recipe import Recipe
from superweights.lab.suites.suite import Arm, Suite

_OPTIMIZER = "optimizer.name"


def _attention(name: str, about: str, source: str, **more: Any) -> Arm:
    return Arm(name, "architecture.attention", name, about, source, **more)


def _gate(kind: str, about: str, **more: Any) -> Arm:
    return Arm(f"gate_{kind}", "architecture.gate", kind, about, "Qiu et al. 2505.06708", **more)


def _optimizer(name: str, about: str, source: str, rates: tuple[float, ...], **more: Any) -> Arm:
    return Arm(name, _OPTIMIZER, name, about, source, rates=rates, **more)


_GU = "Gu et al. 2410.10781"
_KAUL = "Kaul et al. 2410.17174"
_SOFTPICK = "Zuhri et al. 2504.20966"
_RATE = 6e-3
_ADAM_RATES = (3e-3, _RATE, 1.2e-2)
_NULL = ("sink",)

_ATTENTION_ARMS = (
    _attention("softmax1", "softmax with one more logit, 0, that leads nowhere", _KAUL, prevents=_NULL,
               claim="first-token attention 65 % -> 3.3 % (with OrthoAdam); in Zuhri et al. sink rate 34.9 -> 16.4 %"),
    _attention("sink_logit", "the same with a learned logit for each head", "gpt-oss", prevents=_NULL,
               claim="in Zuhri et al. sink rate 34.9 -> 8.8 %"),
    _attention("k_bias", "the same with a learned key for each head", _GU, prevents=_NULL,
               claim="sink rate on token 0 18.2 -> 0.0 %"),
    _attention("sigmoid", "sigmoid attention, not normalised", _GU, prevents=_NULL,
               claim="sink rate 18.2 -> 0.4 % (proxy)"),
    _attention("softpick", "rectified softmax", _SOFTPICK, prevents=("sink", "outliers"),
               claim="sink rate 63.4 -> 0.0 %; kurtosis_flat 33,510 -> 341"),
    _gate("element", "heads' outputs gated number by number", prevents=("sink", "outliers"),
          claim="attention on token 0 46.7 -> 4.8 %; largest activation 1053 -> 94"),
    _gate("head", "heads' outputs gated head by head", prevents=("sink", "outliers"),
          claim="attention on token 0 46.7 -> 7.3 %; largest activation 1053 -> 98"),
    _attention("differential_v2", "two softmax maps subtracted", "Differential Transformer V2 (unilm)",
               prevents=("outliers",), claim="lower activation outliers (no table)"),
    # A wider MLP: as many parameters as an element-wise gate or the second query heads add.
    Arm("wider", "architecture.inner", 197, "the control with a wider MLP", "ours: equal parameters", matched=True),
    _attention("rectified", "rectified softmax that still sums to one", _SOFTPICK, negative=True,
               claim="sink rate 34.9 -> 25.6 %: still there"),
    _attention("sigmoid_normalized", "sigmoid attention over its sum", _GU, negative=True,
               claim="sink rate 18.2 -> 30.2 %"),
    _attention("v_bias", "a learned vector added to each head's output", _GU, negative=True),
    _gate("ns", "a gate that never closes", negative=True,
          claim="attention on token 0 46.7 -> 45.1 %; largest activation 1053 -> 892"),
    _gate("static", "a gate that does not see the input", negative=True,
          claim="attention on token 0 46.7 -> 36.4 %; largest activation 1053 -> 471"),
)  # fmt: skip

_OPTIMIZER_ARMS = (
    _optimizer("orthoadam", "Adam's moments in a fixed random basis (kron)", _KAUL, _ADAM_RATES,
               prevents=("outliers",), claim="kurtosis 1657 -> 3.1 (with softmax-1 and one gain)"),
    Arm("orthoadam_one_gain", "architecture.norm", "rms_single", "OrthoAdam with one gain in each norm", _KAUL,
        of="orthoadam", prevents=("outliers",), rates=_ADAM_RATES,
        claim="kurtosis 188.4 with LayerNorm, 3.0 with one gain"),
    _optimizer("soap", "Adam in the eigenbasis of Shampoo", "He et al. 2405.19279", _ADAM_RATES,
               prevents=("outliers",), claim="lower kurtosis with Pre-Norm too (no table read)"),
    _optimizer("sgd", "stochastic gradient descent with momentum", "Guo et al. 2410.13835", (0.03, 0.1, 0.3),
               prevents=("outliers",), claim="residual peaks go, sinks stay"),
    Arm("signed_permutation", "optimizer.rotation", "signed_permutation", "OrthoAdam by a signed permutation: AdamW",
        "ours: a public re-implementation does this", of="orthoadam", negative=True),
)  # fmt: skip

PREVENTION = Suite(
    "prevention",
    "sinks and outliers on testbed A: nineteen designs beside a small Llama",
    Recipe(architecture=Architecture(layers=3), optimizer=OptimizerSpec(learning_rate=_RATE)),
    (*_ATTENTION_ARMS, *_OPTIMIZER_ARMS),
    rates=_ADAM_RATES,
)
