"""Options that go together. A command takes a group as one argument; the command line sees the options in it."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from copy import copy
from dataclasses import asdict, dataclass, fields, is_dataclass
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_type_hints

from typer.models import OptionInfo

from superweights import processes
from superweights.cli import console, options
from superweights.errors import SuperweightsError

if TYPE_CHECKING:
    from superweights import Reading, Record, Source


@dataclass(frozen=True)
class Trust:
    """What of a checkpoint may be run or read."""

    allow_pickle: options.AllowPickle = False
    trust_remote_code: options.TrustRemoteCode = False

    def source(self, model: str | None) -> Source:
        """`model`, to be opened like this.

        Raises `SuperweightsError` in one of several processes that do not share it: each would do the same.
        """
        from superweights import Source

        source = Source(model, **asdict(self))
        if processes.count() > 1 and not source.tensor_parallel:
            raise SuperweightsError(
                f"torchrun has started {processes.count()} processes, and each of them would do all of this.",
                hint="share the model with --tensor-parallel (find, score, ablate, scale), or leave torchrun out.",
            )
        return source


@dataclass(frozen=True)
class Placed(Trust):
    """And where it computes."""

    device: options.Device = "auto"


@dataclass(frozen=True)
class Opened(Placed):
    """And in which type, and for which objective."""

    dtype: options.Dtype = "auto"
    objective: options.Objective = "auto"


@dataclass(frozen=True)
class Sharable(Opened):
    """And how it is divided: among several processes, or between memory and disk."""

    tensor_parallel: options.TensorParallel = False
    device_map: options.DeviceMap = None


@dataclass(frozen=True)
class Cut:
    """Which text is read, and how it is cut."""

    window: options.Window = 512
    windows: options.Windows = 24
    text: options.TextFile = None
    bos: options.Bos = "auto"

    def reading(self) -> Reading:
        """The same for a verb."""
        from superweights import Reading

        return Reading(**asdict(self))


@dataclass(frozen=True)
class BatchedCut(Cut):
    """And how many windows go through the model at once."""

    batch_size: options.BatchSize = None


@dataclass(frozen=True)
class Chosen:
    """Which super weights it is about."""

    weights: options.NamedWeights = None
    from_: options.FromRecord = None


@dataclass(frozen=True)
class Printed:
    """How the answer is printed."""

    as_json: options.AsJson = False

    def finish(self, record: Record) -> None:
        """Print it: JSON for programs, tables for people."""
        console.show_record(record, self.as_json)


@dataclass(frozen=True)
class Output(Printed):
    """And where it is kept."""

    out: options.Out = None

    def keep(self, record: Record) -> None:
        """Write the record where asked."""
        if self.out is not None and processes.is_first():
            record.write(self.out)

    def finish(self, record: Record) -> None:
        """Write the record where asked, and print it."""
        self.keep(record)
        super().finish(record)


@dataclass(frozen=True)
class Lines(Output):
    """The same, printed one finding a line."""

    as_json: options.AsJsonLines = False


@dataclass(frozen=True)
class Shared:
    """Where on the hub it is put."""

    push_to_hub: options.PushToHub = None
    private: options.Private = False

    def push(self, path: Path | None, record: Record | None = None) -> None:
        """Put what was written to `path` there, where that was asked for."""
        from superweights import push

        if self.push_to_hub is not None and path is not None:
            console.note(f"pushed: {push(path, self.push_to_hub, record, private=self.private)}")


def grouped(command: Callable[..., None]) -> Callable[..., None]:
    """`command` as the command line should see it: the options of each group in that argument's place.

    A group is a dataclass; the command's default for it gives the options' defaults. Options without a panel of
    their own stand under "What"; arguments come first, then the panels in the order of `options.PANELS`.
    """
    hints = get_type_hints(command, include_extras=True)
    groups: dict[str, Any] = {name: hint for name, hint in hints.items() if is_dataclass(hint)}
    seen: list[inspect.Parameter] = []
    for parameter in inspect.signature(command).parameters.values():
        if parameter.name not in groups:
            seen.append(parameter.replace(annotation=_in_panel(hints[parameter.name])))
            continue
        options_of = get_type_hints(groups[parameter.name], include_extras=True)
        for each in fields(groups[parameter.name]):
            default, hint = getattr(parameter.default, each.name), _in_panel(options_of[each.name])
            seen.append(parameter.replace(name=each.name, default=default, annotation=hint))

    @wraps(command)
    def called(**given: Any) -> None:
        for name, group in groups.items():
            given[name] = group(**{each.name: given.pop(each.name) for each in fields(group)})
        command(**given)

    seen = [each.replace(kind=inspect.Parameter.KEYWORD_ONLY) for each in sorted(seen, key=_panel)]
    called.__dict__["__signature__"] = inspect.Signature(seen)
    called.__annotations__ = {each.name: each.annotation for each in seen}
    called.__doc__ = _flowing(command.__doc__ or "")
    return called


def _flowing(text: str) -> str:
    """`text` with each paragraph in one line: the help breaks lines where its screen ends, beside our own breaks."""
    return "\n\n".join(" ".join(part.split()) for part in inspect.cleandoc(text).split("\n\n"))


def _panel(parameter: inspect.Parameter) -> int:
    """Where on --help it stands: an argument, or the number of its panel."""
    option = parameter.annotation.__metadata__[0]
    return options.PANELS.index(option.rich_help_panel) if isinstance(option, OptionInfo) else -1


def _in_panel(hint: Any) -> Any:
    """The annotation of an option, which names a panel now."""
    metadata = getattr(hint, "__metadata__", ())
    if not metadata or not isinstance(metadata[0], OptionInfo) or metadata[0].rich_help_panel:
        return hint
    option = copy(metadata[0])
    option.rich_help_panel = options.PANELS[0]
    return Annotated[hint.__origin__, option]
