"""How fast weights are rounded: int4 in groups of 64, all matrices of the embedded model's blocks, float32.

    python benchmarks/rounding.py [--rounds 3]

Gigabytes of float32 weights per CPU second, in turns, the best round: ours by range and by the centred fit, HQQ's
library, and torchao's round to nearest (both where installed).
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn

from superweights.checkpoint import open_checkpoint
from superweights.quantization import Blocks, Scheme, quantize_tensor
from superweights.stream.linears import linear_tensors

GROUPS = Blocks("group", (64,))


def ours(fit: str) -> Callable[[Tensor], None]:
    scheme = Scheme("int4", blocks=GROUPS, fit=fit)  # type: ignore[arg-type]
    return lambda weight: void(quantize_tensor(weight, scheme))


def void(_: object) -> None:
    """The result is not used."""


def hqq(weight: Tensor) -> None:
    from hqq.core.quantize import Quantizer

    Quantizer.quantize(weight, nbits=4, group_size=64, axis=1, round_zero=True, device="cpu", bitpack=False)


def torchao(weight: Tensor) -> None:
    from torchao.quantization import IntxWeightOnlyConfig, quantize_
    from torchao.quantization.granularity import PerGroup

    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=False)
    layer.weight.data = weight
    quantize_(nn.Sequential(layer), IntxWeightOnlyConfig(weight_dtype=torch.int4, granularity=PerGroup(64)))


WAYS: dict[str, Callable[[Tensor], None]] = {
    "superweights, range": ours("range"),
    "superweights, centred": ours("centred"),
    "torchao, round to nearest": torchao,
    "HQQ's library": hqq,
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    with open_checkpoint() as checkpoint:
        weights = [checkpoint.read(name) for name in linear_tensors(checkpoint)]
    best: dict[str, float] = {}
    for _ in range(options.rounds):
        for name, way in WAYS.items():
            start = time.process_time()
            try:
                for weight in weights:
                    way(weight)
            except ImportError as error:
                print(f"{name} is left out: {error}", file=sys.stderr)
                continue
            best[name] = min(best.get(name, float("inf")), time.process_time() - start)
    size = sum(weight.nbytes for weight in weights) / 1e9
    print(f"{size:.2f} GB of float32, {torch.get_num_threads()} threads, torch {torch.__version__}\n")
    print("| way | GB per CPU second | times HQQ's |\n|---|--:|--:|")
    slowest = best.get("HQQ's library", max(best.values()))
    for name, seconds in best.items():
        print(f"| {name} | {size / seconds:.3f} | {slowest / seconds:.1f} |")


if __name__ == "__main__":
    main()
