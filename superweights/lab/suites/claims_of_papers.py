"""Suites about single claims: their signs, against one arm each, on testbed A at its smallest."""

from __future__ import annotations

from dataclasses import replace

from superweights.lab.architecture import Architecture
from superweights.lab.optimizers.spec import OptimizerSpec
from superweights.lab.recipe import Recipe, Schedule
from superweights.lab.suites.suite import Arm, Sign, Suite

_RATE = 6e-3
_GU = "Gu et al. 2410.10781"
_LNS = "Sun et al. 2502.05795"
_BUG = "Shvetsov et al. 2605.17659"
_HE = "He et al. 2405.19279"
_SMALL = Recipe(architecture=Architecture(layers=3), optimizer=OptimizerSpec(learning_rate=_RATE))


def _sink(goes, claim: str) -> tuple[Sign, ...]:
    return (Sign("argmax_share", goes, claim),)


SIGNS = Suite(
    "signs",
    "what makes sinks stronger and weaker (Gu et al.): attention, weight decay, learning rate, placement",
    _SMALL,
    (
        Arm("decay_0", "optimizer.weight_decay", 0.0, "no weight decay", _GU,
            signs=_sink("down", "sink rate 18.2 -> 15.2 %")),
        Arm("decay_0.5", "optimizer.weight_decay", 0.5, "five times the weight decay", _GU,
            signs=_sink("up", "sink rate 18.2 -> 41.1 %")),
        Arm("rate_quarter", "optimizer.learning_rate", _RATE / 4, "a quarter of the learning rate", _GU,
            signs=_sink("down", "sink rate 18.2 -> 2.9 % (4e-4 to 1e-4)")),
        Arm("post", "architecture.placement", "post", "norms after the sub-layers", _GU,
            signs=_sink("down", "sink rate 18.2 -> 13.5 %")),
        Arm("elu", "architecture.attention", "elu", "elu(s) + 1, not normalised", _GU,
            signs=_sink("down", "sink rate 18.2 -> 0.8 % (proxy)")),
        Arm("elu_kernel", "architecture.attention", "elu_kernel", "a kernel, normalised", _GU,
            signs=_sink("up", "sink rate 18.2 -> 53.7 % (proxy)")),
        Arm("mlp_kernel", "architecture.attention", "mlp_kernel", "a learned kernel, not normalised", _GU,
            signs=_sink("down", "sink rate 18.2 -> 0.7 % (proxy)")),
    ),
)  # fmt: skip

_DEEP = replace(_SMALL, architecture=Architecture(layers=12), schedule=Schedule(steps=400, measure_every=200))

DEPTH = Suite(
    "depth",
    "LayerNorm Scaling on twelve layers: variance, and what late blocks are worth",
    _DEEP,
    (
        Arm("norm_scaling", "architecture.norm_scaling", True, "a norm's output over sqrt(block number)", _LNS,
            signs=(Sign("variance_growth", "down", "last layer's variance about 175 -> 25 (130M, 10k steps)"),
                   Sign("late_removal", "up", "late layers are worth something (no table read)"),
                   Sign("loss", "down", "perplexity 26.73 -> 25.76 (130M)"))),
        Arm("scaled_init", "architecture.init", "depth_scaled", "output matrices begin at std / sqrt(2 layers)", _LNS,
            signs=(Sign("loss", "down", "perplexity 26.73 -> 26.04 (130M)"),)),
        Arm("norm_scaling_scaled_init", "architecture.norm_scaling", True, "both", _LNS, of="scaled_init",
            signs=(Sign("loss", "up", "perplexity 25.76 -> 25.80: not to be combined", against="norm_scaling"),)),
    ),
)  # fmt: skip

_PLAIN = replace(_SMALL, architecture=Architecture(layers=3, gated=False, activation="gelu"))

ACTIVATIONS = Suite(
    "activations",
    "MLP activations in two matrices: spikes, zeros and the drift of the weights behind them",
    _PLAIN,
    (
        Arm("relu", "architecture.activation", "relu", "max(0, x)", _BUG,
            signs=(Sign("neuron_zeros", "up", "up to 90 % zeros"),)),
        Arm("symmetric", "architecture.activation", "tanh", "tanh: symmetric", _BUG,
            signs=(Sign("down_drift", "up", "only positively biased activations push weights down"),)),
        Arm("relu2", "architecture.activation", "relu2", "max(0, x) squared", _BUG, of="relu",
            signs=(Sign("neuron_peak", "up", "spikes 25 times as large in middle layers", against="relu"),)),
        Arm("relu2_clipped", "architecture.activation", "relu2_clipped", "max(0, x) squared, at most 50", _BUG,
            of="relu2", signs=(Sign("neuron_peak", "down", "at most 50", against="relu2"),
                               Sign("loss", "down", "better than unclipped (no table read)", against="relu2"))),
        Arm("gelu2", "architecture.activation", "gelu2", "gelu(x) squared", _BUG,
            signs=(Sign("loss", "down", "the lowest validation loss of all (no table read)"),
                   Sign("neuron_peak", "up", "squares amplify spikes"))),
    ),
)  # fmt: skip

_RATES = (3e-3, _RATE, 1.2e-2)

PROTECTED = Suite(
    "protected",
    "the outlier-protected block and SOAP, alone and together",
    _SMALL,
    (
        Arm("op", "architecture.placement", "op", "no norms inside, branches scaled", _HE, rates=_RATES,
            prevents=("outliers",), claim="lower kurtosis of neurons (no table read)",
            signs=(Sign("kurtosis_neuron", "down", "lower in every setting"),
                   Sign("max_median_ratio", "down", "lower in every setting"))),
        Arm("soap_pre", "optimizer.name", "soap", "SOAP with norms before the sub-layers", _HE, rates=_RATES,
            prevents=("outliers",), claim="lower kurtosis of neurons (no table read)",
            signs=(Sign("kurtosis_neuron", "down", "lower with Pre-Norm too"),)),
        Arm("op_soap", "optimizer.name", "soap", "both", _HE, of="op", rates=_RATES, prevents=("outliers",),
            claim="the lowest of all (no table read)",
            signs=(Sign("kurtosis_neuron", "down", "lower than either", against="op"),
                   Sign("kurtosis_neuron", "down", "lower than either", against="soap_pre"))),
    ),
    rates=_RATES,
)  # fmt: skip
