"""`superweights lab`: designs grown here, measured alike, judged."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from superweights.cli import console
from superweights.errors import SuperweightsError

lab = typer.Typer(
    help="Train small models of many designs, measure them alike, and judge which prevents sinks and outliers.",
    no_args_is_help=True,
    rich_markup_mode="rich",
)

Suite = Annotated[str, typer.Argument(help="A suite that 'superweights lab list' shows.")]
To = Annotated[Path, typer.Option(help="Folder for all that is made; the same one goes on where it was.")]
Quick = Annotated[bool, typer.Option("--quick", help="A few steps and arms, to see that everything works.")]
Workers = Annotated[int, typer.Option(min=1, help="Processes that share the runs, one thread each.")]
Ray = Annotated[
    bool, typer.Option("--ray", help="Let actors of a Ray cluster train, on machines that share DIR.")
]
RecipeName = Annotated[str, typer.Argument(help="A TOML file, or the name of an arm.")]
Folders = Annotated[list[Path], typer.Argument(help="Folders of runs, or of one suite.")]
AsJson = Annotated[bool, typer.Option("--json", help="JSON lines instead of a table.")]


@lab.command("run")
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
    from superweights.cli.lab_table import show
    from superweights.verbs.lab_run import lab_run

    with console.kept_in(to), console.progress() as bar:
        shown = lab_run(suite, to, quick=quick, workers=workers, ray=ray, progress=bar)
    show(shown, as_json)
    console.notes.print(f"page: {console.plain(str(to / 'page.html'))}", soft_wrap=True)


@lab.command("list")
def list_(
    toml: Annotated[str | None, typer.Option(help="Print the recipe of this arm as TOML.")] = None,
) -> None:
    """Show every suite with its arms, or one arm's recipe.

    Example: superweights lab list --toml softmax1
    """
    from superweights.cli.lab_table import show
    from superweights.verbs.lab_list import lab_list

    found = lab_list(toml)
    if isinstance(found, str):
        console.print_line(found.rstrip())
    else:
        show(found, as_json=False)


@lab.command("train")
def train(
    recipe: RecipeName,
    to: To,
    seed: Annotated[
        int | None, typer.Option(help="Seed of the first weights, instead of the recipe's.")
    ] = None,
    tensorboard: Annotated[bool, typer.Option("--tensorboard", help="Also write event files.")] = False,
    as_json: AsJson = False,
) -> None:
    """Train one recipe; killed and started again it ends with the same weights. Works under torchrun.

    Example: superweights lab train softmax1 --to DIR
    """
    from superweights.cli.lab_table import show
    from superweights.verbs.lab_compare import lab_compare
    from superweights.verbs.train import train as through

    with console.kept_in(to), console.progress() as bar:
        result = through(recipe, to, seed=seed, tensorboard=tensorboard, progress=bar)
    if os.environ.get("RANK", "0") == "0":  # of torchrun's processes one speaks
        show(lab_compare([to]), as_json)
    if result.why is not None:
        raise SuperweightsError(result.why, hint=f"the log is kept in {to}; lower the learning rate.")


@lab.command("compare")
def compare(folders: Folders, as_json: AsJson = False) -> None:
    """Put finished runs beside each other; runs that differ only in their seed make one line.

    Example: superweights lab compare DIR1 DIR2
    """
    from superweights.cli.lab_table import show
    from superweights.verbs.lab_compare import lab_compare

    show(lab_compare(folders), as_json)


@lab.command("page")
def page(
    folders: Folders,
    out: Annotated[Path, typer.Option(help="The HTML file.")] = Path("lab.html"),
) -> None:
    """Draw runs, or a suite, on one HTML page: the table, curves over training, the birth of a sink.

    Example: superweights lab page DIR --out lab.html
    """
    from superweights.verbs.lab_page import lab_page

    console.check_out(out)
    console.write_out(out, lab_page(folders))
    console.notes.print(f"wrote {console.plain(str(out))}", soft_wrap=True)
