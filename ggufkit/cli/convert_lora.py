"""`ggufkit convert-lora`."""

from pathlib import Path

import click

from ggufkit.cli import console, options

EXAMPLES = """
\b
Examples:
  ggufkit convert-lora ./my-adapter --base ./Qwen3-8B -o my-adapter.gguf
  ggufkit run qwen3-8b-Q4_K_M.gguf --lora my-adapter.gguf -p "Hello"
"""


@click.command(epilog=EXAMPLES)
@click.argument("adapter", type=options.PATH)
@click.option("-o", "--output", type=options.OUTPUT, required=True, help="The GGUF to write.")
@click.option("--base", type=options.PATH, default=None,
              help="Folder of its base model; config.json is enough.  [default: as the adapter names it]")  # fmt: skip
@click.option("--type", "type_name", type=click.Choice(["F32", "F16", "BF16"], case_sensitive=False), default="F32",
              show_default=True, help="Type of its matrices.")  # fmt: skip
@click.option("--force", is_flag=True, help="Replace an existing output.")
@options.json_flag
def command(*, adapter: Path, output: Path, base: Path | None, type_name: str, force: bool, as_json: bool) -> None:
    """Write ADAPTER, the folder of a PEFT adapter (LoRA, rsLoRA), as a GGUF that is added to a model when it runs.

    To make one file of model and adapter, use `ggufkit quantize BASE --lora ADAPTER`: that takes DoRA, too, layers
    that were saved whole, and resized embeddings.
    """
    from ggufkit.reports.convert_lora_text import render
    from ggufkit.reports.result import as_dict
    from ggufkit.workflows.convert_lora import convert_lora

    report = convert_lora(adapter, output, base=base, type=type_name)
    if as_json:
        console.print_json(as_dict(report))
    else:
        console.show(lambda _: render(report))
