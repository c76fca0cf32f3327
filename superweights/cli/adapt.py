"""`superweights adapt`: the group of commands about experts."""

from __future__ import annotations

import typer

from superweights.cli.adapt_answer import answer
from superweights.cli.adapt_compare import compare
from superweights.cli.adapt_drift import drift
from superweights.cli.adapt_effects import effects
from superweights.cli.adapt_mix import mix
from superweights.cli.adapt_train import train
from superweights.cli.adapt_write import export, merge

adapt = typer.Typer(
    help="Experts that turn a model's singular values (Transformer²): train, answer, mix, merge, compare.",
    no_args_is_help=True,
)
for command in (train, answer, mix, merge, export, effects, compare, drift):
    adapt.command(command.__name__)(command)
