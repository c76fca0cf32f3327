"""Testbed B: text. What every machine has, the sources and documentation of CPython's library, or files of one's own.

The text is read in pieces of 16,384 characters, so that no file stands in memory as a whole. Every twentieth piece is
held out. A byte-level BPE is trained on the training pieces; tokens go to two files of 16-bit
numbers that are mapped, not read. **Packing**: pieces follow each other, an end token after each file; a row is BOS
(id 0) and the next `length - 1` tokens, without overlap, whatever piece they come from. Rows are visited in a shuffled
order that `seed` fixes, another one in each epoch.
"""

from __future__ import annotations

import hashlib
import json
import sysconfig
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from superweights.artefacts.disk import settle
from superweights.artefacts.file import write_text
from superweights.artefacts.reading import read_noun
from superweights.errors import SuperweightsError
from superweights.progress import Progress, silent

BOS, END = "<|bos|>", "<|end|>"
# Characters of a piece; pieces from one held-out piece to the next; pieces that are tokenised together.
_PIECE, _EVERY, _TOGETHER = 16_384, 20, 256
# CPython's library has to give this much, or the text is another machine's in all but name.
_LEAST_BYTES = 10_000_000
_ABROAD = ("site-packages", "dist-packages", "__pycache__", "lib2to3")


@dataclass(frozen=True)
class Prose:
    """The task. Rows of `length` tokens of a BPE with `vocabulary` ids, trained on the text.

    `files` are UTF-8 text files, in this order; empty: every `.py` of this Python's own library (docstrings and the
    manual of `pydoc_data` with them). `training_megabytes` is how much of the text the BPE is trained on.
    """

    length: int = 256
    vocabulary: int = 4096
    files: tuple[str, ...] = ()
    training_megabytes: int = 8
    seed: int = 0
    """Of which rows come when."""

    def __post_init__(self) -> None:
        if self.length < 4 or not 300 <= self.vocabulary <= 65_536 or self.training_megabytes < 1:
            raise SuperweightsError(
                f"No task with rows of {self.length} tokens and {self.vocabulary} ids.",
                hint="rows of 4 tokens or more, and 300 to 65536 ids: 256 bytes, two special ones, and what is merged.",
            )


class OpenedProse:
    """A text as rows of ids; see `Task`. Made by `opened_prose`."""

    def __init__(self, spec: Prose, folder: Path):
        self.spec = spec
        self.folder = folder
        self.length = spec.length
        self._training, self._held_out = (_mapped(folder / f"{split}.u16") for split in _SPLITS)
        needed = self.length - 1
        if min(len(self._training), len(self._held_out)) < needed:
            fewest = min(len(self._training), len(self._held_out))
            raise SuperweightsError(
                f"The text is too short: {len(self._training):,} tokens to learn from and "
                f"{len(self._held_out):,} held out, for rows of {self.length}.",
                hint=f"give a longer text (every {_EVERY}th {_PIECE // 1024} kB are held out), or rows of at most "
                f"{fewest + 1} tokens." if fewest >= 3 else "give a longer text.",
            )  # fmt: skip

    @property
    def vocabulary(self) -> int:
        """How many ids the BPE has."""
        return self.spec.vocabulary

    @property
    def tokenizer(self) -> Any:
        """The BPE as a transformers tokenizer that begins every text with BOS."""
        from transformers import PreTrainedTokenizerFast

        return PreTrainedTokenizerFast(
            tokenizer_file=str(self.folder / "tokenizer.json"), bos_token=BOS, eos_token=END
        )

    @property
    def epoch_rows(self) -> int:
        """Rows that the training text gives."""
        return len(self._training) // (self.length - 1)

    def rows(self, start: int, stop: int) -> Tensor:
        """Training rows `start` to `stop`, counted on through the epochs: ids `[n, length]`, int64."""
        places = [self._place(number) for number in range(start, stop)]
        return self._cut(self._training, places)

    def held_out(self, count: int) -> Tensor:
        """The first `count` rows of the held-out text, all of them where there are fewer: ids `[n, length]`."""
        there = len(self._held_out) // (self.length - 1)
        return self._cut(self._held_out, range(min(count, there)))

    def roles(self, ids: Tensor) -> dict[str, Tensor]:
        """No kinds of positions are told apart."""
        return {}

    def _place(self, number: int) -> int:
        epoch, at = divmod(number, self.epoch_rows)
        return int(_order(self.spec.seed, epoch, self.epoch_rows)[at])

    def _cut(self, tokens: np.ndarray, places: Iterable[int]) -> Tensor:
        step = self.length - 1
        rows = np.stack([tokens[place * step : (place + 1) * step] for place in places]).astype(np.int64)
        return torch.from_numpy(np.pad(rows, ((0, 0), (1, 0))))


_SPLITS = ("training", "held_out")


def opened_prose(spec: Prose, cache: Path, progress: Progress = silent) -> OpenedProse:
    """The text of `spec`, tokenised into a folder inside `cache` unless it is there already.

    Raises `SuperweightsError` for a file that is absent or no text, and for a text shorter than two rows.
    """
    paths = _paths(spec)
    folder = cache / f"prose-{_fingerprint(spec, paths)}"
    if not _is_whole(folder):
        _write(spec, paths, folder, progress)
    return OpenedProse(spec, folder)


@dataclass(frozen=True)
class _Done:
    """done.json: how many tokens each file has, how many texts they are of, and how many bytes those have."""

    tokens: dict[str, int]
    files: int
    bytes: int


def _is_whole(folder: Path) -> bool:
    """Whether the tokens are there, as many as were written; what is not is made anew."""
    try:
        done = read_noun(_Done, folder / "done.json")
        sizes = {split: (folder / f"{split}.u16").stat().st_size for split in _SPLITS}
    except (OSError, SuperweightsError):
        return False
    return sizes == {split: 2 * count for split, count in done.tokens.items()}


def _paths(spec: Prose) -> list[Path]:
    if spec.files:
        paths = [Path(file) for file in spec.files]
        absent = next((path for path in paths if not path.is_file()), None)
        if absent is not None:
            raise SuperweightsError(f"There is no file {absent}.", hint="check the paths of the text.")
        return paths
    root = Path(sysconfig.get_path("stdlib"))
    found = sorted(path for path in root.rglob("*.py") if not set(path.parts) & set(_ABROAD))
    size = sum(path.stat().st_size for path in found)
    if size < _LEAST_BYTES:
        raise SuperweightsError(
            f"The library of this Python ({root}) holds {size / 1e6:.1f} MB of source; 10 MB or more are needed.",
            hint="give text files of your own: files = [...] in the recipe's task.",
        )
    return found


def _fingerprint(spec: Prose, paths: list[Path]) -> str:
    """A name for this text in this tokenisation: changed when a file's size or time of change is."""
    facts = [(str(path.resolve()), path.stat().st_size, path.stat().st_mtime_ns) for path in paths]
    made_of = (spec.vocabulary, spec.training_megabytes, _PIECE, _EVERY, facts)
    return hashlib.sha256(json.dumps(made_of).encode()).hexdigest()[:16]


def _pieces(spec: Prose, paths: list[Path]) -> Iterator[tuple[str, bool]]:
    """The text, piece by piece, and whether a file ends with it."""
    for path in paths:
        try:
            with path.open(encoding="utf-8") as file:
                piece = file.read(_PIECE)
                while piece:
                    following = file.read(_PIECE)
                    yield piece, not following
                    piece = following
        except UnicodeDecodeError as error:
            if spec.files:  # Python's own library has files in other encodings on purpose: they are left out
                raise SuperweightsError(
                    f"{path} is not UTF-8 text.", hint="convert it, for example with iconv -t UTF-8."
                ) from error


def _write(spec: Prose, paths: list[Path], folder: Path, progress: Progress) -> None:
    """Train the BPE and write the tokens; the folder counts as done only when its last file is there."""
    folder.mkdir(parents=True, exist_ok=True)
    total = sum(path.stat().st_size for path in paths)
    progress("training the tokenizer", 0, total)
    tokenizer = _trained(spec, paths)
    tokenizer.save(str(folder / "tokenizer.json"))
    counts = dict.fromkeys(_SPLITS, 0)
    seen = 0
    with (
        (folder / "training.u16").open("wb") as training,
        (folder / "held_out.u16").open("wb") as held_out,
    ):
        numbered = enumerate(_pieces(spec, paths))
        while batch := list(islice(numbered, _TOGETHER)):
            encoded = tokenizer.encode_batch([piece for _, (piece, _) in batch], add_special_tokens=False)
            for (number, (piece, ends)), found in zip(batch, encoded, strict=True):
                split, file = ("held_out", held_out) if _is_held_out(number) else ("training", training)
                ids = np.array([*found.ids, *([1] if ends else [])], dtype=np.uint16)
                ids.tofile(file)
                counts[split] += len(ids)
                seen += len(piece)
            progress("tokenising", min(seen, total), total)
    facts = {"tokens": counts, "files": len(paths), "bytes": total}
    for split in _SPLITS:
        settle(folder / f"{split}.u16")
    write_text(folder / "done.json", json.dumps(facts))


def _is_held_out(number: int) -> bool:
    return number % _EVERY == _EVERY - 1


def _trained(spec: Prose, paths: list[Path]) -> Any:
    """A byte-level BPE of exactly `vocabulary` ids, trained on the training pieces."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=spec.vocabulary,
        special_tokens=[BOS, END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_training_pieces(spec, paths), trainer)
    if tokenizer.get_vocab_size() < spec.vocabulary:
        raise SuperweightsError(
            f"The text gives only {tokenizer.get_vocab_size()} tokens, and {spec.vocabulary} are asked for.",
            hint="give a longer text or a smaller vocabulary.",
        )
    tokenizer.post_processor = processors.TemplateProcessing(single=f"{BOS} $A", special_tokens=[(BOS, 0)])
    return tokenizer


def _training_pieces(spec: Prose, paths: list[Path]) -> Iterator[str]:
    """Pieces to train the BPE on: evenly over the text, none held out, about `training_megabytes` in all."""
    total = sum(path.stat().st_size for path in paths)
    every = max(1, round(total / (spec.training_megabytes * 1_000_000)))
    kept = (piece for number, (piece, _) in enumerate(_pieces(spec, paths)) if not _is_held_out(number))
    return islice(kept, 0, None, every)


def _mapped(path: Path) -> np.ndarray:
    size = path.stat().st_size // 2
    return np.memmap(path, dtype=np.uint16, mode="r", shape=(size,)) if size else np.zeros(0, np.uint16)


@lru_cache(maxsize=2)
def _order(seed: int, epoch: int, rows: int) -> np.ndarray:
    """The order of one epoch."""
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence((seed, epoch)))).permutation(rows)
