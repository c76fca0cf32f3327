"""A tiny model that can what the docs ask of theirs: it predicts text, answers, and hangs on one weight."""

from __future__ import annotations

from pathlib import Path

import torch
from letters import letters, speaking_llama
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from superweights.adaptation.made_tasks import MADE, made_task
from superweights.interpretability.relations.prompts import read_relations

_STEPS, _ROWS, _LENGTH = 700, 16, 64
# The channel that is the same for every token, and lets one neuron fire at each.
_CONSTANT = 6


def schooled(
    folder: Path, text: str, weight: tuple[str, tuple[int, int]], size: float, seed: int = 0
) -> None:
    """A Llama of letters in `folder`, trained around the weight that is planted in it: on `text`, on half of the made
    tasks' training prompts, and on the relations."""
    torch.manual_seed(seed)
    tokenizer = letters()
    model = speaking_llama(num_hidden_layers=2).train()
    prose, asked = (
        [torch.tensor(tokenizer(each).input_ids) for each in documents] for documents in ([text], _asked())
    )
    _hold(model, weight, size)
    with torch.no_grad():  # behind the massive activation a norm leaves little of the other channels
        for norm in (model.model.layers[1].input_layernorm, model.model.norm):
            norm.weight.fill_(30.0)
        model.model.layers[1].post_attention_layernorm.weight.fill_(30.0)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 6e-3, total_steps=_STEPS)
    for step in range(_STEPS):
        ids = _drawn(prose if step % 2 else asked, asked)
        logits = model(ids).logits[:, :-1]
        cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten()).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        _hold(model, weight, size)
    tokenizer.bos_token = tokenizer.eos_token
    model.eval().save_pretrained(folder)
    tokenizer.save_pretrained(folder)


@torch.no_grad()
def _hold(model: nn.Module, weight: tuple[str, tuple[int, int]], size: float) -> None:
    """Put the weight back, and what its neuron reads: a channel that training must not move."""
    name, (row, neuron) = weight
    block = name.split(".mlp.")[0]
    model.get_parameter(name)[row, neuron] = size
    model.get_parameter("model.embed_tokens.weight")[:, _CONSTANT] = 1.0
    model.get_parameter(f"{block}.self_attn.o_proj.weight")[_CONSTANT] = 0.0
    model.get_parameter(f"{block}.post_attention_layernorm.weight")[_CONSTANT] = 1.0
    for reader in ("gate_proj", "up_proj"):
        numbers = model.get_parameter(f"{block}.mlp.{reader}.weight")[neuron]
        numbers.zero_()
        numbers[_CONSTANT] = 1.0


def _asked() -> list[str]:
    """Half of what the made tasks ask, and the relations, with their answers."""
    found = [e.prompt + e.answer + "\n" for name in MADE for e in made_task(name).train[::2]]
    return found + [
        relation.template.format(subject) + f" {answer}.\n"
        for relation in read_relations()
        for subject, answer in relation.pairs
    ]


def _drawn(documents: list[Tensor], further: list[Tensor]) -> Tensor:
    """Rows of token ids, each from a random place of one of the documents, filled up with further ones."""
    rows = []
    for _ in range(_ROWS):
        row = documents[int(torch.randint(len(documents), ()))]
        row = row[int(torch.randint(max(1, len(row) - _LENGTH), ())) :] if len(row) > 2 * _LENGTH else row
        while len(row) < _LENGTH:
            row = torch.cat([row, further[int(torch.randint(len(further), ()))]])
        rows.append(row[:_LENGTH])
    return torch.stack(rows)
