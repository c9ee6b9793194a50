"""``fovea export``: one task of a model as an ONNX file, for programs that have no torch."""

from pathlib import Path

import click

from common.errors import ModelError
from server.commands.failing import failing_plainly


@click.command()
@click.argument("model", type=click.Path(path_type=Path))
@click.option("--task", help="Whose head is exported.  [default: the model's only task]")
@click.option(
    "--out",
    type=click.Path(path_type=Path, dir_okay=False),
    required=True,
    help="File to write, FILE.onnx.",
)
@click.option(
    "--batch",
    type=click.IntRange(min=1),
    help="How many pictures every call will have.  [default: any number]",
)
@click.option(
    "--expect-digest",
    metavar="SHA256",
    help="Refuse a model whose package has another digest; the run's summary.json names it.",
)
@failing_plainly
def export(
    *, model: Path, task: str | None, out: Path, batch: int | None, expect_digest: str | None
) -> None:
    """Write one task of MODEL as an ONNX file, with the maps among its outputs.

    MODEL is the folder of a run or of a model package. The file takes prepared 8-bit pictures and
    says in its metadata what it is of and how pictures are prepared. It is compared with the model
    before it is written.
    """
    from common.package.loading import open_package  # noqa: PLC0415 - brings torch
    from common.package.onnx_export import export_onnx  # noqa: PLC0415

    loaded = open_package(model, expected_digest=expect_digest)
    chosen = loaded.task_asked_for(task, how="name one with --task")
    try:
        export_onnx(loaded, task=chosen, path=out, batch=batch)
    except OSError as error:
        raise ModelError(
            f"{out}: cannot be written ({error.strerror}); name another file."
        ) from error
    click.echo(f"{out}: task {chosen}, compared with the model.")
