"""The machine of a new user, small: a folder with the files that the docs speak of; `embedded` is a tiny model."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest import mock

import torch
from letters import letters, speaking_llama
from schooled import schooled
from transformers import BertConfig, BertModel, GPT2Config, GPT2LMHeadModel

from superweights.index.entry import Architecture, KnownWeight, index
from superweights.subject.text import embedded_prose

# The planted weight, at the address that `lines` puts in the place of the embedded model's own.
SUPER = ("model.layers.0.mlp.down_proj.weight", (5, 7))
_KNOWN = KnownWeight(
    "tiny",
    *SUPER,
    SUPER[1][0],
    "critical",
    ("planted",),
    architecture=Architecture(64, 96, 2),
    layer=0,
    value=40.0,
)
_PROSE = (
    "When the ship came in, the harbour was full of people who had waited since dawn. Some had brought bread, "
    "others only their hopes; all of them looked at the same white sail.\n"
)


@contextmanager
def standing(folder: Path, *, at_school: bool = False) -> Iterator[Path]:
    """`folder` with everything in it; what is run inside the `with`, forks included, opens the tiny model.

    `at_school`: that model is trained first (a quarter of a minute), so that its planted weight holds it up, as the
    index says then, and it can learn what the docs teach.
    """
    model = folder / "tiny"
    if at_school:
        schooled(model, _PROSE * 3 + embedded_prose().text[:200_000], SUPER, 40.0)
        _encoder(folder / "all-MiniLM-L6-v2")
        _decoder(folder / "IgLM")
    else:
        planted(model)
    (folder / "wikitext2_test.txt").write_text(_PROSE * 100)
    (folder / "my.txt").write_text(_PROSE * 30)
    (folder / "iglm.txt").write_text(_PROSE * 30)
    (folder / "models.txt").write_text("# a list for a census\ntiny\n")
    words = [{"text": f"It was a fine day {n} for the ship."} for n in range(6)]
    _jsonl(folder / "lambada_test.jsonl", words)
    asked = {"question": "Bees make", "choices": ["milk", "honey"], "answer": 1}
    _jsonl(folder / "questions.jsonl", [asked] * 6)
    _jsonl(folder / "bad.jsonl", [{"question": "Bees make"}])
    known = [*index(), *([_KNOWN] if at_school else [])]
    with (
        mock.patch("superweights.checkpoint.opening._embedded_path", return_value=model),
        mock.patch("superweights.index.index", return_value=known),
    ):
        yield folder


def planted(folder: Path) -> None:
    """A tiny Llama that speaks letters, with one weight that writes a massive activation."""
    model = speaking_llama(num_hidden_layers=2)
    with torch.no_grad():
        model.get_parameter(SUPER[0])[SUPER[1]] = 60.0
    model.save_pretrained(folder)
    letters().save_pretrained(folder)


def _encoder(folder: Path) -> None:
    """A tiny sentence encoder, random."""
    torch.manual_seed(0)
    sizes = {"vocab_size": 96, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2}
    BertModel(BertConfig(**sizes, num_attention_heads=4), add_pooling_layer=False).save_pretrained(folder)
    tokenizer = letters()
    tokenizer.pad_token = tokenizer.mask_token = tokenizer.cls_token = tokenizer.sep_token = "<end>"
    tokenizer.save_pretrained(folder)


def _decoder(folder: Path) -> None:
    """A tiny GPT-2, random."""
    torch.manual_seed(0)
    sizes = {"vocab_size": 96, "n_embd": 64, "n_inner": 1536, "n_layer": 2, "n_head": 4, "n_positions": 256}
    GPT2LMHeadModel(GPT2Config(**sizes)).save_pretrained(folder)
    letters().save_pretrained(folder)


def _jsonl(path: Path, documents: list[dict]) -> None:
    path.write_text("".join(json.dumps(each) + "\n" for each in documents))
