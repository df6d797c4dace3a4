"""`bgpipe keys`: who may use the HTTP service."""

from __future__ import annotations

import time
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from bgpipe.pipeline.cli.session import open_session, read_settings
from bgpipe.pipeline.errors import UsageError

if TYPE_CHECKING:
    from bgpipe.pipeline.cli.terminal import Terminal

api_keys = typer.Typer(help="Make, list and revoke API keys of bgpipe serve.", no_args_is_help=True)


@api_keys.command()
def add(
    context: typer.Context,
    name: Annotated[str, typer.Argument(help="Whose it is; jobs belong to a name.")],
    everything: Annotated[
        bool, typer.Option("--everything", help="See and end all jobs, of others and of commands.")
    ] = False,
) -> None:
    """Make a key and print it; only a digest of it is kept."""
    from bgpipe.pipeline.access import Access

    terminal: Terminal = context.obj
    with open_session(read_settings()) as session:
        secret = Access(session.client).add(name, everything=everything)
    terminal.emit({"name": name, "key": secret})
    terminal.say(secret)


@api_keys.command("list")
def list_(context: typer.Context) -> None:
    """Show whose keys there are, each with the first digits of its digest."""
    from bgpipe.pipeline.access import Access

    terminal: Terminal = context.obj
    with open_session(read_settings()) as session:
        for digest, grant in Access(session.client).all():
            terminal.emit({"digest": digest} | asdict(grant))
            made = time.strftime("%Y-%m-%d", time.localtime(grant.created))
            scope = "  everything" if grant.everything else ""
            terminal.say(f"{digest}  {made}  {grant.name}{scope}")


@api_keys.command()
def revoke(
    context: typer.Context,
    name: Annotated[str, typer.Argument(metavar="NAME", help="Or the digits that list shows.")],
) -> None:
    """Make all keys of a name, or one key, worthless at once."""
    from bgpipe.pipeline.access import Access

    terminal: Terminal = context.obj
    with open_session(read_settings()) as session:
        count = Access(session.client).revoke(name)
    if not count:
        raise UsageError(f"no such key: {name}: bgpipe keys list shows those there are")
    terminal.emit({"revoked": count})
    terminal.say(f"revoked: {count}")
