"""What `score`, `ablate` and `scale` have in common: a model, a text, and rows of edits to judge on it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from superweights.errors import SuperweightsError
from superweights.progress import Progress, labelled

if TYPE_CHECKING:
    from torch import Tensor, nn

    from superweights.checkpoint import Checkpoint
    from superweights.editing import Change, Edit
    from superweights.record import Record
    from superweights.scoring import Variant
    from superweights.subject.text import Text

# A row of the table: what is changed, in words, and the edits that change it together.
Rows = Sequence[tuple[str, Sequence["Edit"]]]


@dataclass(frozen=True)
class Source:
    """The model and how it is opened."""

    model: str
    dtype: str = "auto"
    device: str = "auto"
    allow_pickle: bool = False
    trust_remote_code: bool = False


@dataclass(frozen=True)
class Reading:
    """The text and how it is cut; `passages` are JSON lines whose last words are asked for."""

    text: Path | None = None
    window: int = 512
    windows: int = 24
    stride: int | None = None
    bos: bool = False
    batch_size: int | None = None
    passages: Path | None = None
    count: int | None = None

    @property
    def first(self) -> int:
        """The first position that is scored: the one after what the window before has scored already."""
        return max(1, self.window - (self.stride or self.window))


@dataclass(frozen=True)
class Writing:
    """Prompts to continue side by side, and whether to follow the token shift."""

    prompts: Sequence[str] = ()
    new_tokens: int = 30
    temperature: float = 0.0
    shift: bool = False


def measure(
    command: str,
    source: Source,
    reading: Reading,
    rows: Rows,
    *,
    writing: Writing | None = None,
    seed: int = 0,
    progress: Progress,
) -> Record:
    """The record of the model's scores, as it is and under each row's edits."""
    from superweights.checkpoint import open_checkpoint
    from superweights.stream import streaming
    from superweights.subject.text import embedded_prose, read_text

    text = read_text(reading.text) if reading.text is not None else embedded_prose()
    progress("opening", 0, 1)
    with (
        open_checkpoint(
            source.model, allow_pickle=source.allow_pickle, trust_remote_code=source.trust_remote_code
        ) as checkpoint,
        streaming(checkpoint, dtype=source.dtype, device=source.device) as model,
    ):
        tokenizer = checkpoint.tokenizer()
        if tokenizer is None:
            raise SuperweightsError(
                f"{checkpoint.name} has no tokenizer.", hint="put its tokenizer.json beside the weights."
            )
        scoring = _Scoring(model, tokenizer, text, reading, rows, seed, progress)
        found = scoring.on_text()
        found |= scoring.last_words() if reading.passages is not None else {}
        found |= scoring.writing(writing) if writing is not None else {}
        return _record(command, checkpoint, model, text, reading, found, seed)


def tokens_for(checkpoint: Checkpoint, text: Path | None, window: int, windows: int, seed: int) -> Tensor:
    """Windows of a text (None: built-in prose), or of random tokens where the checkpoint has no tokenizer."""
    from superweights.subject.text import embedded_prose, raw_prompts, read_text
    from superweights.subject.text import windows as cut

    tokenizer = checkpoint.tokenizer()
    if tokenizer is None:
        return raw_prompts(checkpoint.model_config().get_text_config().vocab_size, windows, window, seed)
    return cut(tokenizer, read_text(text) if text is not None else embedded_prose(), window, windows)


class _Scoring:
    """One model, one text, several rows of edits."""

    def __init__(
        self, model: nn.Module, tokenizer: Any, text: Text, reading: Reading, rows: Rows, seed: int, progress
    ):
        from superweights.scoring import Variant
        from superweights.subject.text import read_passages, windows

        self._model, self._tokenizer, self._text, self._reading = model, tokenizer, text, reading
        self._rows, self._seed, self._progress = rows, seed, progress
        self._passages = read_passages(reading.passages, reading.count) if reading.passages else ()
        self._changes: list[list[Change]] = [[] for _ in rows]
        self._cut = (reading.window, reading.windows, reading.stride, reading.bos)
        self._windows = windows(tokenizer, text, *self._cut)
        self._variants: list[Variant] = [
            Variant(model, self._change(i, edits)) for i, (_, edits) in enumerate(rows)
        ]

    def _change(self, row: int, edits: Sequence[Edit]) -> Callable:
        """The row's edits as a context; tried once at once, so that a wrong address costs no waiting."""
        from superweights.editing import edited

        @contextmanager
        def change() -> Iterator[None]:
            with edited(self._model, edits, verify=False) as made:
                yield
            self._changes[row] = list(made) or self._changes[row]

        with edited(self._model, edits, verify=True) as made:
            self._changes[row] = list(made)
        return change

    def on_text(self) -> dict[str, Any]:
        """Perplexity and bits per byte of the base, and every row's difference from it."""
        from superweights.scoring import compare_all, loss_per_window, perplexity_of

        first, size = self._reading.first, self._reading.batch_size
        report = self._reporter("scoring")
        if not self._rows:
            losses = loss_per_window(
                self._model, self._windows, batch_size=size, first=first, progress=report
            )
            base = perplexity_of(losses, seed=self._seed)
            return {"base": self._side(base, losses.tolist()), "rows": []}
        found = compare_all(
            self._model,
            self._variants,
            self._windows,
            batch_size=size,
            first=first,
            seed=self._seed,
            progress=report,
        )
        rows = []
        for (name, edits), changes, each in zip(self._rows, self._changes, found, strict=True):
            row = {"name": name, "edits": [edit.to_json() for edit in edits]}
            row["changes"] = [
                {"address": str(c.edit.address), "before": c.before, "after": c.after} for c in changes
            ]
            row |= self._side(each.other, each.other_losses)
            row |= {key: asdict(getattr(each, key)) for key in ("loss", "kl", "agreement")}
            rows.append(row)
        return {"base": self._side(found[0].base, found[0].base_losses), "rows": rows}

    def last_words(self) -> dict[str, Any]:
        """Last-word accuracy and perplexity of the base and of each row."""
        from superweights.scoring import Variant, predict_last_words

        found = []
        for name, variant in (
            ("base", Variant(self._model)),
            *zip(self._names(), self._variants, strict=True),
        ):
            words = predict_last_words(
                variant,
                self._tokenizer,
                self._passages,
                bos=self._reading.bos,
                progress=self._reporter("last words"),
            )
            scores = {"accuracy": asdict(words.accuracy), "perplexity": asdict(words.perplexity)}
            found.append({"name": name, **scores})
        return {"last_words": found}

    def writing(self, writing: Writing) -> dict[str, Any]:
        """Continuations beside each other, and the token shift, of each row (or of the base alone)."""
        from superweights.scoring import continue_beside, token_shift

        found: dict[str, Any] = {}
        bos = self._reading.bos
        if writing.prompts:
            manner = {"new_tokens": writing.new_tokens, "temperature": writing.temperature, "bos": bos}
            pairs = [
                (
                    name,
                    continue_beside(
                        self._model, v, self._tokenizer, writing.prompts, seed=self._seed, **manner
                    ),
                )
                for name, v in zip(self._names(), self._variants, strict=True)
            ]
            found["continuations"] = [{"name": name, **asdict(one)} for name, each in pairs for one in each]
        if writing.shift:
            shifts = [
                token_shift(
                    self._model, v, self._tokenizer, self._prompts(), progress=self._reporter("shift")
                )
                for v in self._variants
            ]
            found["shift"] = [
                {"name": name, **asdict(each)} for name, each in zip(self._names(), shifts, strict=True)
            ]
        return found

    def _prompts(self) -> Any:
        """What the token shift is measured after: the passages without their last words, or the windows."""
        from superweights.subject.text import encode, without_last_word

        if not self._passages:
            return self._windows[:, :64]
        return [encode(self._tokenizer, without_last_word(text)[0]) for text in self._passages]

    def _side(self, perplexity, losses: Sequence[float]) -> dict[str, Any]:
        """One model's own numbers on the text."""
        import torch

        from superweights.scoring import bits_per_byte
        from superweights.subject.text import window_bytes

        found = {"perplexity": asdict(perplexity), "bits_per_byte": None, "losses": list(losses)}
        if getattr(self._tokenizer, "is_fast", False):
            nbytes: Tensor = window_bytes(self._tokenizer, self._text, *self._cut)
            per_token = torch.tensor(losses)[:, None].expand(-1, self._reading.window - 1)
            score = bits_per_byte(per_token, nbytes, first=self._reading.first, seed=self._seed)
            found["bits_per_byte"] = asdict(score)
        return found

    def _names(self) -> list[str]:
        return [name for name, _ in self._rows]

    def _reporter(self, label: str) -> Progress:
        return labelled(self._progress, label)


def _record(
    command: str,
    checkpoint: Checkpoint,
    model: Any,
    text: Text,
    reading: Reading,
    found: dict[str, Any],
    seed: int,
) -> Record:
    """All of it, with what it takes to run it again."""
    from superweights.record import Record, Score, versions

    scored = reading.windows * (reading.window - reading.first)
    conditions = {
        "text": text.name,
        "text_sha256": text.sha256,
        "window": reading.window,
        "windows": reading.windows,
        "stride": reading.stride or reading.window,
        "bos": reading.bos,
        "tokens_scored": scored,
        "dtype": str(model.dtype).removeprefix("torch."),
        "device": str(model.device),
    }
    base = found["base"]
    scores = [Score(**base[key]) for key in ("perplexity", "bits_per_byte") if base[key] is not None]
    return Record(
        command=command,
        inputs={"model": checkpoint.name, "revision": checkpoint.revision, "text_sha256": text.sha256},
        versions=versions(),
        seed=seed,
        scores=tuple(scores),
        findings={"conditions": conditions, **found},
    )
