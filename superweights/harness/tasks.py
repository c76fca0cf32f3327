"""From what a person asks for to lm-eval's tasks: the offline pack, a task file, or a task of the hub."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import jinja2
import yaml
from lm_eval.api.task import Task
from lm_eval.tasks import TaskManager

from superweights.errors import SuperweightsError

# Task files that read local documents; see `documents`.
PACK = Path(__file__).parent / "pack"
KINDS = tuple(sorted(path.stem for path in PACK.glob("*.yaml")))

_CANNOT_LOAD = (
    KeyError,
    ValueError,
    TypeError,
    AttributeError,
    IndexError,
    ImportError,
    OSError,
    RuntimeError,
    yaml.YAMLError,
    jinja2.TemplateError,
)
# Every task file says these in one of these ways; without them lm-eval fails somewhere later.
_NEEDED = (
    ("task",),
    ("dataset_path", "custom_dataset"),
    ("test_split", "validation_split"),
    ("doc_to_text",),
    ("doc_to_target",),
)


def load_tasks(asked: Iterable[str], include_path: str | Path | None = None) -> Any:
    """The tasks asked for, as `lm_eval.evaluate` takes them: `tasks`, `groups` and `group_map`.

    Each of `asked` is `KIND=FILE` (the offline pack: choice, last_word, perplexity), the path of a
    task file (.yaml), or the name of a task or group that lm-eval knows, where `include_path` may hold more.
    Raises `SuperweightsError` for what is missing, malformed, or out of reach.
    """
    loaded: dict[str, dict] = {"tasks": {}, "groups": {}, "group_map": {}}
    known = _Known(include_path)
    for each in asked:
        kind, sign, path = each.partition("=")
        if kind.strip() in KINDS:
            _add_packed(loaded["tasks"], kind.strip(), path.strip() if sign else None)
            continue
        if each.endswith((".yaml", ".yml")):
            _check_file(Path(each))
        for part, found in known.load(each).items():
            loaded[part].update(found)
    if not loaded["tasks"]:
        raise SuperweightsError(
            "No task was asked for.", hint=f"for example {KINDS[0]}=FILE.jsonl, or hellaswag."
        )
    return loaded


def _instead_of(name: str, manager: TaskManager) -> str:
    """What to ask for where there is no task of this name."""
    close = difflib.get_close_matches(name, manager.all_tasks, n=5, cutoff=0.7)
    mine = ", ".join(f"{kind}=FILE" for kind in KINDS)
    if close:
        return f"close ones: {', '.join(close)}."
    return f"lm-eval ls tasks prints all names; a file of yours is asked for as {mine}."


class _Known:
    """lm-eval's own tasks: an index of thousands of files, made when first needed."""

    def __init__(self, include_path: str | Path | None):
        self._include = include_path
        self._managers: dict[bool, TaskManager] = {}

    def load(self, name: str) -> Any:
        """One task, or all of a group, as lm-eval loads it."""
        from_file = name.endswith((".yaml", ".yml"))
        manager = self._manager(with_defaults=not from_file)
        if not from_file and name not in manager.all_tasks:
            raise SuperweightsError(f"There is no task {name!r}.", hint=_instead_of(name, manager))
        try:
            return manager.load([name])
        except SuperweightsError:
            raise
        except _CANNOT_LOAD as error:
            raise SuperweightsError(
                f"The task {name} cannot be loaded: {_first_line(error)}",
                hint="tasks of the hub need the Hugging Face Hub or its cache; offline, use "
                f"{', '.join(KINDS)} with a file of yours.",
            ) from error

    def _manager(self, with_defaults: bool) -> TaskManager:
        if with_defaults not in self._managers:
            self._managers[with_defaults] = TaskManager(
                include_path=self._include, include_defaults=with_defaults
            )
        return self._managers[with_defaults]


def _add_packed(tasks: dict[str, Task], kind: str, path: str | None) -> None:
    """A task of the pack on a file; a second one of its kind is called after its file."""
    metadata: Any = {"data": path}
    manager = TaskManager(include_path=str(PACK), include_defaults=False, metadata=metadata)
    task = manager.load([kind])["tasks"][kind]
    name = kind if kind not in tasks else f"{kind} {Path(path or '').stem}"
    if name in tasks:
        raise SuperweightsError(f"{kind}={path} was asked for twice.", hint="ask for each file once.")
    task.config.task = name
    tasks[name] = task


def _check_file(path: Path) -> None:
    """Raise unless a task file is there and says all that lm-eval will need."""
    config = _read(path)
    if "group" in config or "class" in config:
        return
    missing = [" or ".join(ways) for ways in _NEEDED if not any(way in config for way in ways)]
    if config.get("output_type") == "multiple_choice" and "doc_to_choice" not in config:
        missing.append("doc_to_choice")
    if missing:
        raise SuperweightsError(
            f"The task file {path} does not say {', '.join(missing)}.",
            hint="see the fields of a task in lm-evaluation-harness's docs/task_guide.md.",
        )


def _read(path: Path) -> dict[str, Any]:
    """The fields of a task file and of the files that it includes; functions stay names."""
    try:
        config = yaml.load(path.read_text(encoding="utf-8"), _Names)
    except (FileNotFoundError, IsADirectoryError) as error:
        raise SuperweightsError(f"There is no task file {path}.", hint="check its path.") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise SuperweightsError(
            f"The task file {path} is not YAML: {_first_line(error)}", hint="check its indentation."
        ) from error
    if not isinstance(config, dict):
        raise SuperweightsError(
            f"The task file {path} holds no fields.", hint="write one `name: value` a line."
        )
    included = config.pop("include", [])
    for each in included if isinstance(included, list) else [included]:
        config = _read(path.parent / each) | config
    return config


class _Names(yaml.SafeLoader):
    """YAML in which `!function module.name` is that name."""


_Names.add_multi_constructor("!", lambda loader, _, node: loader.construct_scalar(node))


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
