"""The model card of what was written: what was done, how large it is, which weights were kept, how it loads."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from superweights.artefacts.reading import parse_json
from superweights.formats.dense import PLAN
from superweights.quantization.plan import Plan
from superweights.record import Record, plain

_PAGE = "https://pypi.org/project/superweights"
_ADAPTER = """
```python
from peft import PeftModel
from transformers import AutoModelForCausalLM

base = AutoModelForCausalLM.from_pretrained(BASE)
model = PeftModel.from_pretrained(base, NAME)
```
"""
_DENSE = """
```python
from transformers import AutoModelForCausalLM

model = AutoModelForCausalLM.from_pretrained("NAME")
```
"""
_GGUF = """
```sh
llama-cli --hf-repo NAME --hf-file FILE
```
"""


def model_card(path: Path, name: str, record: Record | None = None) -> str:
    """The card, in Markdown with the hub's own fields in front. `record` is that of the command which wrote `path`."""
    config = _json_in(path, "config.json")
    adapter = _json_in(path, "adapter_config.json")
    lines = [*_fields(path, config, adapter, record), f"# {name.partition('/')[2]}", ""]
    lines += [*_done(config, adapter, record), *_scores(record), *_kept(path, record)]
    lines += ["## How to load", "", _loading(path, name, adapter).strip(), "", *_origin(record)]
    return "\n".join(lines).rstrip() + "\n"


def _fields(path: Path, config: dict, adapter: dict, record: Record | None) -> Iterator[str]:
    base = (record.inputs.get("name") if record else None) or adapter.get("base_model_name_or_path")
    yield "---"
    if base and base.count("/") == 1 and not Path(base).exists():
        yield f"base_model: {json.dumps(base.partition('@')[0])}"
    yield f"library_name: {'peft' if adapter else 'gguf' if path.suffix == '.gguf' else 'transformers'}"
    yield "tags:"
    yield "- superweights"
    if config.get("quantization_config") or path.suffix == ".gguf":
        yield "- quantized"
    yield from ("---", "")


def _done(config: dict, adapter: dict, record: Record | None) -> Iterator[str]:
    """One paragraph: which command made it of what."""
    made = f"by `superweights {record.command}`" if record else "by superweights"
    of = f" of {record.inputs.get('name')}" if record and record.inputs.get("name") else ""
    what = "A LoRA adapter" if adapter else "A model"
    yield f"{what} written {made}{of} ([superweights]({_PAGE}) keeps a model's few decisive numbers exact)."
    found: Any = plain(record.findings) if record else {}
    if isinstance(found, dict):
        for scheme in found.get("schemes") or ():
            yield f"Matrices: {scheme}."
        if found.get("embeddings"):
            yield f"Embeddings and head: {found['embeddings']}."
        yield from found.get("notes") or ()
    yield ""


def _scores(record: Record | None) -> Iterator[str]:
    if record is None or not record.scores:
        return
    yield from ("| measured | |", "|---|--:|")
    yield from (f"| {score.name} | {score} |" for score in record.scores)
    yield ""


def _kept(path: Path, record: Record | None) -> Iterator[str]:
    """The weights that were kept exactly: those of the plan beside the model, with the record's values."""
    found: Any = plain(record.findings) if record else {}
    values = (
        {e["address"]: e["before"] for e in found.get("protected") or ()} if isinstance(found, dict) else {}
    )
    if not values and (path / PLAN).is_file():
        values = {str(address): None for address in Plan.read(path / PLAN).keep}
    if not values:
        return
    yield from ("## Kept exactly", "", "| weight | value |", "|---|--:|")
    yield from (f"| `{name}` | {'' if value is None else f'{value:.6g}'} |" for name, value in values.items())
    yield ""


def _loading(path: Path, name: str, adapter: dict) -> str:
    """What the folder's own README says of loading, under its new name."""
    if adapter:
        return _ADAPTER.replace("NAME", json.dumps(name)).replace(
            "BASE", json.dumps(adapter.get("base_model_name_or_path") or "the base model")
        )
    if path.suffix == ".gguf":
        return _GGUF.replace("NAME", name).replace("FILE", path.name)
    own = path / "README.md"
    text = own.read_text(encoding="utf-8") if own.is_file() else ""
    _, _, text = text.partition("\n") if text.startswith("# ") else ("", "", text)
    default = _DENSE.replace("NAME", name)
    return (
        (text.strip() or default)
        .replace('from_pretrained(".")', f'from_pretrained("{name}")')
        .replace('from_pretrained(".",', f'from_pretrained("{name}",')
    )


def _origin(record: Record | None) -> Iterator[str]:
    if record is None:
        return
    versions = ", ".join(f"{name} {version}" for name, version in record.versions.items())
    read = ", ".join(f"{key} {value}" for key, value in record.inputs.items() if value is not None)
    yield from ("## Origin", "", f"Made of {read}; {versions}.")


def _json_in(path: Path, name: str) -> dict[str, Any]:
    """A JSON file of the folder; empty where there is none."""
    file = path / name
    if not file.is_file():
        return {}
    held = parse_json(file.read_text(encoding="utf-8"), str(file), hint="write the folder again.")
    return held if isinstance(held, dict) else {}
