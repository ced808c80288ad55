"""The verb for learning without labels: `terrafuse pretrain`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from terrafuse.cli.options import Setting, pairs


def pretrain(
    config: Annotated[
        Path, typer.Argument(help="Settings of the pre-training.", metavar="pretrain.yaml")
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="The folder to make.")],
    settings: Setting = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with an interrupted run.")] = (
        False
    ),
) -> None:
    """Learn backbones from images without labels, for methods to start from."""
    from terrafuse import api

    folder = api.pretrain(config, out, overrides=pairs(settings), resume=resume)
    from terrafuse.training import is_first_process

    if not is_first_process():  # the first one may still be writing
        return
    weights = api.pretrained_weights(folder)
    typer.echo(f"pre-trained {folder}; for run.yaml, under 'method':")
    # JSON is YAML, whatever is in a path.
    typer.echo(f"  weights: {json.dumps(weights, ensure_ascii=False)}")
