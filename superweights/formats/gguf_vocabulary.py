"""A transformers tokenizer as a GGUF file holds it: byte-level BPE, told to llama.cpp token by token."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from superweights.errors import SuperweightsError

CONVERT = "convert the model with llama.cpp's convert_hf_to_gguf.py first, and give the file that it writes."
# The special tokens that a file may name; transformers and the gguf package call them alike.
_SPECIAL = ("bos", "eos", "pad", "unk")


@dataclass(frozen=True)
class Vocabulary:
    """What a GGUF file says of a byte-level BPE tokenizer, but for the name of its pre-tokenizer."""

    tokens: tuple[str, ...]
    """The text of each token; bytes are written as printable characters, as in tokenizer.json."""
    types: tuple[int, ...]
    """The type of each, a number of `gguf.TokenType`."""
    merges: tuple[str, ...]
    """Pairs that become one token, the first of them first."""
    special: tuple[tuple[str, int], ...]
    """The ids of the special tokens that there are: `bos`, `eos`, `pad`, `unk`."""
    add_bos: bool
    """Whether a text begins with the first of them."""
    add_eos: bool
    """Whether a text ends with the second."""
    chat_template: str | None
    """The template of conversations."""

    def add_to(self, writer: Any, pre: str) -> None:
        """Tell it to `writer`, a `gguf.GGUFWriter`; `pre` is llama.cpp's name for the pre-tokenizer."""
        writer.add_tokenizer_model("gpt2")
        writer.add_tokenizer_pre(pre)
        writer.add_token_list(self.tokens)
        writer.add_token_types(self.types)
        writer.add_token_merges(self.merges)
        for name, number in self.special:
            getattr(writer, f"add_{name}_token_id")(number)
        writer.add_add_bos_token(self.add_bos)
        writer.add_add_eos_token(self.add_eos)
        if self.chat_template is not None:
            writer.add_chat_template(self.chat_template)


def vocabulary_of(tokenizer: Any, size: int, where: str) -> Vocabulary:
    """The vocabulary of a tokenizer for a model with a table of `size` tokens; `where` names the model in errors.

    Raises `SuperweightsError` for every tokenizer but byte-level BPE, and for one with more tokens than the table.
    """
    stored = _byte_level(tokenizer, where)
    tokens, types = _tokens(tokenizer, size, where)
    ids = {name: getattr(tokenizer, f"{name}_token_id") for name in _SPECIAL}
    if ids["eos"] is None:
        raise SuperweightsError(
            f"The tokenizer of {where} names no end of sequence, for which llama.cpp would take token 11.",
            hint="set eos_token in its tokenizer_config.json.",
        )
    framed, bare = (tokenizer("a", add_special_tokens=flag).input_ids for flag in (True, False))
    template = tokenizer.chat_template
    return Vocabulary(
        tokens,
        types,
        tuple(_merge(pair, where) for pair in stored["model"]["merges"]),
        tuple((name, number) for name, number in ids.items() if number is not None),
        framed[:1] == [ids["bos"]] != bare[:1],
        framed[-1:] == [ids["eos"]] != bare[-1:],
        template if isinstance(template, str) else None,
    )


def _byte_level(tokenizer: Any, where: str) -> dict[str, Any]:
    """What tokenizer.json says. Raises unless it is byte-level BPE without a normalizer."""
    if tokenizer is None:
        raise SuperweightsError(
            f"{where} has no tokenizer, and no GGUF file is made without one.", hint=CONVERT
        )
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        kind = f"{type(tokenizer).__name__}, without a tokenizer.json"
        raise SuperweightsError(f"The tokenizer of {where} is {kind}, not byte-level BPE.", hint=CONVERT)
    stored = json.loads(backend.to_str())
    kind, before = stored["model"].get("type"), stored.get("pre_tokenizer") or {}
    steps = [step["type"] for step in before.get("pretokenizers", [before]) if step]
    if kind != "BPE" or "ByteLevel" not in steps or stored.get("normalizer") is not None:
        normal = (stored.get("normalizer") or {}).get("type", "no normalizer")
        raise SuperweightsError(
            f"The tokenizer of {where} is {kind} with {normal} and the pre-tokenizer {'+'.join(steps) or 'none'}, "
            "not byte-level BPE.",
            hint=CONVERT,
        )
    return stored


def _tokens(tokenizer: Any, size: int, where: str) -> tuple[tuple[str, ...], tuple[int, ...]]:
    """The text and the type of each token; rows of the table that no token has are unused."""
    from gguf import TokenType

    texts = {number: text for text, number in tokenizer.get_vocab().items()}
    last = max(texts, default=-1)
    if last >= size:
        raise SuperweightsError(
            f"The tokenizer of {where} has token {last}, and the model's table ends at {size - 1}.",
            hint="give the tokenizer that belongs to the model.",
        )
    added = tokenizer.added_tokens_decoder
    types = []
    for number in range(size):
        if number not in texts:
            types.append(int(TokenType.UNUSED))
        elif number in added:
            types.append(int(TokenType.CONTROL if added[number].special else TokenType.USER_DEFINED))
        else:
            types.append(int(TokenType.NORMAL))
    return tuple(texts.get(number, f"[PAD{number}]") for number in range(size)), tuple(types)


def _merge(pair: str | list[str], where: str) -> str:
    """A pair as GGUF holds it: two texts with a space between."""
    told = pair if isinstance(pair, str) else " ".join(pair)
    if told.count(" ") != 1:
        raise SuperweightsError(
            f"The tokenizer of {where} merges {told!r}, and no text of a byte-level merge has a space in it.",
            hint=CONVERT,
        )
    return told
