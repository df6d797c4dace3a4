"""`bgpipe submit`: a folder in, a job in the ledger, cutouts out."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bgpipe.pipeline.cli.forecast import show_forecast
from bgpipe.pipeline.cli.output import Finish, choose_output
from bgpipe.pipeline.cli.prune import prune
from bgpipe.pipeline.cli.recipe import choose_recipe
from bgpipe.pipeline.cli.run import Wait, check_wait, see_through
from bgpipe.pipeline.cli.session import Session, open_session, read_settings
from bgpipe.pipeline.cli.terminal import Terminal
from bgpipe.pipeline.cli.workflow import load_workflow
from bgpipe.pipeline.errors import UsageError

if TYPE_CHECKING:
    from bgpipe.pipeline.lease import Lease
    from bgpipe.pipeline.types import Job, JobId

Globs = list[str] | None


def submit(
    context: typer.Context,
    source: Annotated[
        str,
        typer.Argument(help="A folder, a file, s3://bucket/prefix, @list.txt, or - for a list."),
    ],
    out: Annotated[
        str | None,
        typer.Option(help="Folder or s3:// prefix of the cutouts; default: <source>-cutouts."),
    ] = None,
    preset: Annotated[
        str | None, typer.Option(help="balanced, products, portraits, catalogue, raw.")
    ] = None,
    workflow: Annotated[
        Path | None, typer.Option(metavar="FILE", help="A ComfyUI workflow instead of a preset.")
    ] = None,
    set_: Annotated[Globs, typer.Option("--set", metavar="K=V", help="Change one value.")] = None,
    model: Annotated[str | None, typer.Option(help="A name, or a path to safetensors.")] = None,
    matting: Annotated[
        str | None, typer.Option(help="For hair and fur: vitmatte, vitmatte-base, a path; or none.")
    ] = None,
    include: Annotated[Globs, typer.Option(metavar="GLOB", help="Only keys like this.")] = None,
    exclude: Annotated[Globs, typer.Option(metavar="GLOB", help="No keys like this.")] = None,
    format_: Annotated[
        str, typer.Option("--format", help="png, webp, avif, jpeg, mask, zip.")
    ] = "png",
    png: Annotated[str, typer.Option(help="fast, or small: many times slower.")] = "fast",
    depth: Annotated[int, typer.Option(help="16: keep 16-bit colours in the PNG.")] = 8,
    quality: Annotated[int, typer.Option(help="Of JPEG, AVIF, WebP (100: lossless).")] = 90,
    input_alpha: Annotated[
        str, typer.Option(help="A source's own alpha: multiply, keep or ignore.")
    ] = "multiply",
    name: Annotated[
        str, typer.Option(metavar="TEMPLATE", help="Like {folder}/{stem}-cutout.")
    ] = "",
    crop: Annotated[bool | None, typer.Option("--crop", help="Cut to the subject.")] = None,
    margin: Annotated[float | None, typer.Option(help="Percent of the longer side.")] = None,
    canvas: Annotated[str | None, typer.Option(help="2000x2000 pixels, or 4:5.")] = None,
    place: Annotated[
        str | None, typer.Option(help="On the canvas: middle, top, bottom, left, right.")
    ] = None,
    background: Annotated[
        str | None, typer.Option(help="white, #rrggbb, or the path of an image.")
    ] = None,
    shadow: Annotated[float | None, typer.Option(help="On the ground: 0 to 1.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Redo what is up to date.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Count, and do nothing.")] = False,
    prune_: Annotated[
        bool, typer.Option("--prune", help="Remove cutouts whose source is gone.")
    ] = False,
    wait: Wait = None,
    job: Annotated[str | None, typer.Option(metavar="NAME", help="Name of the job.")] = None,
) -> None:
    """Make cutouts of every image in SOURCE; what is up to date is skipped."""
    from bgpipe.pipeline.cli.source import find_source, find_target
    from bgpipe.pipeline.docket import new_job_id
    from bgpipe.pipeline.manifest import digest
    from bgpipe.pipeline.recipes import check_output
    from bgpipe.pipeline.types import Job, JobId

    terminal: Terminal = context.obj
    settings = read_settings()
    check_wait(settings, wait)
    chosen = find_source(source)
    drawn = load_workflow(settings, workflow) if workflow else None
    if drawn and preset:
        raise UsageError("a workflow takes the place of a preset: leave --preset or --workflow out")
    finish = Finish(crop, margin, canvas, place, background, shadow)
    output = choose_output(
        settings,
        file_format="mask" if drawn and drawn.is_mask and format_ == "png" else format_,
        compression=png,
        depth=depth,
        quality=quality,
        input_alpha=input_alpha,
        backdrop=finish.backdrop,
    )
    recipe = choose_recipe(
        settings,
        terminal,
        model=model or (drawn.model if drawn else None),
        preset=drawn.preset if drawn else preset,
        matting=matting,
        assignments=[*(set_ or ()), *finish.assignments()],
        output=output,
    )
    check_output(recipe, name)
    order = Job(
        id=JobId(job) if job else new_job_id(),
        source=chosen.root,
        out=find_target(out) if out else chosen.default_out,
        recipe=recipe,
        created=time.time(),
        include=tuple(include or ()),
        exclude=tuple(exclude or ()),
        force=force,
        named=digest(chosen.keys) if chosen.keys else "",
        naming=name,
    )
    with open_session(settings) as session:
        if prune_:
            prune(session, settings.prune.most, terminal, order, dry_run=dry_run)
        if dry_run:
            show_forecast(session, settings, terminal, order, chosen.keys)
            return
        opened, lease = open_order(session, terminal, order, chosen.keys or ())
        code = see_through(session, terminal, opened, lease, wait=wait)
    raise typer.Exit(code)


def open_order(
    session: Session, terminal: Terminal, order: Job, named: Sequence[str] = ()
) -> tuple[JobId, Lease]:
    """Open the job, or find the one that does the same already; with the lease of either."""
    from bgpipe.pipeline import keys
    from bgpipe.pipeline.ledger import Occupied

    lease = session.lease(keys.lease_of_job(order.id))
    lease.take()  # before others can see the job and miss its leader
    try:
        session.ledger.open(order, named)
    except Occupied as error:
        if session.is_attended(error.job):
            lease.free()
            _check_same(session.ledger.job(error.job), order)
            terminal.warn(f"following job {error.job}, which does this already")
            return error.job, session.lease(keys.lease_of_job(error.job))
        terminal.warn(f"job {error.job} was left: {order.id} takes its place")
        session.ledger.cancel(error.job)
        session.ledger.open(order, named)
    return order.id, lease


def _check_same(other: Job, order: Job) -> None:
    if not order.same_as(other):
        raise UsageError(
            f"job {other.id} is writing cutouts of another kind to {other.out}: "
            f"wait for its end, or bgpipe cancel {other.id}"
        )
