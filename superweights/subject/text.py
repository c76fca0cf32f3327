"""Texts and the token batches cut from them.

A text carries the hash of its content, because two machines may hold different texts under one name: the
embedded prose differs between Python versions.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from superweights.axes import Int
from superweights.errors import SuperweightsError
from superweights.wording import counted

# The first is the prompt of the published code (arXiv 2411.07191), continued so that longer cuts exist; a
# causal model sees the same first tokens. The others are ours: narration, a list, a question, plain facts.
PROMPTS = (
    "Apple Inc. is a worldwide tech company. It sells telephones, computers and watches in more than a "
    "hundred countries, and most of its shops stand in large cities.",
    "The ferry left the harbour before sunrise, and by the time the fog lifted nobody on board could see "
    "the coast any more, only gulls and a long grey line of water.",
    "To bake a simple loaf you need flour, water, salt and yeast. Mix them in a bowl, wait until the dough "
    "has doubled in size, then put it into a hot oven for forty minutes.",
    "Why do leaves turn red in autumn? Because the tree takes back the green pigment when the days grow "
    "short, and the colours that were there all summer long become visible.",
)


@dataclass(frozen=True)
class Text:
    """A text, where it came from, and the SHA-256 of its UTF-8 bytes."""

    name: str
    """Where it came from, for the reader."""
    text: str
    sha256: str
    """Of its UTF-8 bytes, in hexadecimal."""

    @classmethod
    def of(cls, name: str, text: str) -> Text:
        """`text` with its hash. Raises `SuperweightsError` when it is empty."""
        if not text.strip():
            raise SuperweightsError(f"{name} holds no text.", hint="give a file with some prose in it.")
        return cls(name, text, hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest())


def embedded_prose() -> Text:
    """English prose that every CPython carries: the reference manual's paragraphs in `pydoc_data.topics`.

    Paragraphs of more than 50 words without `|` (tables, grammar), each once, with their line breaks
    undone; about 0.1 MB. The manual differs between Python versions: compare `sha256` before comparing
    numbers.
    """
    from pydoc_data.topics import topics

    blocks = (block for name in sorted(topics) for block in topics[name].split("\n\n"))
    prose = {
        " ".join(block.split()): None for block in blocks if len(block.split()) > 50 and "|" not in block
    }
    return Text.of("embedded prose (pydoc_data.topics)", "\n\n".join(prose))


def read_text(path: str | Path) -> Text:
    """The text of a UTF-8 file. Raises `SuperweightsError` when it is absent, empty, or not text."""
    path = Path(path)
    try:
        data = path.read_bytes()
    except FileNotFoundError as error:
        raise SuperweightsError(f"There is no file {path}.", hint="check the path of the text.") from error
    except IsADirectoryError as error:
        raise SuperweightsError(f"{path} is a folder.", hint="give one text file.") from error
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise SuperweightsError(
            f"{path} is not UTF-8 text: byte {error.start} is {data[error.start]:#04x}.",
            hint="convert it, for example with iconv -t UTF-8, or give a text file.",
        ) from error
    if "\0" in text:
        raise SuperweightsError(f"{path} is a binary file.", hint="give a file of plain text.")
    return Text.of(str(path), text)


def read_passages(path: str | Path, count: int | None = None) -> tuple[str, ...]:
    """The texts of a file of JSON lines, each an object with a string `text`: the first `count`, or all.

    Raises `SuperweightsError` naming the line that is no such object.
    """
    lines = [line for line in read_text(path).text.splitlines() if line.strip()][:count]
    found = []
    for number, line in enumerate(lines, 1):
        try:
            passage = json.loads(line)
        except json.JSONDecodeError:
            passage = None
        if not isinstance(passage, dict) or not isinstance(passage.get("text"), str):
            raise SuperweightsError(
                f"Passage {number} of {path} is not a JSON object with a string called text.",
                hint='write one passage a line, as {"text": "It was a fine day."}.',
            )
        found.append(passage["text"])
    return tuple(found)


def windows(
    tokenizer: Any,
    text: Text | str,
    length: int,
    count: int | None = None,
    stride: int | None = None,
    bos: bool = False,
) -> Int[Tensor, "n length"]:
    """Consecutive windows of a text's tokens: `[n, length]`, int64.

    The whole text is tokenised once, without special tokens; a window starts every `stride` tokens
    (default: where the last one ended), and tokens left over at the end are dropped. `count` takes the first
    so many. With `bos` each window is the beginning-of-sequence token and `length - 1` tokens of the text.

    Raises `SuperweightsError` when the text has fewer windows than asked for, or none.
    """
    ids = torch.tensor(encode(tokenizer, _content(text)), dtype=torch.long)
    if not bos:
        return cut(ids, length, count, stride)
    return _with_bos(tokenizer, cut(ids, length - 1, count, stride))


def window_bytes(
    tokenizer: Any,
    text: Text | str,
    length: int,
    count: int | None = None,
    stride: int | None = None,
    bos: bool = False,
) -> Int[Tensor, "n length"]:
    """How many UTF-8 bytes of the text each token of `windows(...)` stands for: `[n, length]`, int64.

    Bytes that no token spells (dropped spaces) count with the token after them, and a character split over
    several tokens with the first of them, so that the whole adds up. Needs a tokenizer with offsets.
    """
    content = _content(text)
    if not getattr(tokenizer, "is_fast", False):
        raise SuperweightsError(
            "This tokenizer does not say which characters a token stands for.",
            hint="score in nats per token (perplexity) instead of bits per byte.",
        )
    found = tokenizer(content, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
    ends = torch.tensor([end for _, end in found["offset_mapping"]], dtype=torch.long).cummax(0).values
    utf8 = torch.tensor([0, *(len(ch.encode("utf-8", "surrogatepass")) for ch in content)]).cumsum(0)
    nbytes = utf8[ends].diff(prepend=torch.zeros(1, dtype=torch.long))
    if not bos:
        return cut(nbytes, length, count, stride)
    return torch.nn.functional.pad(cut(nbytes, length - 1, count, stride), (1, 0))


def cut(
    ids: Int[Tensor, " tokens"], length: int, count: int | None = None, stride: int | None = None
) -> Int[Tensor, "n length"]:
    """Windows `[n, length]` of a row of tokens `[tokens]`. Errors as `windows`."""
    stride = length if stride is None else stride
    if length < 1 or stride < 1 or (count is not None and count < 1):
        raise SuperweightsError(
            f"Window {length}, stride {stride}, count {count}: each must be at least 1.",
            hint="for example a window of 512 tokens and 24 windows.",
        )
    available = (len(ids) - length) // stride + 1 if len(ids) >= length else 0
    if available < (count or 1):
        wanted = f"{counted(count or 1, 'window')} of {counted(length, 'token')}"
        raise SuperweightsError(
            f"The text has {counted(len(ids), 'token')}, too few for {wanted}.",
            hint=f"ask for at most {counted(available, 'window')}."
            if available
            else "give a longer text or a shorter window.",
        )
    return ids.unfold(0, length, stride)[:count].contiguous()


def token_prompts(
    tokenizer: Any, length: int = 24, bos: bool = False, prompts: Sequence[str] = PROMPTS
) -> Int[Tensor, "prompts n"]:
    """The prompts as tokens: `[prompts, n]`, int64, `n` at most `length`; of the built-in four the first is
    the published code's.

    All are cut to the shortest, so that no padding is needed. With `bos` each begins with that token.
    """
    rows = [encode(tokenizer, prompt) for prompt in prompts]
    shortest = min(length - bos, *map(len, rows))
    if shortest < 1:
        raise SuperweightsError(
            f"A prompt of {length} tokens has no text in it.", hint="use 8 or more tokens."
        )
    ids = torch.tensor([row[:shortest] for row in rows], dtype=torch.long)
    return _with_bos(tokenizer, ids) if bos else ids


def raw_prompts(vocabulary: int, rows: int, length: int, seed: int = 0) -> Int[Tensor, "rows length"]:
    """Random token ids `[rows, length]` below `vocabulary`, seeded: for a checkpoint without a tokenizer."""
    return torch.randint(vocabulary, (rows, length), generator=torch.Generator().manual_seed(seed))


def encode(tokenizer: Any, text: str) -> list[int]:
    """The token ids of `text`, without special tokens and without a warning about long texts."""
    return tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]


def without_last_word(text: str) -> tuple[str, str]:
    """A text up to its last space, and the word after it. Raises `SuperweightsError` for a single word."""
    context, space, word = text.strip().rpartition(" ")
    if not space:
        raise SuperweightsError(f"{text[:60]!r} has no last word.", hint="give texts of two words or more.")
    return context.rstrip(), word


def _content(text: Text | str) -> str:
    return text.text if isinstance(text, Text) else Text.of("The text", text).text


def _with_bos(tokenizer: Any, ids: Tensor) -> Tensor:
    if tokenizer.bos_token_id is None:
        raise SuperweightsError(
            "This tokenizer has no beginning-of-sequence token.", hint="score the model without one."
        )
    return torch.nn.functional.pad(ids, (1, 0), value=tokenizer.bos_token_id)
