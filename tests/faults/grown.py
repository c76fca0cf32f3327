"""Artefacts of the lab, of adaptation and of commands, made small: their writers, and readers of changed ones."""

from __future__ import annotations

import contextlib
import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from store_bytes import stored

# A row for each: its name, its bytes, the reader, and whether it is JSON.
Row = tuple[str, bytes, Callable[[bytes], str], bool]


def rows(folder: Path, tensor: str) -> list[Row]:
    """Every artefact of the lab and of adaptation."""
    return [*_lab(folder / "lab"), *_adaptation(folder / "adaptation", tensor)]


def small_recipe(steps: int = 4, checkpoint_every: int = 2) -> Any:
    """A recipe that is trained in a second."""
    from superweights.lab.recipe import Recipe, Schedule
    from superweights.lab.tasks import BackCopy

    often = {"measure_every": 2, "checkpoint_every": checkpoint_every, "log_every": 1, "held_out": 4}
    recipe = Recipe(task=BackCopy(length=12), schedule=Schedule(steps=steps, batch=4, **often))
    return recipe.with_("architecture.width", 16)


def _file(path: Path, read: Callable[[], Any], whole: Any = None) -> tuple[bytes, Callable[[bytes], str]]:
    """The bytes of a file, and a reader of changed ones, after which the file is as before.

    A line of a file of lines keeps its end: without it, it is one that was cut short, and rightly left out.
    """
    held = path.read_bytes()

    def reading(made: bytes) -> str:
        path.write_bytes(made + b"\n" if path.suffix == ".jsonl" and not made.endswith(b"\n") else made)
        try:
            found = read()
        finally:
            path.write_bytes(held)
        return "same" if made == held or (whole is not None and found == whole) else ""

    return held, reading


def writers(folder: Path) -> list[tuple]:
    """The arguments of a `campaign.Writer` for each writer of the lab, of adaptation, and for `--out` of commands."""
    import torch
    from letters import saved_speaker

    from superweights.adaptation import Example, matrices_of
    from superweights.adaptation.expert import Expert, save_expert
    from superweights.adaptation.kept_state import begin_expert, unfinished
    from superweights.adaptation.peft_files import write_lora
    from superweights.adaptation.tasks import split_task
    from superweights.errors import SuperweightsError
    from superweights.lab.training import train

    folder.mkdir()
    torch.manual_seed(0)
    model, reader, made_of = _speaker(folder)
    matrices = matrices_of(model, "mlp")
    experts = [
        Expert(
            "e",
            {m.path: 1 + seed * torch.ones(len(made_of[m.path].sigma)) / 9 for m in matrices},
            "a model",
            "f" * 32,
        )
        for seed in (1, 2)
    ]
    examples = [(Example(f"{a}{b}?", "k"), None) for a in "abc" for b in "gh"]
    task = split_task("t", examples, new_tokens=1, stop=None)

    def trained(recipe: Any, to: Path, progress: Any) -> None:
        train(recipe, to, progress=progress)

    def run_found(to: Path) -> Any:
        """All that a run has made but the seconds that it took; None until it has ended."""
        if not (to / "result.json").is_file():
            return None
        files = {path.relative_to(to).as_posix(): path for path in to.rglob("*") if path.is_file()}
        told = {name for name in files if name != "result.json" and not name.startswith("checkpoints/")}
        return {name: files[name].read_bytes() for name in told}

    def learnt(steps: int, to: Path, progress: Any) -> None:
        begin_expert(to)
        with unfinished(to, str(steps)) as state:
            numbers = _training(model, reader, task, made_of, steps, state, progress).run().numbers
            save_expert(Expert("e", numbers, "a model", "f" * 32), to)

    def exported(expert: Any, to: Path, progress: Any) -> None:
        write_lora(expert, made_of, matrices, 2, to)

    def command(words: list[str], to: Path, progress: Any) -> None:
        from superweights.cli import run

        with contextlib.redirect_stderr(io.StringIO()):
            if run([*words, str(to)]) != 0:
                raise SuperweightsError("The command said no.", hint="-")

    record, speaker = str(_record(folder)), str(saved_speaker(folder / "speaker"))
    facts = ["facts", speaker, "--window", "16", "--windows"]
    return [
        ("lab train", trained, small_recipe(steps=3), None, "to", False, run_found),
        ("adapt train", learnt, 2, 3),
        ("adapt mix (an expert)", lambda expert, to, _: save_expert(expert, to), *experts),
        ("adapt write (LoRA)", exported, *experts),
        ("report", command, ["report", record, "-o"], ["report", record, record, "-o"], "page.html", True),
        ("facts", command, [*facts, "2", "--out"], [*facts, "3", "--out"], "r.json", True),
    ]


def _speaker(folder: Path) -> tuple[Any, Any, Any]:
    """A tiny model that speaks, its reader, and the factors of its matrices."""
    from letters import letters, speaking_llama

    from superweights.adaptation import Reader, decompositions, matrices_of

    model = speaking_llama()
    made_of = decompositions(model, matrices_of(model, "mlp"), folder=folder / "singular")
    return model, Reader(letters()), made_of


def _training(
    model: Any, reader: Any, task: Any, made_of: Any, steps: int, state: Path, progress: Any = None
) -> Any:
    """The training of an expert that keeps its state after every step."""
    from superweights.adaptation import Manner, Training
    from superweights.adaptation.learners import Singular
    from superweights.progress import silent

    manner = Manner(steps=steps, batch=2, rate=0.05, every=1, patience=9, method="supervised")
    judge = lambda said, example: 1.0 if "k" in said else -1.0  # noqa: E731
    told = {"state": state, "progress": progress or silent}
    return Training(model, reader, task, Singular(model, made_of), judge, manner, **told)


def _record(folder: Path) -> Path:
    from test_reports import RECORDS

    path = folder / "record.json"
    path.write_text(RECORDS[0].to_json())
    return path


class _StoppedError(Exception):
    """The run was stopped by its progress."""


def stopped_training(folder: Path) -> Any:
    """A run of the lab that was stopped after its first checkpoint; returns its recipe."""
    from superweights.lab.training import train

    def stop(label: str, done: int, total: int) -> None:
        if done == 3:
            raise _StoppedError

    recipe = small_recipe()
    with contextlib.suppress(_StoppedError):
        train(recipe, folder, progress=stop)
    return recipe


def _lab(folder: Path) -> list[Row]:
    from superweights.lab.folder import RunFolder
    from superweights.lab.frames import load_frames
    from superweights.lab.recipe import Recipe
    from superweights.lab.result import Result
    from superweights.lab.running import _Begun, read_noun
    from superweights.lab.training import _checked, train

    folder.mkdir()
    recipe = stopped_training(folder / "stopped")
    train(recipe, folder / "run")
    run, stopped = RunFolder(folder / "run"), RunFolder(folder / "stopped")
    newest = stopped.newest_checkpoint()
    assert newest is not None, "no checkpoint was kept"
    place = newest[1]
    begun = folder / "suite.json"
    begun.write_text(json.dumps({"suite": "prevention", "quick": True, "runs": {"control": "0" * 16}}))
    frame = sorted(run.frames.glob("step-*.npz"))[0]
    # One line, so that it can be changed as JSON is.
    log, profiles = (
        path.read_bytes().splitlines(keepends=True)[0] for path in (run.log_file, run.profiles_file)
    )
    run.log_file.write_bytes(log)
    run.profiles_file.write_bytes(profiles)

    def result() -> Any:
        held = run.result()
        return None if held is None else Result.from_json(held)

    def frames() -> Any:
        return [(each.attention.tobytes(), each.norms.tobytes()) for each in load_frames(run.frames)]

    read: list[tuple[str, Path, Callable[[], Any], bool]] = [
        ("lab, result.json", run.result_file, result, True),
        ("lab, log.jsonl", run.log_file, run.log, True),
        ("lab, profiles.jsonl", run.profiles_file, run.profiles, True),
        ("lab, recipe.toml", run.recipe_file, lambda: Recipe.read(run.recipe_file), False),
        ("lab, suite.json", begun, lambda: read_noun(_Begun, begun), True),
        ("lab, a frame", frame, frames, False),
        ("lab, checkpoint, run.json", place / "run.json", lambda: _checked(place), True),
        ("lab, checkpoint, model.safetensors", place / "model.safetensors", lambda: _checked(place), False),
        ("lab, checkpoint, optimizer.bin", place / "optimizer.bin", lambda: _checked(place), False),
    ]
    return [(name, *_file(path, look, look()), is_json) for name, path, look, is_json in read]


def _adaptation(folder: Path, tensor: str) -> list[Row]:
    import torch
    from safetensors.torch import save_file

    from superweights.adaptation import Example
    from superweights.adaptation.cache import remembered
    from superweights.adaptation.expert import FILE, TOLD, Expert, load_expert, save_expert
    from superweights.adaptation.tasks import read_task, split_task

    folder.mkdir()
    torch.manual_seed(0)
    expert = Expert("sums", {"m": 1 + torch.randn(24) / 9}, "a model", "f" * 32, "adds", None, {"rate": 0.1})
    save_expert(expert, folder / "whole")
    shutil.copytree(folder / "whole", folder / "bare")
    (folder / "bare" / "superweights_manifest.json").unlink()

    def of(place: Path) -> Callable[[], Any]:
        return lambda: (lambda e: (e.digest(), e.name, e.base, e.fingerprint, e.about, e.rank, e.made))(
            load_expert(place)
        )

    header = json.dumps({"name": "sums", "base": "a model", "fingerprint": "f" * 32, "about": "adds", "rank": 3,
                         "made": {"rate": 0.1}, "version": 1})  # fmt: skip

    def headed(made: bytes) -> str:
        (folder / "headed").mkdir(exist_ok=True)
        words = made.decode("utf-8", "replace")
        save_file(dict(expert.z), folder / "headed" / FILE, metadata={"expert": words})
        load_expert(folder / "headed")
        return "same" if words == header else ""

    weight = torch.randn(24, 16)
    first = remembered(weight, None, folder / "cache", "m")
    factors = next((folder / "cache").glob("*.safetensors"))

    def cached(made: bytes) -> str:
        factors.write_bytes(made)
        found = remembered(weight, None, folder / "cache", "m")
        same = all(torch.equal(getattr(found, part), getattr(first, part)) for part in ("U", "sigma", "Vh"))
        return "same" if same else "wrong: other factors"

    model, reader, made_of = _speaker(folder)
    examples = [(Example(f"{a}{b}?", "k"), None) for a in "abc" for b in "gh"]
    task = split_task("t", examples, new_tokens=1, stop=None)
    state = folder / "state.pt"
    resumed, first_run = (_training(model, reader, task, made_of, 1, state) for _ in range(2))
    first_run.run()
    lines = [json.dumps({"prompt": f"{n}+1=", "answer": str(n + 1)}) for n in range(10)]
    (folder / "task.jsonl").write_text("\n".join(lines) + "\n")
    read: list[tuple[str, Path, Callable[[], Any], bool]] = [
        ("expert, without its manifest", folder / "bare" / FILE, of(folder / "bare"), False),
        ("expert, in its folder", folder / "whole" / FILE, of(folder / "whole"), False),
        ("expert, what is told of it", folder / "whole" / TOLD, of(folder / "whole"), True),
        ("training of an expert, its state", state, lambda: vars(resumed._resumed())["step"], False),
        ("task of one's own", folder / "task.jsonl", lambda: read_task(folder / "task.jsonl"), False),
    ]
    return [
        *((name, *_file(path, look, look()), is_json) for name, path, look, is_json in read),
        ("expert, its header", header.encode(), headed, True),
        ("factors kept on disk", factors.read_bytes(), cached, False),
        ("comparison, its store", *_comparison(folder), False),
    ]


def _comparison(folder: Path) -> tuple[bytes, Callable[[bytes], str]]:
    """A store of a comparison as bytes, and how it is read again from changed ones."""
    from superweights.adaptation.comparing import Result
    from superweights.adaptation.comparison_jobs import COMPARISON, Comparison, Gained

    models = {"f" * 32: "a model"}
    jobs = [
        Comparison("f" * 32, "t", "d", seed, "svf", (), "mlp", (0, 1), 0.01, 0, (), "exact", "", {"steps": 4})
        for seed in range(12)
    ]
    keys = [job.key for job in jobs]
    results = {k: Gained([Result("t", "svf", n, -1.0, n / 9, 24, 3)]) for n, k in enumerate(keys)}
    return stored(folder, COMPARISON, models, jobs, results)
