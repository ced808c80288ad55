"""`terrafuse pretrain`: pre-training without labels."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from terrafuse.cli.options import Resume, Setting, pairs


def pretrain(
    config: Annotated[
        Path, typer.Argument(help="Settings of the pre-training.", metavar="pretrain.yaml")
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder to create.")],
    settings: Setting = None,
    resume: Resume = False,
) -> None:
    """Pre-train backbones on images without labels, as a start for methods."""
    from terrafuse import api
    from terrafuse.locking import is_first_process, one_voice

    with one_voice():
        folder = api.pretrain(config, out, overrides=pairs(settings), resume=resume)
    if not is_first_process():  # the first process may still be writing
        return
    weights = api.pretrained_weights(folder)
    typer.echo(f"pre-trained {folder}; for run.yaml, under 'method':")
    # JSON is valid YAML, whatever characters a path has.
    typer.echo(f"  weights: {json.dumps(weights, ensure_ascii=False)}")
