"""`rslow settings`: every key that may be set, with its default and explanation."""

from typing import Annotated

import typer

from rs_lowconf.cli.app import app


@app.command()
def settings(
    section: Annotated[
        str | None, typer.Argument(help="A section or a key, such as search or search.tau.")
    ] = None,
    schema: Annotated[
        bool, typer.Option("--schema", help="Print a JSON schema, for completion in editors.")
    ] = False,
) -> None:
    """Print the keys of --config and --set: default, possible values, explanation."""
    from rs_lowconf.reference import as_text, json_schema, sections

    print(json_schema() if schema else as_text(sections(section)), end="")
