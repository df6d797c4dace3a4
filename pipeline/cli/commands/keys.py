"""`bgpipe keys`: the API keys of the HTTP service."""

from __future__ import annotations

import time
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from bgpipe.pipeline.cli.command_line import examples, open_session
from bgpipe.pipeline.errors import UsageError

if TYPE_CHECKING:
    from bgpipe.pipeline.cli.console import Console

key_commands = typer.Typer(help="Manage the API keys of bgpipe serve.", no_args_is_help=True)


@key_commands.command()
@examples("bgpipe keys add alice", "bgpipe keys add admin --everything")
def add(
    context: typer.Context,
    name: Annotated[
        str, typer.Argument(metavar="NAME", help="Owner of the key. Jobs belong to a name.")
    ],
    everything: Annotated[
        bool, typer.Option("--everything", help="Allow access to the jobs of all owners.")
    ] = False,
) -> None:
    """Create a key and print it. Only a digest of it is stored."""
    from bgpipe.pipeline.http.api_keys import ApiKeys

    console: Console = context.obj
    with open_session(console) as session:
        secret = ApiKeys(session.client).add(name, everything=everything)
    console.print_json({"name": name, "key": secret})
    console.print(secret)


@key_commands.command("list")
@examples("bgpipe keys list", "bgpipe --json keys list")
def list_(context: typer.Context) -> None:
    """List the keys: first digits of the digest, date and owner."""
    from bgpipe.pipeline.http.api_keys import ApiKeys

    console: Console = context.obj
    with open_session(console) as session:
        for digest, grant in ApiKeys(session.client).all():
            console.print_json({"digest": digest} | asdict(grant))
            created = time.strftime("%Y-%m-%d", time.localtime(grant.created))
            scope = "  everything" if grant.everything else ""
            console.print(f"{digest}  {created}  {grant.name}{scope}")


@key_commands.command()
@examples("bgpipe keys revoke alice", "bgpipe keys revoke 3f2a91c0")
def revoke(
    context: typer.Context,
    name: Annotated[
        str, typer.Argument(metavar="NAME", help="Owner, or the digits that keys list shows.")
    ],
) -> None:
    """Revoke all keys of an owner, or one key, at once."""
    from bgpipe.pipeline.http.api_keys import ApiKeys

    console: Console = context.obj
    with open_session(console) as session:
        count = ApiKeys(session.client).revoke(name)
    if not count:
        raise UsageError(f"no such key: {name}: see bgpipe keys list")
    console.print_json({"revoked": count})
    console.print(f"revoked: {count}")
