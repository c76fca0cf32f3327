"""Who may import whom. The table is the house's law; moving a wall means changing it here, and saying why."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import superweights

PACKAGE = Path(__file__).parent.parent / "superweights"

# `GROUND` is known to every room. `record` knows `address`, because a
# result names the weights it is about.
LAW: dict[str, set[str]] = {
    "errors": set(),
    "wording": set(),
    "stopping": set(),
    "axes": set(),
    "lazy": set(),
    # Which of several processes this one is.
    "processes": set(),
    # A parameter that processes share: read and edited as if it were whole.
    "shards": set(),
    # Who tells a result in words, asked from below: the rooms that hold results stand below the one that draws tables.
    "telling": set(),
    "progress": set(),
    "address": set(),
    # Plain SVG: lines and heat maps, for whoever has something to show.
    "picture": set(),
    # What is written, and what is read back: the ground under every room that keeps something on a disk.
    "artefacts": {"progress"},
    # A result names the weights that it is about.
    "record": {"address", "artefacts", "telling"},
    # What each verb finds, without torch: what is measured fills it in, reports read it.
    # Answers over layers draw themselves; a census gives lines of the index.
    "findings": {"record", "address", "artefacts", "picture", "index"},
    # What a run is about: facts of a model, text and cut, batch and objective. It knows no checkpoint, opens nothing.
    "subject": {"address", "record", "progress", "artefacts"},
    "checkpoint": {"address", "subject", "artefacts"},
    "watch": {"address", "subject", "shards"},
    "editing": {"address", "subject", "artefacts", "shards"},
    # The index of known weights, and the one rule for which super weights a model has (a record is asked too).
    "index": {"address", "subject", "record", "artefacts"},
    "taps": {"subject"},
    "stream": {"checkpoint", "address", "subject", "progress"},
    # What a run will take, from a config alone: it knows how blocks are found, in which type they are computed, and how
    # much is scored at a time.
    "costs": {"subject", "stream", "scoring", "checkpoint"},
    # Many jobs kept in one file: it knows payloads and results, never what they are about.
    "jobs": {"artefacts", "progress", "record"},
    # Many edited versions of one model in a single pass; used by the discovery and by sweeps.
    "branch": {"editing", "address", "stream", "subject"},
    # What edits do to a model is scored too (editing).
    "scoring": {"record", "subject", "progress", "findings", "editing"},
    # lm-eval's own command opens the model itself: `--model superweights --model_args pretrained=...,edits=...`.
    "harness": {"record", "checkpoint", "stream", "editing", "subject"},
    "quantization": {"checkpoint", "address", "record", "subject", "progress", "artefacts", "findings"},
    # Which module a tensor of the file becomes is known to the loader, `stream`.
    "formats": {
        # A model card tells what the record does (record).
        *("quantization", "checkpoint", "address", "stream", "subject", "progress", "artefacts", "record"),
    },
    # Matrices rounded for what they read, block by block: the model runs, by its own forward (stream).
    "reconstruction": {
        *("checkpoint", "address", "stream", "quantization", "subject", "progress", "artefacts"),
    },
    # What rounding each matrix and each input costs, and the plan that a bit budget gives.
    "budget": {
        *("checkpoint", "address", "record", "stream", "scoring", "quantization", "subject", "progress"),
        # What comes before a rounded matrix is computed once for all of them.
        *("findings", "branch"),
    },
    # Its curves are drawn on the same axes as every other picture.
    "sweeps": {
        *("editing", "scoring", "record", "address", "stream", "checkpoint", "branch", "subject", "picture"),
        *("progress", "artefacts", "jobs"),
    },
    # Each quantizer's files, decoded by the library that owns the format; ours among them (formats).
    "decoding": {"checkpoint", "formats"},
    # A quantized checkpoint beside the original: decoded by its format's owner, run in the original's model.
    "audits": {
        *("checkpoint", "address", "record", "stream", "taps", "scoring", "decoding", "subject", "progress"),
        "artefacts",
    },
    # Findings draw themselves in a notebook (picture).
    "discovery": {
        *("checkpoint", "stream", "watch", "editing", "branch", "scoring", "subject", "address", "record"),
        *("picture", "progress", "findings", "artefacts"),
    },
    # What it writes it opens again and runs (stream), folder by folder as every format does (formats).
    "pruning": {
        *("taps", "checkpoint", "scoring", "record", "address", "stream", "formats", "subject", "progress"),
        "artefacts",
    },
    # Experts are decomposed while a stream reads their blocks, merged into folders as formats writes them, and said of
    # weights by their addresses.
    "adaptation": {
        *("taps", "checkpoint", "editing", "scoring", "subject", "record", "progress"),
        *("stream", "formats", "address", "artefacts"),
        # Arms, tasks and seeds are many runs (jobs); the task of relations is anatomy's own prompt set.
        *("jobs", "interpretability"),
    },
    # Causal questions take super weights out (editing), or sub-layers (pruning), and say what that costs (scoring).
    "interpretability": {
        *("taps", "subject", "record", "picture", "editing", "address", "scoring", "pruning", "progress"),
        *("findings", "artefacts"),
    },
    # A run is profiled by anatomy's own reductions, searched by discovery, rounded by quantization, shown by reports.
    "lab": {
        *(
            "interpretability",
            "taps",
            "scoring",
            "record",
            "discovery",
            "quantization",
            "reports",
            "progress",
        ),
        *("artefacts", "jobs", "subject"),
    },
    # The paper's experiments use everything that was built to find, edit and score. `watch` shows
    # Figure 3 its products, `harness` runs the tasks of Table 1.
    "reproductions": {
        *(
            "discovery",
            "editing",
            "scoring",
            "subject",
            "record",
            "address",
            "checkpoint",
            "stream",
            "branch",
        ),
        *("index", "watch", "harness", "progress", "findings"),
    },
    "reports": {"record", "index", "findings", "artefacts"},
    # How results are told to people: lines and tables, one file for each kind of record. It knows the types of what it
    # shows, and imports none of them when it runs: no torch.
    "tables": {
        *("record", "findings", "address", "discovery", "sweeps", "index", "quantization", "costs"),
    },
    # The bar that the command line shows, for Python too: it prints its lines as tables do.
    "bar": {"progress", "tables"},
    # Defaults of options that a user keeps in a file or the environment: read for whatever parser knows the options.
    "settings": set(),
    # What `import superweights` teaches transformers: the model types of ours.
    "plugin": {"formats", "pruning", "lab"},
}
# The whole jobs stand above all rooms. The command line knows them, what they give (records) and how that is told
# (tables); what they take it has from the public door.
TOP = {
    "explorer": set(LAW),
    "verbs": set(LAW) | {"explorer"},
    "cli": {"verbs", "record", "tables", "settings", "progress", "door"},
    "__main__": {"cli"},
    "__init__": set(LAW),
}
# What every room knows: what a person is told, words, SIGTERM taken like Ctrl-C, the names of tensors' axes, names
# that are imported when they are asked for, and which of several processes this one is.
GROUND = {"errors", "wording", "stopping", "axes", "lazy", "processes"}
DOOR = set(superweights.__all__)

pytestmark = pytest.mark.unit


def room_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported_rooms(path: Path) -> set[str]:
    """Every room that `path` imports anywhere, functions and type-checking blocks included; `door` for public names."""
    rooms: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            modules = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} uses a relative import; write superweights.<room>"
            modules = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        rooms |= {m.split(".")[1] for m in modules if m.startswith("superweights.") and len(m.split(".")) > 1}
    return {"door" if room in DOOR else room for room in rooms}


FILES = sorted(PACKAGE.rglob("*.py"))


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_each_room_imports_only_what_the_law_allows(path):
    room, law = room_of(path), LAW | TOP
    assert room in law, f"{room} is a new room: give it a line in the law"
    assert imported_rooms(path) <= law[room] | {room, *GROUND}


@pytest.mark.parametrize("path", sorted((PACKAGE / "cli").glob("*.py")), ids=lambda p: p.stem)
def test_a_command_parses_asks_one_verb_and_prints(path):
    """The body of every command is at most 15 lines below the docstring."""
    lines = path.read_text().splitlines()
    for node in ast.parse("\n".join(lines)).body:
        if isinstance(node, ast.FunctionDef) and (node.name == path.stem or _is_command(node)):
            body = lines[node.body[0].end_lineno : node.end_lineno]
            assert len([line for line in body if line.strip()]) <= 15


def _is_command(node: ast.FunctionDef) -> bool:
    return any(isinstance(each, ast.Name) and each.id == "grouped" for each in node.decorator_list)


def test_the_law_has_no_cycles():
    def reach(room: str, seen: frozenset[str]) -> None:
        assert room not in seen, f"cycle through {room}"
        for other in LAW.get(room, set()):
            reach(other, seen | {room})

    for room in LAW:
        reach(room, frozenset())


def module_of(path: Path) -> str:
    return ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__")


def test_no_two_files_import_each_other_even_in_a_roundabout_way():
    """Imports inside functions and for type checkers count: a circle of files is one file in several pieces."""
    files = {module_of(path): path for path in FILES}

    def imported(path: Path) -> set[str]:
        found: set[str] = set()
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                found |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                parts = {f"{node.module}.{alias.name}" for alias in node.names}
                # `from room import file` names the file; `from room import thing` names the room's __init__
                found |= {part if part in files else str(node.module) for part in parts}
        return found & files.keys() - {module_of(path)}

    graph = {name: imported(path) for name, path in files.items()}
    assert not circles(graph)


def circles(graph: dict[str, set[str]]) -> list[str]:
    """The nodes that lie on a circle: what is left when everything without further imports is taken away, both ways."""
    left = dict(graph)
    while True:
        used = set().union(*left.values()) if left else set()
        ends = {name for name, targets in left.items() if not targets & left.keys() or name not in used}
        if not ends:
            return sorted(left)
        left = {name: targets - ends for name, targets in left.items() if name not in ends}


def test_a_circle_of_three_files_is_seen():
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}, "e": set()}) == ["a", "b", "c"]


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_files_and_functions_keep_to_their_size(path):
    source = path.read_text()
    assert source.count("\n") <= 400, "over 400 lines: split it along its reasons to change"
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert node.end_lineno - node.lineno < 60, f"{node.name} is over 60 lines"


def test_no_file_has_a_name_that_says_nothing():
    nothing = {"utils", "helpers", "common", "base", "core", "manager", "misc"}
    assert not [p for p in FILES if p.stem in nothing]


def test_no_code_branches_on_the_name_of_a_model():
    """A model family is never named in a comparison: structure decides."""
    families = {"llama", "mistral", "gemma", "gemma2", "gemma3", "qwen2", "qwen3", "gpt2", "opt", "phi3"}
    for path in FILES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Compare):
                words = {n.value for n in ast.walk(node) if isinstance(n, ast.Constant)}
                assert not words & families, f"{path}:{node.lineno}"
