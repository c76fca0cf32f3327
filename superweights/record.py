"""What was measured: a number with its unit and error, and a result with all it takes to run it again."""

from __future__ import annotations

import contextlib
import json
import math
import platform
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields, is_dataclass
from functools import cache
from html import escape
from pathlib import Path, PurePath
from typing import Annotated, Any, Protocol

from superweights.address import Address
from superweights.artefacts.file import write_text
from superweights.artefacts.place import check_replaceable
from superweights.artefacts.reading import parse_json, read_text
from superweights.artefacts.shape import Count, Layer, NullIsNan, shaped
from superweights.errors import SuperweightsError
from superweights.telling import html_table, told

SCHEMA_VERSION = 1
_HINT = "give a file that --out of a command wrote."


@dataclass(frozen=True)
class Score:
    """A measured number: its name, value, unit, how many samples it averages (`n`), and its standard error.

    `standard_error` is None where no error can be given (one sample, or an exact count), never 0 by default.
    """

    name: str
    value: Annotated[float, NullIsNan()]
    unit: str
    n: int
    standard_error: float | None = None

    def __str__(self) -> str:
        if self.standard_error is None:
            return f"{self.value:.4g} {self.unit}".rstrip()
        return f"{self.value:.4g} ± {self.standard_error:.2g} {self.unit}".rstrip()

    def _repr_html_(self) -> str:
        """Itself as a notebook shows it."""
        return f"<b>{escape(self.name)}</b> {escape(str(self))} (n = {self.n})"

    def interval(self) -> tuple[float, float]:
        """The 95 % confidence interval by Student's quantile for `n` samples; a point where no error is known."""
        half = student(self.n - 1) * self.standard_error if self.standard_error and self.n > 1 else 0.0
        return self.value - half, self.value + half


@cache
def student(freedom: int) -> float:
    """The 97.5 % quantile of Student's t for a whole number of degrees of freedom: 12.7 for 1, 1.96 for many.

    By bisection of the distribution's closed form. Source: Abramowitz and Stegun, 26.7.3 and 26.7.4.
    """
    low, high = 1.9, 13.0
    while high - low > 1e-9:
        middle = (low + high) / 2
        low, high = (middle, high) if _student_share(middle, freedom) < 0.95 else (low, middle)
    return low


def _student_share(t: float, freedom: int) -> float:
    """How much of Student's distribution lies between -t and t."""
    if freedom > 300:
        return math.erf(t / math.sqrt(2)) - math.exp(-t * t / 2) * (t + t**3) / (
            2 * freedom * math.sqrt(2 * math.pi)
        )
    angle = math.atan(t / math.sqrt(freedom))
    cos2, odd = math.cos(angle) ** 2, freedom % 2
    term = total = math.cos(angle) if odd else 1.0
    for step in range(2 + odd, freedom - 1, 2):
        term *= cos2 * (step - 1) / step
        total += term
    if odd:
        return 2 / math.pi * (angle + (math.sin(angle) * total if freedom > 1 else 0.0))
    return math.sin(angle) * total


# The kinds of controls. What a file of schema 1 called each is known to `Control.from_json`.
LARGEST, RANDOM_TENSOR, RANDOM_COLUMN, RANDOM_ROW = "largest", "random tensor", "random column", "random row"
_KINDS_OF_OLD = {"largest other": LARGEST, "random": RANDOM_TENSOR, "others of its column": RANDOM_COLUMN,
                 "others of its row": RANDOM_ROW}  # fmt: skip


@dataclass(frozen=True)
class Control:
    """What weights that should not matter cost: which they are, and the rise of the loss without them.

    `kind`: `random tensor`, `random column`, `random row` (drawn from the weight's own tensor, column, row), or
    `largest`: the one largest other weight of the tensor, which may be a super weight itself and acquits nobody.
    `score.name` says how many were zeroed together. `beyond` is how much more the weight itself costs, window by
    window (None where both were not measured on the same windows).
    """

    kind: str
    score: Score
    beyond: Score | None = None

    @property
    def judges(self) -> bool:
        """Whether a weight that costs no more than this control is acquitted by it."""
        return self.kind != LARGEST

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Control:
        """The control that was written; of a bare score, as schema 1 has them, the name tells the kind."""
        return shaped(cls, data, "a control", _HINT)

    @classmethod
    def renewed(cls, data: Mapping[str, Any]) -> Mapping[str, Any]:
        """The object as it is written today."""
        if "kind" in data or "score" in data:
            return data
        name = data.get("name")
        of_old = name.partition(" ")[2] if isinstance(name, str) else ""
        return {"kind": _KINDS_OF_OLD.get(of_old, RANDOM_TENSOR), "score": data}


# The gravest first. Whoever reads a record asks `SuperWeight.matters`.
MATTERS = ("critical", "joint", "partial")


@dataclass(frozen=True)
class SuperWeight:
    """A weight that makes a super activation, and what the model loses without it.

    `address` says where it is stored, `parameter` its name in the running model, `kind` whether it is a `weight`, a
    norm's `gain` or a `bias`; `out_channel`, `in_neuron` and `layer` (from 0) say where it acts. The search saw it in
    its pass `round` (0: with nothing taken out), strongest at `token`, which stands at `position`; `seen_in` are the
    texts that showed it, where they were noted.

    `value` is the weight; `spike_in` and `spike_out` are the input and output of its product at the token
    where the output is largest (activations, no unit); `dominance` is `spike_in * value / spike_out`, the
    share of the output that this one product makes. `effect` is the rise of the loss in nats per token when
    the weight is zeroed, `kl` the divergence of the next-token distribution in nats per token, `controls`
    the same rise for weights that should not matter. `role` says whether the product writes the residual
    spike or erases it. Unknown is None.

    `verdict`: `critical`, `joint` (it is needed in a `group` that is critical together, though none of it is
    alone), `partial`, `benign` (it spikes, and little is lost without it) or `undecided` (the windows did not tell);
    None before proof. `adds` is what it adds to the loss of the rest of its group. `effect_with_others` is the
    rise of the loss where the strongest other weight is gone already (its name says which): far more than `effect`
    where it backs that one up. `effect_at_mean` is the rise where its contribution is not taken away but held at
    its mean over other windows at the same position: what is lost of information, not of a constant. `repetition` is
    the share of four-token runs that repeat an earlier one in greedy text without the weight. `layer` counts in the
    `tower` (None: one stack only). Source: arXiv 2411.07191 for the coordinates; the verdicts are ours, after arXiv
    2503.22329, which found about half of all massive activations harmless, and zero to overstate.
    """

    address: Address
    value: float
    spike_in: float | None = None
    spike_out: float | None = None
    dominance: float | None = None
    effect: Score | None = None
    kl: Score | None = None
    effect_with_others: Score | None = None
    controls: tuple[Control, ...] = ()
    verdict: str | None = None
    role: str | None = None
    kind: str = "weight"
    parameter: str | None = None
    out_channel: Count | None = None
    in_neuron: Count | None = None
    layer: Layer | None = None
    token: str | None = None
    position: int | None = None
    seen_in: tuple[str, ...] = ()
    round: int | None = None
    group: str | None = None
    adds: Score | None = None
    effect_at_mean: Score | None = None
    repetition: Score | None = None
    tower: str | None = None

    @property
    def matters(self) -> bool:
        """Whether it is a super weight: something is lost without it, alone or with others."""
        return self.verdict in MATTERS

    def _repr_html_(self) -> str:
        """Itself as a notebook shows it."""
        return table_of([self])

    def to_json(self) -> dict[str, Any]:
        """A plain dictionary that `from_json` reads back; the address is one string."""
        return {**asdict(self), "address": str(self.address)}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> SuperWeight:
        """The super weight that `to_json` wrote. Raises `SuperweightsError` naming the field for anything else."""
        return shaped(cls, data, "a super weight", _HINT)


class SuperWeights(tuple[SuperWeight, ...]):
    """Several super weights: a tuple that a notebook shows as one table."""

    __slots__ = ()

    def _repr_html_(self) -> str:
        """Themselves as a notebook shows them."""
        return table_of(self)


class Origin(Protocol):
    """What a record must know of the checkpoint that it is about."""

    @property
    def name(self) -> str: ...

    @property
    def revision(self) -> str | None: ...

    def fingerprint(self) -> str: ...


@dataclass(frozen=True)
class Record:
    """A result with its origin: enough to run it again."""

    command: str
    """The command line's word, with what it was asked: `find`, `anatomy sinks`."""
    inputs: dict[str, str | None]
    """What was read: always `name`, `revision` and `fingerprint` of the checkpoint; further names and hashes."""
    versions: dict[str, str]
    """Of this package and of what its numbers depend on."""
    seed: int | None = None
    """Seed of everything drawn; None where nothing is."""
    scores: tuple[Score, ...] = ()
    """The few numbers that sum it up."""
    findings: Any = field(default_factory=dict)
    """All that was found: a dataclass of `superweights.findings`; as JSON values in a record that was read back."""
    schema_version: int = SCHEMA_VERSION
    """The version of this layout."""

    @classmethod
    def of(
        cls,
        command: str,
        checkpoint: Origin,
        *,
        seed: int | None = None,
        scores: Iterable[Score] = (),
        findings: Any = None,
        programs: dict[str, str] | None = None,
        **inputs: str | None,
    ) -> Record:
        """The record of `command` on `checkpoint`, with the versions installed now: the only way to make one.

        `inputs` are further things that were read (`text_sha256`), `programs` versions of further programs.
        """
        read = {
            "name": checkpoint.name,
            "revision": checkpoint.revision,
            "fingerprint": checkpoint.fingerprint(),
        }
        found = {} if findings is None else findings
        return cls(command, {**read, **inputs}, versions() | (programs or {}), seed, tuple(scores), found)

    def __str__(self) -> str:
        """Its tables, as its command prints them."""
        return told(self)

    def _repr_html_(self) -> str:
        """Its tables, its scores and its origin, as a notebook shows them."""
        read = ", ".join(f"{key} {value}" for key, value in self.inputs.items() if value is not None)
        made = ", ".join(f"{key} {value}" for key, value in self.versions.items())
        origin = f"{self.command}: {read}; seed {self.seed}; {made}"
        scores = [(s.name, str(s), str(s.n)) for s in self.scores]
        tables = f"<pre>{escape(str(self))}</pre>"
        return f"{tables}{html_table(('score', 'value', 'n'), scores)}<p>{escape(origin)}</p>"

    def write(self, path: str | Path) -> None:
        """Write it to the file `path`, whole or not at all."""
        write_text(Path(path), self.to_json() + "\n")

    @staticmethod
    def check_place(path: str | Path) -> None:
        """Raise `SuperweightsError` where `write` could put nothing, before the work that it should hold."""
        check_replaceable(Path(path))

    def to_json(self) -> str:
        """One line of JSON; numbers that JSON has no word for (nan, inf) become null."""
        return to_json_line({each.name: getattr(self, each.name) for each in fields(self)})

    @classmethod
    def from_json(cls, text: str, where: str = "the record") -> Record:
        """The record that `to_json` wrote; its findings stay JSON values (`superweights.findings.typed` reads them).

        Raises `SuperweightsError` naming `where` and the field for anything else.
        """
        return cls.from_data(parse_json(text, where, hint=_HINT), where)

    @classmethod
    def read(cls, path: str | Path) -> Record:
        """The record in a file that --out of a command wrote."""
        return cls.from_json(read_text(Path(path), hint=_HINT), str(path))

    @classmethod
    def from_data(cls, data: Any, where: str) -> Record:
        """The record that stood in a JSON text. Null where a number should be was nan or infinity."""
        if not isinstance(data, dict) or "command" not in data or "findings" not in data:
            raise SuperweightsError(f"{where} holds no record.", hint=_HINT)
        if data.get("schema_version") != SCHEMA_VERSION:
            version = str(data.get("schema_version"))[:40]
            raise SuperweightsError(
                f"{where} holds a record of version {version}; this program reads {SCHEMA_VERSION}.",
                hint="run its command again with this version.",
            )
        return shaped(cls, data, where, _HINT)


def weights_of(findings: Any, where: str = "the record", hint: str = _HINT) -> list[SuperWeight]:
    """The super weights in the findings of `superweights find`: alone, with others, or inside a super expert.

    `findings` are a `discovery.Findings`, or its JSON. Raises `SuperweightsError` for findings of something else.
    """
    data = isinstance(findings, dict)
    found = findings.get("candidates") if data else getattr(findings, "super_weights", None)
    if found is None:
        raise SuperweightsError(f"{where} is no record of a search.", hint=hint)
    if not data:
        return list(found)
    candidates = shaped(tuple[SuperWeight, ...], found, f"{where}, candidates", hint)
    weights = {weight.address: weight for weight in candidates if weight.matters}
    for each in super_experts(findings, where, hint):
        address = Address.parse(each.inside or "")
        weights.setdefault(address, SuperWeight(address, each.value, verdict=each.verdict))
    return list(weights.values())


@dataclass(frozen=True)
class InExpert:
    """An `expert` of a `module` that a search has found: `verdict`, and the weight `inside` it with its `value`."""

    verdict: str
    inside: str | None
    value: float
    module: str = ""
    expert: int = 0


def super_experts(findings: Any, where: str = "the record", hint: str = _HINT) -> list[InExpert]:
    """The experts in the findings of a search (or their JSON) that matter, and of which one weight is known."""
    held = findings.get("experts") if isinstance(findings, dict) else plain(getattr(findings, "experts", ()))
    found = shaped(tuple[InExpert, ...], held or [], f"{where}, experts", hint, "some")
    return [each for each in found if each.verdict in MATTERS and each.inside]


def table_of(weights: Iterable[SuperWeight]) -> str:
    """Super weights as an HTML table for a notebook; what is unknown stays empty."""
    titles = ("weight", "value", "spike in", "spike out", "loss without it", "verdict", "role")
    rows = []
    for w in weights:
        numbers = ("" if n is None else f"{n:.4g}" for n in (w.value, w.spike_in, w.spike_out))
        effect = "" if w.effect is None else str(w.effect)
        rows.append((str(w.address), *numbers, effect, w.verdict or "", w.role or ""))
    return html_table(titles, rows)


def to_json_line(data: Any) -> str:
    """`data` as one line of strict JSON: dataclasses as objects, addresses as text, nan and infinity as null."""
    return json.dumps(plain(data), ensure_ascii=False, allow_nan=False)


def plain(value: Any) -> Any:
    """`value` as JSON values. What has a `to_json` that gives a dictionary says itself what stands for it."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Address | PurePath):
        return str(value)
    if is_dataclass(value) and not isinstance(value, type):
        own = getattr(value, "to_json", None)
        told = own() if own is not None else None
        if isinstance(told, dict):
            return plain(told)
        return {each.name: plain(getattr(value, each.name)) for each in fields(value)}
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return value


def versions() -> dict[str, str]:
    """The versions of this package and of what its numbers depend on, as installed."""
    from importlib.metadata import PackageNotFoundError, version

    held = {}
    for name in ("superweights", "torch", "transformers", "numpy", "gguf"):
        with contextlib.suppress(PackageNotFoundError):
            held[name] = version(name)
    return {"python": platform.python_version(), **held}
