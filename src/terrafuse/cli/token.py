"""Tokens of the service: `terrafuse token COMMAND`."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from terrafuse.cli.options import AsJson

token_app = typer.Typer(
    help="Make, list and remove the tokens that 'serve' and 'view' ask for.", no_args_is_help=True
)
TokensFile = Annotated[
    Path, typer.Option("--tokens", help="File of tokens, hashed; made if need be.", metavar="FILE")
]
_DEFAULT = Path("tokens.json")


@token_app.command("add")
def token_add(
    name: Annotated[str, typer.Argument(help="Of the user.")],
    tokens: TokensFile = _DEFAULT,
    may: Annotated[
        str,
        typer.Option(
            help="Comma-separated: priority (jobs before those of others), upload (send rasters), "
            "urls (name rasters by address), all (see and end jobs of others).",
        ),
    ] = "",
    quota: Annotated[
        int | None, typer.Option(help="Jobs that wait or run at once; default: the service's.")
    ] = None,
    running: Annotated[
        int | None, typer.Option(help="Jobs that run at once; default: the service's.")
    ] = None,
) -> None:
    """Make a token and print it, once: the file holds its hash only."""
    from terrafuse.web.access.tokens import add_token

    rights = [word.strip() for word in may.split(",") if word.strip()]
    secret, _ = add_token(tokens, name, may=rights, max_queued=quota, max_running=running)
    typer.echo(secret)
    typer.echo(f"the token of {name}: nothing shows it again; its hash is in {tokens}", err=True)


@token_app.command("list")
def token_list(tokens: TokensFile = _DEFAULT, as_json: AsJson = False) -> None:
    """List whose tokens there are, and what they may."""
    from terrafuse.cli.tables import print_rows
    from terrafuse.web.access.tokens import read_tokens

    rows = [asdict(token) for token in read_tokens(tokens)]
    for row in rows:
        del row["sha256"]
    if as_json:
        typer.echo(json.dumps(rows, indent=2))
        return
    print_rows("tokens", [{**row, "may": ", ".join(row["may"])} for row in rows])


@token_app.command("remove")
def token_remove(
    name: Annotated[str, typer.Argument(help="Of the user.")], tokens: TokensFile = _DEFAULT
) -> None:
    """Remove a user's token; a running server refuses it at once."""
    from terrafuse.web.access.tokens import remove_token

    remove_token(tokens, name)
    typer.echo(f"removed the token of {name}")
