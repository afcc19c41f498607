"""`rslow estimate`: how often the target is wrong, and how far that is known."""

import typer

from rs_lowconf.cli.app import app

estimate_app = typer.Typer(
    help="Honest error estimates of a model from few labels.", no_args_is_help=True
)
app.add_typer(estimate_app, name="estimate")
