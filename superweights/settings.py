"""Defaults of options that a user keeps: in `superweights.toml` here, in a file that is named, in the environment.

```toml
device = "cpu"          # for every command that has --device

[quantize]
embeddings = "int8"

[lab.run]
workers = 2
```

What is typed goes before the environment (`SUPERWEIGHTS_DEVICE`, `SUPERWEIGHTS_QUANTIZE_EMBEDDINGS`), and that before
the file. Options that let a checkpoint run code, or open pickles, are typed each time: a file that lies in a downloaded
folder must not turn them on.
"""

from __future__ import annotations

import difflib
import os
import shlex
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from superweights.errors import SuperweightsError

FILE, PREFIX = "superweights.toml", "SUPERWEIGHTS_"
# Variables that are no options: this file, the explorer's password, the cache of decompositions, whether products are
# compiled, and one of our tests'.
_NO_OPTIONS = {"CONFIG", "TOKEN", "CACHE", "NATIVE", "ALL_FAMILIES"}
_TYPED = {"allow-pickle", "trust-remote-code"}
_HELP = {"help", "install-completion", "show-completion"}

# A command's words, such as ("lab", "run"), and its options: the spelling without dashes, and the parameter.
Options = Mapping[tuple[str, ...], Mapping[str, Any]]


def file_of(named: Path | None) -> Path | None:
    """The file that gives defaults: the one of --config, that of SUPERWEIGHTS_CONFIG, or the one in the working folder;
    None where there is none."""
    if named is None and os.environ.get(f"{PREFIX}CONFIG"):
        named = Path(os.environ[f"{PREFIX}CONFIG"])
    return named or (Path(FILE) if Path(FILE).is_file() else None)


def defaults(program: Any, file: Path | None, environment: Mapping[str, str]) -> dict[str, Any]:
    """The defaults for the options of `program` (a click group), as click wants them: nested by command.

    Raises `SuperweightsError` naming the key, and the nearest that there is, for one that no command has.
    """
    options = dict(_commands(program))
    made: dict[str, Any] = {}
    if file is not None:
        _take_table(made, _read(file), options, (), str(file))
    for name, value in sorted(environment.items()):
        if name.startswith(PREFIX) and name.removeprefix(PREFIX) not in _NO_OPTIONS:
            _take_variable(made, name, value, options)
    return made


def kept_where(words: Sequence[str], parameter: Any, environment: Mapping[str, str]) -> str:
    """The variable that gives `parameter` of the command `words` its default, or else the file."""
    for spelling in _spellings(parameter):
        for before in (tuple(words), ()):
            name = PREFIX + "_".join((*before, spelling)).replace("-", "_").upper()
            if name in environment:
                return name
    return "the file of defaults"


def _commands(group: Any, words: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], dict[str, Any]]]:
    """Every command below `group`, with its options and arguments."""
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from _commands(command, (*words, name))
        else:
            yield (*words, name), {spelling: p for p in command.params for spelling in _spellings(p)}


def _spellings(parameter: Any) -> list[str]:
    """How an option is written, without dashes; an argument by its name."""
    names = [opt.lstrip("-") for opt in parameter.opts if opt.startswith("--")]
    return [name for name in (names or [parameter.name.rstrip("_")]) if name not in _HELP]


def _read(path: Path) -> dict[str, Any]:
    try:
        with open(path, "rb") as file:
            return tomllib.load(file)
    except FileNotFoundError:
        raise SuperweightsError(f"There is no file {path}.", hint="check the path of --config.") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SuperweightsError(
            f"{path} is no TOML: {error}.", hint='write lines such as device = "cpu".'
        ) from None


def _take_table(
    made: dict[str, Any], table: Mapping[str, Any], options: Options, words: tuple[str, ...], where: str
) -> None:
    """Put what a table of the file says into `made`: below commands, or for all that have the option."""
    for key, value in table.items():
        here = (*words, key)
        if isinstance(value, dict) and any(command[: len(here)] == here for command in options):
            _take_table(made, value, options, here, where)
        else:
            _take(made, words, key.replace("_", "-"), value, options, f"{where}: {'.'.join(here)}")


def _take_variable(made: dict[str, Any], name: str, value: str, options: Options) -> None:
    """Put a variable's value into `made`: for the command that its name begins with, or for all."""
    rest = name.removeprefix(PREFIX).lower().replace("_", "-")
    for words in sorted(options, key=len, reverse=True):
        start = f"{'-'.join(words)}-"
        if rest.startswith(start) and rest.removeprefix(start) in options[words]:
            _take(made, words, rest.removeprefix(start), value, options, name)
            return
    _take(made, (), rest, value, options, name)


def _take(
    made: dict[str, Any], words: tuple[str, ...], key: str, value: Any, options: Options, where: str
) -> None:
    """Set option `key` for every command below `words` that has it. Raises where none has."""
    if key in _TYPED:
        raise SuperweightsError(
            f"{where} would run or open what a checkpoint brings along.",
            hint=f"type --{key} each time you mean it.",
        )
    inside = {command: params for command, params in options.items() if command[: len(words)] == words}
    found = {command: params[key] for command, params in inside.items() if key in params}
    if not found:
        near = difflib.get_close_matches(
            key, {k for params in inside.values() for k in params} | _first(inside, words)
        )
        hint = f"the nearest is {near[0]}." if near else "superweights COMMAND --help lists its options."
        whose = f"superweights {' '.join(words)} has" if words else "no command has"
        raise SuperweightsError(f"{where} is no option: {whose} {'no ' if words else ''}--{key}.", hint=hint)
    for command, parameter in found.items():
        level = made
        for word in command:
            level = level.setdefault(word, {})
        level[parameter.name] = _shaped(parameter, value, where)


def _first(inside: Options, words: tuple[str, ...]) -> set[str]:
    """The words that may stand next: a misspelt command is named too."""
    return {command[len(words)] for command in inside if len(command) > len(words)}


def _split(text: str, where: str) -> list[str]:
    """The words of `text`, as a shell reads them."""
    try:
        return shlex.split(text)
    except ValueError as error:
        raise SuperweightsError(
            f"{where} cannot be split into words: {str(error).lower()}.",
            hint="close every quotation mark, and put those that are meant between others.",
        ) from None


def _shaped(parameter: Any, value: Any, where: str) -> Any:
    """`value` as the parser takes it: a list where the option is repeatable."""
    if isinstance(value, dict):
        raise SuperweightsError(
            f"{where} is a table, and no command is called so.", hint="superweights --help."
        )
    several = bool(getattr(parameter, "multiple", False)) or parameter.nargs == -1
    if several and isinstance(value, str):
        return _split(value, where)
    if several and not isinstance(value, list):
        return [value]
    if isinstance(value, list) and not several:
        raise SuperweightsError(f"{where} takes one value, not a list.", hint="write it without brackets.")
    return value
