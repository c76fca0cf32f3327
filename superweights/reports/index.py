"""The index of known super weights as a page to browse and as the card of a data set."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import fields
from html import escape

from superweights.index import KnownWeight
from superweights.reports.blocks import Cell, Table
from superweights.reports.html import csv_link, framed, worded
from superweights.reports.markdown import escaped, shown, table_lines

_TITLE = "Known super weights"
_ORDER = ("critical", "joint", "partial", "benign", "false_pair", "none", "unknown")
MEANINGS = {
    "model": "hub name",
    "tensor": "name of the tensor in the checkpoint",
    "index": "place in the tensor as stored; null where a source names a row only",
    "out_channel": "output channel (the row of a down-projection)",
    "verdict": "critical, joint (with others of its group), partial, benign, none, false_pair (input and output spike "
    "do not belong together), unknown",
    "sources": "where it is from",
    "aliases": "other names of the model",
    "revision": "commit the number was read at",
    "architecture": "hidden_size, intermediate_size, layers",
    "layer": "counted from 0",
    "in_neuron": "input neuron (the column of a down-projection)",
    "value": "the weight",
    "evidence": "spikes at input and output, dominance (spike_in * value / spike_out), effects with unit and error",
    "basis": "how `index` counts",
    "conflicts": "what sources disagree about",
    "notes": "what else the reader should know",
    "fingerprint": "by which it is told in a renamed file: shape, rank of magnitude, norms of its row and column",
    "schema_version": "version of these fields",
    "group": "the weights that it matters together with",
    "expert": "number of the expert in its layer, in a mixture; an entry without index is about the whole expert",
    "conditions": "under which the verdict holds, such as how texts begin",
}


def index_page(entries: Sequence[KnownWeight]) -> str:
    """One self-contained HTML page: every entry, to be searched and filtered by verdict and model."""
    held = Counter(entry.verdict for entry in entries)
    verdicts = [verdict for verdict in _ORDER if held[verdict]]
    boxes = "".join(
        f'<label class="{escape(v)}"><input type="checkbox" name="verdict" value="{escape(v)}" checked> '
        f"{escape(_words(v))} <span class=unit>{held[v]}</span></label>"
        for v in verdicts
    )
    models = "".join(f"<option>{escape(model)}</option>" for model in _models(entries))
    head = f"<h1>{_TITLE}</h1><p>{escape(_summary(entries))}</p>"
    columns = ("model", "weight", "value", "spike in", "spike out", "verdict", "known of it")
    titles = "".join(f'<th scope="col">{name}</th>' for name in columns)
    body = (
        '<section><div class="filter" role="search"><label>Search <input type="search" id="words" '
        'placeholder="llama, layers.2, arXiv ..." autocomplete="off"></label>'
        f'<label>Model <select id="model"><option value="">all</option>{models}</select></label>'
        f"<fieldset><legend>Verdict</legend>{boxes}</fieldset></div>"
        f'<p class="caption"><output id="count" aria-live="polite">{len(entries)} of {len(entries)}</output> '
        f"weights. {csv_link(_table(entries))}</p>"
        f'<table class="index"><thead><tr>{titles}</tr></thead><tbody>'
        f"{''.join(map(_row, entries))}</tbody></table></section>"
    )
    return framed(_TITLE, head, body, ("index.js",), ("page.css", "index.css"))


def index_card(entries: Sequence[KnownWeight]) -> str:
    """The card of the data set `known.jsonl`, as the Hugging Face hub reads it: Markdown below YAML."""
    held = Counter(entry.verdict for entry in entries)
    counts = tuple((_words(verdict), held[verdict]) for verdict in _ORDER if held[verdict])
    meanings = tuple((field.name, MEANINGS[field.name]) for field in fields(KnownWeight))
    parts = [
        "---\npretty_name: Known super weights\nlicense: apache-2.0\nlanguage:\n- en\nsize_categories:\n"
        f"- {'n<1K' if len(entries) < 1000 else '1K<n<10K'}\ntags:\n- super-weights\n- interpretability\n"
        "- quantization\nconfigs:\n- config_name: default\n  data_files: known.jsonl\n---",
        f"# {_TITLE}",
        _summary(entries),
        "One weight a line, in JSON; what nobody has published is null.",
        "## Verdicts",
        table_lines(Table("", ("verdict", "weights"), counts)),
        "## Fields",
        table_lines(Table("", ("field", "is"), meanings)),
        "## Entries",
        table_lines(_table(entries)),
        "## Sources",
        "\n".join(f"- {escaped(source)}" for source in _sources(entries)),
        "## What sources disagree about",
        "\n".join(f"- {escaped(f'{e.model}, {e}: {text}')}" for e in entries for text in e.conflicts),
    ]
    return "\n\n".join(parts) + "\n"


def _summary(entries: Sequence[KnownWeight]) -> str:
    valued = sum(entry.value is not None for entry in entries)
    return (
        f"{len(entries)} published or measured weights of {len(_models(entries))} language models, from "
        f"{len(_sources(entries))} sources: single numbers that were reported to hold a model up, with what is known "
        f"of each and what is disputed. The value itself is known of {valued}."
    )


def _row(entry: KnownWeight) -> str:
    spikes = entry.evidence.spike_in, entry.evidence.spike_out
    numbers = "".join(
        f'<td class=number data-title="{title}">{escape(shown(number))}</td>'
        for title, number in zip(("value", "spike in", "spike out"), (entry.value, *spikes), strict=True)
    )
    lists = [
        ("effects", [_effect(effect) for effect in entry.evidence.effects]),
        ("disputed", list(entry.conflicts)),
        ("notes", list(entry.notes)),
        ("sources", list(entry.sources)),
    ]
    told = "".join(
        f"<h3>{name}</h3><ul>{''.join(f'<li>{worded(line)}</li>' for line in lines)}</ul>"
        for name, lines in lists
        if lines
    )
    counted = [(len(lines), name) for name, lines in lists if lines and name != "disputed"]
    count = ", ".join(f"{n} {name.removesuffix('s') if n == 1 else name}" for n, name in counted)
    count += ", disputed" if entry.conflicts else ""
    return (
        f'<tr data-model="{escape(entry.model)}" data-verdict="{escape(entry.verdict)}">'
        f'<th scope="row" data-title="model">{escape(entry.model)}</th>'
        f'<td data-title="weight"><code>{worded(str(entry))}</code></td>{numbers}'
        f'<td data-title="verdict" class="{escape(entry.verdict)}">{escape(_words(entry.verdict))}</td>'
        f'<td data-title="known of it"><details><summary>{escape(count)}</summary>{told}</details></td></tr>'
    )


def _table(entries: Sequence[KnownWeight]) -> Table:
    rows: list[tuple[Cell, ...]] = [
        (e.model, str(e), e.value, e.evidence.spike_in, e.evidence.spike_out, _words(e.verdict))
        for e in entries
    ]
    return Table("", ("model", "weight", "value", "spike in", "spike out", "verdict"), tuple(rows))


def _effect(effect) -> str:
    error = "" if effect.standard_error is None else f" ± {_unbroken(f'{effect.standard_error:.2g}')}"
    return f"{effect.what}: {_unbroken(f'{effect.value:.6g}')}{error} {effect.unit}"


def _unbroken(number: str) -> str:
    """`number` without an exponent, whose minus a narrow page would take for the end of a line."""
    return f"{float(number):z.7f}".rstrip("0").rstrip(".") if "e" in number else number


def _words(verdict: str) -> str:
    return verdict.replace("_", " ")


def _models(entries: Sequence[KnownWeight]) -> list[str]:
    return list(dict.fromkeys(entry.model for entry in entries))


def _sources(entries: Sequence[KnownWeight]) -> list[str]:
    return list(dict.fromkeys(source for entry in entries for source in entry.sources))
