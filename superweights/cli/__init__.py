"""The command line: one file per command, each a call of one library function."""

from __future__ import annotations

import os
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Annotated

import typer

import superweights
from superweights import processes, settings
from superweights.cli import console
from superweights.cli.ablate import ablate
from superweights.cli.activations import activations
from superweights.cli.adapt import adapt
from superweights.cli.anatomy import anatomy
from superweights.cli.attach import attach
from superweights.cli.audit import audit
from superweights.cli.census import census
from superweights.cli.estimate import estimate
from superweights.cli.evaluate import evaluate
from superweights.cli.explore import explore
from superweights.cli.facts import facts
from superweights.cli.find import find
from superweights.cli.known import known
from superweights.cli.lab import lab
from superweights.cli.lab_designs import designs
from superweights.cli.lab_grow import grow
from superweights.cli.peel import peel
from superweights.cli.plan import plan
from superweights.cli.profile import profile
from superweights.cli.prune import prune
from superweights.cli.push import push
from superweights.cli.quantize import quantize
from superweights.cli.recipe import recipe
from superweights.cli.report import report
from superweights.cli.reproduce import reproduce
from superweights.cli.scale import scale
from superweights.cli.scan import scan
from superweights.cli.score import score
from superweights.cli.show import show
from superweights.cli.sweep import sweep
from superweights.cli.tour import tour
from superweights.errors import SuperweightsError, explain_os_error
from superweights.stopping import EXIT_CODE, Terminated, stopped_by_sigterm

_NO_COMMAND = "NoArgsIsHelpError"


def _version(asked: bool) -> None:
    """Print the version and end."""
    if asked:
        console.print_line(f"superweights {superweights.__version__}")
        raise typer.Exit


app = typer.Typer(
    name="superweights",
    help="Find, prove and protect the few numbers that hold a large language model up.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    rich_markup_mode="rich",
)


@app.callback()
def _program(
    context: typer.Context,
    config_: Annotated[
        Path | None,
        typer.Option(
            "--config", help="Defaults of options, instead of ./superweights.toml.", show_default=False
        ),
    ] = None,
    version: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=_version, help="Print the version and exit.")
    ] = False,
) -> None:
    """What stands before a command."""
    found = settings.file_of(config_)
    if found is not None:
        console.note(f"defaults from {found}")
    context.default_map = settings.defaults(context.command, found, os.environ)


for command in (
    tour, find, known, scan, facts, score, ablate, scale, evaluate, plan, quantize, peel, attach, recipe, audit, prune,
    push, show, report, explore, reproduce, activations, sweep, anatomy, profile, census, estimate,
):  # fmt: skip
    app.command(command.__name__)(command)
for command in (grow, designs):
    lab.command(command.__name__)(command)
app.add_typer(adapt, name="adapt")
app.add_typer(lab, name="lab")


def main(arguments: list[str] | None = None) -> None:
    """Run the command line and exit: 0 done, 1 bad input, 2 no such command, 130 interrupted, 143 terminated."""
    sys.exit(run(sys.argv[1:] if arguments is None else arguments))


def run(arguments: list[str]) -> int:
    """The exit code of one command line. A defect of ours still raises, with its traceback.

    Of several processes the first one speaks; the others only where they end for a reason of their own.
    """
    with nullcontext() if processes.is_first() else console.silence():
        return _run(arguments)


def _run(arguments: list[str]) -> int:
    try:
        with stopped_by_sigterm() as stopped:
            code = app(arguments, standalone_mode=False) or 0
        if code == 130 and stopped.asked:  # the parser makes 130 of either
            code = EXIT_CODE
        sys.stdout.flush()  # a full disk or a closed pipe shows itself here, or at exit to nobody
    except SuperweightsError as error:
        return _fail(error)
    except Terminated:
        code = EXIT_CODE
    except KeyboardInterrupt:
        code = 130
    except OSError as error:
        console.forget_stdout()
        return 1 if isinstance(error, BrokenPipeError) else console.fail(*explain_os_error(error))
    except Exception as error:  # noqa: BLE001 - sorted at once: only the parser's own errors are kept
        code = _explain_usage(error)
    if code in (130, EXIT_CODE):
        console.notes.print("interrupted: nothing was left half-written.")
    return code


def _fail(error: SuperweightsError) -> int:
    """The exit code; what went wrong is said by the first of several processes that it happens to."""
    if processes.count() == 1:
        return console.fail(error.message, error.hint)
    if processes.is_told(error.message):
        return 1
    with console.speaking():
        own = "" if processes.is_first() else f"process {processes.number()}: "
        return console.fail(own + error.message, error.hint)


def _explain_usage(error: Exception) -> int:
    """The exit code for an error of the argument parser; any other error goes on up."""
    if type(error).__name__ == "Abort":  # the parser makes this of whatever interrupts
        return EXIT_CODE if isinstance(error.__cause__, Terminated) else 130
    if type(error).__name__ == "Exit":
        return int(getattr(error, "exit_code", 0))
    if type(error).__name__ == _NO_COMMAND:  # the help has been printed
        return 0
    explain = getattr(error, "format_message", None)
    if explain is None:
        raise error
    code = getattr(error, "exit_code", 2)
    return console.fail(
        explain(), _configured(error) or "run superweights --help, or add --help to the command.", code
    )


def _configured(error: Exception) -> str | None:
    """Where a refused value stands that was not typed; None for one that was."""
    context, parameter = getattr(error, "ctx", None), getattr(error, "param", None)
    if context is None or parameter is None:
        return None
    source = context.get_parameter_source(parameter.name)
    if source is None or source.name != "DEFAULT_MAP":
        return None
    words, above = [], context
    while above.parent is not None:
        words.insert(0, str(above.info_name))
        above = above.parent
    return f"it was not typed: it stands in {settings.kept_where(words, parameter, os.environ)}."
