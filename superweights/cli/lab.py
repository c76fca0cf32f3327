"""`superweights lab`: designs grown here, measured alike, judged."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from superweights.cli import console, options
from superweights.cli.groups import grouped

lab = typer.Typer(
    help="Train small models of many designs, measure them alike, and judge which prevents sinks and outliers.",
    no_args_is_help=True,
    rich_markup_mode="rich",
)

Suite = Annotated[str, typer.Argument(help="A suite that 'superweights lab list' shows.")]
To = Annotated[
    Path, options.in_output(help="Folder for all that is made; the same one goes on where it was.")
]
Quick = Annotated[bool, typer.Option("--quick", help="A few steps and arms, to see that everything works.")]
Workers = Annotated[int, typer.Option(min=1, help="Processes that share the runs, one thread each.")]
Ray = Annotated[
    bool, typer.Option("--ray", help="Let actors of a Ray cluster train, on machines that share DIR.")
]
RecipeName = Annotated[str, typer.Argument(help="A TOML file, or the name of an arm.")]
Toml = Annotated[str | None, options.in_output(help="Print the recipe of this arm as TOML.")]
OwnSeed = Annotated[int | None, typer.Option(help="Seed of the first weights, instead of the recipe's.")]
Tensorboard = Annotated[bool, options.in_output("--tensorboard", help="Also write event files.")]
Folders = Annotated[list[Path], typer.Argument(help="Folders of runs, or of one suite.")]
AsJson = Annotated[bool, options.in_output("--json", help="JSON lines instead of a table.")]
Page = Annotated[Path, options.in_output(help="The HTML file.")]


@lab.command("run")
@grouped
def run(
    suite: Suite,
    to: To,
    quick: Quick = False,
    workers: Workers = 2,
    ray: Ray = False,
    as_json: AsJson = False,
) -> None:
    """Train and judge a whole suite: one table, and the page DIR/page.html.

    Example: superweights lab run prevention --to DIR
    """
    from superweights import lab_run

    with console.progress() as bar:
        shown = lab_run(suite, to, quick=quick, workers=workers, ray=ray, progress=bar)
    _show(shown, as_json)
    console.note(f"page: {to / 'page.html'}")


@lab.command("list")
@grouped
def list_(toml: Toml = None) -> None:
    """Show every suite with its arms, or one arm's recipe.

    Example: superweights lab list --toml softmax1
    """
    from superweights import lab_list

    found = lab_list(toml)
    if isinstance(found, str):
        console.print_line(found.rstrip())
    else:
        _show(found, as_json=False)


@lab.command("train")
@grouped
def train(
    recipe: RecipeName,
    to: To,
    seed: OwnSeed = None,
    tensorboard: Tensorboard = False,
    as_json: AsJson = False,
) -> None:
    """Train one recipe; killed and started again it ends with the same weights. Works under torchrun.

    Example: superweights lab train softmax1 --to DIR
    """
    from superweights import lab_compare
    from superweights.verbs.train import refuse_failure, speaks
    from superweights.verbs.train import train as through

    with console.progress() as bar:
        result = through(recipe, to, seed=seed, tensorboard=tensorboard, progress=bar)
    if speaks():
        _show(lab_compare([to]), as_json)
    refuse_failure(result, to)


@lab.command("compare")
@grouped
def compare(folders: Folders, as_json: AsJson = False) -> None:
    """Put finished runs beside each other; runs that differ only in their seed make one line.

    Example: superweights lab compare DIR1 DIR2
    """
    from superweights import lab_compare

    _show(lab_compare(folders), as_json)


@lab.command("page")
@grouped
def page(folders: Folders, out: Page = Path("lab.html")) -> None:
    """Draw runs, or a suite, on one HTML page: the table, curves over training, the birth of a sink.

    Example: superweights lab page DIR --out lab.html
    """
    from superweights import lab_page

    lab_page(folders, out)
    console.note(f"wrote {out}")


def _show(shown: Any, as_json: bool) -> None:
    """Tables for people, or lines of JSON: what a verb of the lab gives."""
    from superweights.tables.lab import parts

    console.show_rows(shown.lines, as_json, lambda: parts(shown))
