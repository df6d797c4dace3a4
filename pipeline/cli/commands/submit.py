"""`bgpipe submit`: make cutouts of images, as a job."""

from __future__ import annotations

from typer import Context, Exit, Typer

from bgpipe.pipeline.cli.command_line import examples, options_of
from bgpipe.pipeline.cli.parameters import SubmitOptions

app = Typer()


@app.command(
    epilog=examples(
        "bgpipe submit ~/photos",
        "bgpipe submit ~/photos --preset portraits --out ~/cutouts",
        "bgpipe submit in.jpg --out out.png",
        "bgpipe submit s3://shop/photos --out s3://shop/cutouts --format webp",
        "bgpipe submit ~/incoming --watch",
    )
)
@options_of(SubmitOptions)
def submit(context: Context, options: SubmitOptions) -> None:
    from bgpipe.pipeline.cli.submission import submit_images

    raise Exit(submit_images(context.obj, options))
