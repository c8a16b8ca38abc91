"""`ggufkit inspect`."""

from pathlib import Path

import click

from ggufkit.cli import console, options


@click.command()
@click.argument("file", type=options.PATH)
@click.option("--tensors/--no-tensors", default=True, help="List the tensors.")
@click.option("--full", is_flag=True, help="One line a tensor, and whole metadata values.")
@click.option("--template", is_flag=True, help="Print the chat template and nothing else.")
@options.json_flag
def command(*, file: Path, tensors: bool, full: bool, template: bool, as_json: bool) -> None:
    """Show what is in FILE: metadata, tensors, types, sizes. Reads the header only."""
    from ggufkit.errors import GgufError
    from ggufkit.workflows.inspect import inspect

    report = inspect(file)
    if template:
        if not report.chat_template:
            raise GgufError(f"{file} has no chat template.")
        console.print_text(report.chat_template)
    else:
        console.show_result(report, as_json=as_json, tensors=tensors, full=full)
