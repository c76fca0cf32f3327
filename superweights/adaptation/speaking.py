"""Prompts in, completions out, in batches; and what a model gives for each token of a completion."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from superweights.adaptation.tasks import Example, Reward, Task
from superweights.axes import Float, Int
from superweights.errors import SuperweightsError
from superweights.subject import context_of, device_of

# Tokens that go through the model at once.
TOKENS = 2048


@dataclass(frozen=True, eq=False)
class Reader:
    """A tokenizer and how a prompt is put to it: as it stands, or (`chat`) as a user's turn in the chat template.

    Whether a prompt begins with a beginning-of-sequence token is the tokenizer's own default.
    """

    tokenizer: Any
    chat: bool = False

    def prompt(self, text: str) -> list[int]:
        """The token ids of a prompt."""
        if self.chat:
            turn = [{"role": "user", "content": text}]
            return list(
                self.tokenizer.apply_chat_template(turn, add_generation_prompt=True, return_dict=False)
            )
        return list(self.tokenizer(text)["input_ids"])

    def answer(self, text: str) -> list[int]:
        """The token ids of what follows a prompt, character for character (a space before it is the task's own)."""
        return list(self.tokenizer(text, add_special_tokens=False)["input_ids"])

    def text(self, ids: Sequence[int]) -> str:
        """What the ids say, without special tokens."""
        return self.tokenizer.decode(list(ids), skip_special_tokens=True)


@dataclass(frozen=True)
class Completion:
    """What a model wrote after a prompt: the ids of both, and the text of what it wrote, up to the task's stop."""

    prompt: tuple[int, ...]
    ids: tuple[int, ...]
    text: str


@torch.no_grad()
def complete(
    model: nn.Module,
    reader: Reader,
    prompts: Sequence[str],
    *,
    new_tokens: int,
    stop: str | None = None,
    temperature: float = 0.0,
    seed: int = 0,
) -> list[Completion]:
    """What `model` writes after each prompt: greedily at temperature 0, else drawn from the whole distribution.

    Prompts go through in batches of like length, padded on the left. A completion ends at the end-of-sequence token or
    with the token in which `stop` appears. The random state of the program is left as it was.
    """
    rows = [reader.prompt(prompt) for prompt in prompts]
    _check_rows(model, rows, new_tokens)
    found: list[Completion | None] = [None] * len(rows)
    device = device_of(model)
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        for places in _batches(rows, new_tokens):
            batch = [rows[place] for place in places]
            written = _one_token(model, batch, temperature) if new_tokens == 1 else _generate(
                model, reader, batch, new_tokens, temperature
            )  # fmt: skip
            for place, row, ids in zip(places, batch, written, strict=True):
                found[place] = cut(reader, row, ids, stop)
    return [each for each in found if each is not None]


def rewarded(
    model: nn.Module, reader: Reader, task: Task, examples: Sequence[Example], reward: Reward
) -> Float[Tensor, " n"]:
    """The reward of the model's greedy completion of each example, `[n]`, float64."""
    said = complete(model, reader, [e.prompt for e in examples], new_tokens=task.new_tokens, stop=task.stop)
    return torch.tensor([reward(c.text, e) for c, e in zip(said, examples, strict=True)], dtype=torch.float64)


@dataclass(frozen=True, eq=False)
class Scored:
    """What a model gives for the tokens of some completions: one entry per token, all rows in order.

    `log_p [tokens, vocabulary]` are log-probabilities before each token, `ids [tokens]` the tokens that followed,
    `row [tokens]` the completion each belongs to.
    """

    log_p: Tensor
    ids: Tensor
    row: Tensor

    def of_tokens(self) -> Tensor:
        """The log-probability of each token, `[tokens]`."""
        return self.log_p.gather(1, self.ids[:, None])[:, 0]


def score(model: nn.Module, pairs: Sequence[tuple[Sequence[int], Sequence[int]]]) -> Scored:
    """What `model` gives for each (prompt, completion) of token ids, in one forward pass; with a graph where asked.

    Rows are padded on the right, so that positions are those of the unpadded text. Logits are made for the positions
    that some completion needs, where the model's forward can leave the others out.
    """
    device = device_of(model)
    rows = [[*prompt, *after] for prompt, after in pairs]
    longest = max(map(len, rows))
    ids = torch.zeros(len(rows), longest, dtype=torch.long)
    mask = torch.zeros_like(ids)
    for n, row in enumerate(rows):
        ids[n, : len(row)] = torch.tensor(row)
        mask[n, : len(row)] = 1
    at = [(n, len(p) - 1 + i) for n, (p, after) in enumerate(pairs) for i in range(len(after))]
    row, position = torch.tensor(at).T
    needed, place = position.unique(return_inverse=True)
    keep = {"logits_to_keep": needed.to(device)} if _keeps(model) else {}
    if not keep:
        place = position
    logits = model(input_ids=ids.to(device), attention_mask=mask.to(device), use_cache=False, **keep).logits
    chosen = logits[row.to(device), place.to(device)].float()
    following = ids[row, position + 1].to(device)
    return Scored(functional.log_softmax(chosen, -1), following, row.to(device))


@torch.no_grad()
def continued(model: Any, prompt: Sequence[int], after: Sequence[Sequence[int]]) -> list[Tensor] | None:
    """The log-probability of each token of each continuation of one prompt, which goes through the model once.

    None where the model gives no cache whose rows can be repeated (recurrent ones), and then nothing but the prompt
    has been read.
    """
    device = device_of(model)
    keep = {"logits_to_keep": 1} if _keeps(model) else {}
    read = model(input_ids=torch.tensor([prompt]).to(device), use_cache=True, **keep)
    cache: Any = getattr(read, "past_key_values", None)
    if not callable(getattr(cache, "batch_repeat_interleave", None)):
        return None
    longest = max(map(len, after)) - 1
    ids = torch.zeros(len(after), longest, dtype=torch.long)
    mask = torch.ones(len(after), len(prompt) + longest, dtype=torch.long)
    for n, tokens in enumerate(after):
        ids[n, : len(tokens) - 1] = torch.tensor(tokens[:-1], dtype=torch.long)
        mask[n, len(prompt) + len(tokens) - 1 :] = 0
    first = read.logits[:, -1:].expand(len(after), 1, -1)
    logits = first
    if longest:
        cache.batch_repeat_interleave(len(after))
        more = model(input_ids=ids.to(device), attention_mask=mask.to(device), past_key_values=cache).logits
        logits = torch.cat([first, more], 1)
    log_p = functional.log_softmax(logits.float(), -1).cpu()
    return [log_p[n, range(len(t)), list(t)] for n, t in enumerate(after)]


def mean_log_likelihood(model: nn.Module, reader: Reader, examples: Sequence[Example]) -> float:
    """The mean over examples of the log-probability of their whole answers, nats."""
    total = 0.0
    pairs = [(reader.prompt(e.prompt), reader.answer(e.answer)) for e in examples]
    with torch.no_grad():
        for part in in_parts(pairs):
            total += score(model, part).of_tokens().sum().item()
    return total / len(examples)


def in_parts(
    pairs: Sequence[tuple[Sequence[int], Sequence[int]]], tokens: int = TOKENS
) -> Iterator[list[tuple[Sequence[int], Sequence[int]]]]:
    """The pairs in order, as many at a time as fit into so many tokens, padding counted."""
    part: list[tuple[Sequence[int], Sequence[int]]] = []
    longest = 0
    for pair in pairs:
        longest = max(longest, len(pair[0]) + len(pair[1]))
        if part and longest * (len(part) + 1) > tokens:
            yield part
            part, longest = [], len(pair[0]) + len(pair[1])
        part.append(pair)
    if part:
        yield part


def _check_rows(model: nn.Module, rows: list[list[int]], new_tokens: int) -> None:
    longest, context = max(map(len, rows), default=0), context_of(model)
    if not rows or min(map(len, rows)) < 1:
        raise SuperweightsError(
            "There is no prompt, or an empty one.", hint="give a prompt of a token or more."
        )
    if context is not None and longest + new_tokens > context:
        raise SuperweightsError(
            f"A prompt of {longest} tokens and {new_tokens} new ones do not fit the context of {context}.",
            hint="shorten the prompt, or ask for fewer tokens.",
        )


def _batches(rows: list[list[int]], new_tokens: int) -> Iterator[list[int]]:
    """Places of rows of like length, as many at a time as fit."""
    order = sorted(range(len(rows)), key=lambda place: len(rows[place]))
    part: list[int] = []
    for place in order:
        if part and (len(rows[place]) + new_tokens) * (len(part) + 1) > TOKENS:
            yield part
            part = []
        part.append(place)
    yield part


def _one_token(model: nn.Module, rows: list[list[int]], temperature: float) -> list[list[int]]:
    """One token after each row, from one plain forward pass: no cache is made for it."""
    log_p = score(model, [(row, [0]) for row in rows]).log_p
    return drawn(log_p, temperature)[:, None].tolist()


def drawn(log_p: Float[Tensor, "rows vocabulary"], temperature: float) -> Int[Tensor, " rows"]:
    """A token for each row of log-probabilities: the likeliest, or one drawn from the global random state."""
    if temperature == 0:
        return log_p.argmax(-1)
    return torch.multinomial((log_p / temperature).softmax(-1), 1)[:, 0]


def _generate(
    model: Any, reader: Reader, rows: list[list[int]], new_tokens: int, temperature: float
) -> list[list[int]]:
    longest = max(map(len, rows))
    ids = torch.zeros(len(rows), longest, dtype=torch.long)
    mask = torch.zeros_like(ids)
    for n, row in enumerate(rows):
        ids[n, longest - len(row) :] = torch.tensor(row)
        mask[n, longest - len(row) :] = 1
    ends = _ends(model, reader)
    manner: dict[str, Any] = {"do_sample": False, "temperature": None, "top_p": None, "top_k": None}
    if temperature:
        manner = {"do_sample": True, "temperature": temperature, "top_p": 1.0, "top_k": 0}
    device = device_of(model)
    with _caching(model):
        out = model.generate(
            ids.to(device),
            attention_mask=mask.to(device),
            max_new_tokens=new_tokens,
            num_beams=1,
            eos_token_id=ends or None,
            pad_token_id=ends[0] if ends else 0,
            **manner,
        )
    return [_up_to_end(row, ends) for row in out[:, longest:].tolist()]


@contextmanager
def _caching(model: Any) -> Iterator[None]:
    """The model in eval mode: generation has no dropout."""
    was = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was)


def _ends(model: Any, reader: Reader) -> list[int]:
    end = getattr(model.generation_config, "eos_token_id", None)
    ends = list(end) if isinstance(end, list) else [end]
    return [e for e in dict.fromkeys([*ends, reader.tokenizer.eos_token_id]) if isinstance(e, int)]


def _up_to_end(ids: list[int], ends: list[int]) -> list[int]:
    """The ids up to and with the first end of sequence."""
    first = next((place for place, token in enumerate(ids) if token in ends), len(ids) - 1)
    return ids[: first + 1]


def cut(reader: Reader, prompt: list[int], ids: list[int], stop: str | None) -> Completion:
    """The completion up to the token in which `stop` first appears; its text stops before it."""
    if not stop or stop not in reader.text(ids):
        return Completion(tuple(prompt), tuple(ids), reader.text(ids))
    last = next(n for n in range(1, len(ids) + 1) if stop in reader.text(ids[:n]))
    return Completion(tuple(prompt), tuple(ids[:last]), reader.text(ids[:last]).partition(stop)[0])


def _keeps(model: Any) -> bool:
    return "logits_to_keep" in inspect.signature(model.forward).parameters
