"""``fovea-site audit-pack``: a model on this hospital's own pictures, for its own eyes."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, cast

import click
from rich.console import Console

from client.commands.terminal import EXIT_FINDINGS, present, record, site_command
from client.home.folders import SiteHome
from client.home.ownership import as_owner, person
from common.errors import ConfigError
from common.machine.printable import printable

if TYPE_CHECKING:
    from common.explaining.asked import Trust

PARTS = ("train", "val", "test")


@click.command("audit-pack")
@click.argument("model", type=click.Path(path_type=Path))
@click.option(
    "--part",
    type=click.Choice(PARTS),
    default="val",
    show_default=True,
    help="Which of the prepared pictures; those of train have taught the model.",
)
@click.option(
    "--pictures",
    type=click.IntRange(min=0),
    default=24,
    show_default=True,
    help="How many get a page; all are measured.",
)
@click.option(
    "--methods",
    metavar="NAME,NAME,…|all",
    default="",
    help="Methods beside the model's own map, e.g. occlusion or grad-cam; a name that is none is "
    "answered with those there are.  [default: none]",
)
@click.option(
    "--trust",
    type=click.Choice(["none", "own", "all"]),
    default="own",
    show_default=True,
    help="Measure faithfulness and stability of no map, the model's own, or every method's.",
)
@click.option(
    "--expect-digest",
    metavar="SHA256",
    help="Refuse a model whose package has another digest; the run's summary.json names it.",
)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    help="Folder, empty or new.  [default: one by the time in trainer/audit-packs of the site]",
)
@site_command
def audit_pack(
    home: SiteHome,
    *,
    model: Path,
    part: str,
    pictures: int,
    methods: str,
    trust: str,
    expect_digest: str | None,
    out: Path | None,
) -> None:
    """Look at a model on this site's own validation pictures: pages and numbers, kept here.

    MODEL is the folder of a model package that the coordinator gave, or of a run. Nothing is sent,
    and neither trainer nor connector needs to run. The pages hold pictures of patients, under
    neutral names: they are written for their owner alone.

    \b
    fovea-site audit-pack package-demo-3
    fovea-site audit-pack package-demo-3 --methods occlusion,grad-cam --out /secure/demo-3

    Exit codes: 0 written, 1 an error (the message says the remedy), 2 wrong usage, 3 written, but
    some pictures could not be explained.
    """  # noqa: D301 - click's mark for lines that stay as they are
    import torch

    from client.audit_pack.writing import Asked, write_audit_pack  # noqa: PLC0415 - brings torch
    from client.commands.bars import ReadingBar  # noqa: PLC0415 - rich's progress takes its time
    from client.home.site import read_site  # noqa: PLC0415 - brings the schema
    from common.datasets.shard import open_shard  # noqa: PLC0415
    from common.explaining.asked import methods_named  # noqa: PLC0415
    from common.package.loading import open_package  # noqa: PLC0415

    now = present()
    folder = _folder(home, out or _packs(home) / f"{now:%Y%m%dT%H%M%SZ}")
    with as_owner(home.trainer):
        site = read_site(home.site_file)
        shard = open_shard(home.shard)
    torch.set_num_threads(site.machine.num_threads)
    loaded = open_package(model, expected_digest=expect_digest)
    asked = Asked(
        site=site.name,
        part=part,
        pictures=pictures,
        methods=methods_named(methods),
        trust=cast("Trust", trust),
        preprocess=site.preparation.preprocess,
    )
    errors = Console(stderr=True)
    with ReadingBar(errors, name=site.name) as bar:
        pack = write_audit_pack(loaded, shard, asked, out=folder, now=present, progress=bar)
    record(
        home,
        "audit-pack-written",
        by=person(),
        run=pack.model.run,
        package=pack.model.package_digest,
        weights=pack.model.weights_sha256,
        part=part,
        pages=len(pack.shown),
    )
    failed = [one for one in pack.shown if one.failure]
    for one in failed:
        errors.print(f"{one.name}: {printable(one.failure)}", markup=False, soft_wrap=True)
    click.echo(
        f"{pack.pictures} pictures of {pack.patients} patients measured, "
        f"{len(pack.shown) - len(failed)} explained: {folder / 'index.html'}\n"
        "The pages hold pictures of patients: keep them where the pictures may be."
    )
    if failed:
        sys.exit(EXIT_FINDINGS)


def _packs(home: SiteHome) -> Path:
    return home.trainer / "audit-packs"


def _folder(home: SiteHome, out: Path) -> Path:
    """Return where to write. Raises ConfigError where the connector or the trainer reads."""
    folder = out.resolve()
    root, packs = home.root.resolve(), _packs(home).resolve()
    if folder.is_relative_to(root) and not (folder.is_relative_to(packs) and folder != packs):
        raise ConfigError(
            f"{out}: lies among the files that trainer and connector work with. Name a folder "
            f"outside of {home.root}, or none: then it is one in {_packs(home)}."
        )
    return folder
