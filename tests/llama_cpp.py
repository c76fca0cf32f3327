"""llama.cpp, as the xllamacpp package carries it: the next token's distribution after a prompt."""

from __future__ import annotations

from pathlib import Path

import torch


def log_probabilities(path: Path, ids: list[int], adapter: Path | None = None) -> torch.Tensor:
    """Log-probabilities of the whole vocabulary after `ids`, by llama.cpp, a LoRA adapter loaded if given."""
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path = str(path)
    params.n_ctx = 256
    params.n_parallel = 1
    params.warmup = False
    params.verbosity = -1
    params.cpuparams.n_threads = 2
    if adapter is not None:
        lora = xllamacpp.CommonAdapterLoraInfo()
        lora.path, lora.scale = str(adapter), 1.0
        params.lora_adapters = [lora]
    server = xllamacpp.Server(params)
    asked = {"prompt": ids, "n_predict": 1, "logprobs": 1_000_000, "temperature": 0.0, "cache_prompt": False}
    answer = server.handle_completions(asked)
    (token,) = answer["choices"][0]["logprobs"]["content"]
    found = torch.full((len(token["top_logprobs"]),), float("nan"))
    for each in token["top_logprobs"]:
        found[each["id"]] = each["logprob"]
    assert not found.isnan().any(), "llama.cpp left out tokens"
    return found


def divergence(p: torch.Tensor, q: torch.Tensor) -> float:
    """KL(p, q) of two vectors of log-probabilities, nats."""
    return float((p.exp() * (p - q)).sum())
