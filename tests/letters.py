"""A tokenizer with one token per character, and tiny models that speak it: for tests that are about text."""

from __future__ import annotations

from pathlib import Path

from small import tiny
from tokenizers import Regex, Tokenizer
from tokenizers.decoders import Fuse
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Split
from transformers import LlamaConfig, PreTrainedTokenizerFast

CHARACTERS = [chr(code) for code in range(32, 126)]


def letters() -> PreTrainedTokenizerFast:
    """Characters from space to `}`, the newline, and an end of sequence: 96 tokens."""
    vocabulary = {each: n for n, each in enumerate(["<end>", "\n", *CHARACTERS])}
    made = Tokenizer(WordLevel(vocabulary, unk_token="<end>"))
    made.pre_tokenizer = Split(Regex(r"[\s\S]"), "isolated")
    made.decoder = Fuse()
    return PreTrainedTokenizerFast(tokenizer_object=made, eos_token="<end>")


def speaking_llama(**settings):
    """A tiny Llama over those tokens."""
    sizes = {"vocab_size": 96, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 512}
    return tiny(LlamaConfig(**{**sizes, **heads, "eos_token_id": 0, **settings}))


def saved_speaker(folder: Path, **settings) -> Path:
    """The same in a folder, with its tokenizer."""
    speaking_llama(**settings).save_pretrained(folder)
    letters().save_pretrained(folder)
    return folder
