"""`bgpipe keys`: the API keys of the HTTP service."""

import time
from dataclasses import asdict

from typer import Argument, Context, Typer

from bgpipe.pipeline.cli.command_line import examples, flag, open_session
from bgpipe.pipeline.errors import UsageError
from bgpipe.pipeline.http.api_keys import ApiKeys

app = Typer(no_args_is_help=True)


@app.command(epilog=examples("bgpipe keys add alice", "bgpipe keys add admin --everything"))
def add(
    context: Context,
    name: str = Argument(..., metavar="NAME", help="Owner of the key. Jobs belong to a name."),
    everything: bool = flag("--everything", help="Allow access to the jobs of all owners."),
) -> None:
    """Create a key and print it. Only a digest of it is stored."""
    with open_session(context) as (console, session):
        secret = ApiKeys(session.client).add(name, everything=everything)
    console.show({"name": name, "key": secret}, secret)


@app.command("list", epilog=examples("bgpipe keys list", "bgpipe --json keys list"))
def list_(context: Context) -> None:
    """List the keys: first digits of the digest, date and owner."""
    with open_session(context) as (console, session):
        for digest, grant in ApiKeys(session.client).all():
            console.print_json({"digest": digest} | asdict(grant))
            created = time.strftime("%Y-%m-%d", time.localtime(grant.created))
            scope = "  everything" if grant.everything else ""
            console.print(f"{digest}  {created}  {grant.name}{scope}")


@app.command(epilog=examples("bgpipe keys revoke alice", "bgpipe keys revoke 3f2a91c0"))
def revoke(
    context: Context,
    name: str = Argument(..., metavar="NAME", help="Owner, or the digits that keys list shows."),
) -> None:
    """Revoke all keys of an owner, or one key, at once."""
    with open_session(context) as (console, session):
        count = ApiKeys(session.client).revoke(name)
    if not count:
        raise UsageError(f"no such key: {name}: see bgpipe keys list")
    console.show({"revoked": count}, f"revoked: {count}")
