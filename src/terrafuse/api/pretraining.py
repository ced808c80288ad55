"""Commands on pre-training without labels."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from terrafuse.config.pretrain import PretrainConfig, load_pretrain_config
from terrafuse.errors import WeightsError, WeightsNotFoundError
from terrafuse.writing import complete


def pretrain(
    config: str | Path | PretrainConfig,
    out: str | Path,
    *,
    overrides: Mapping[str, str] | None = None,
    resume: bool = False,
    progress: bool = True,
) -> Path:
    """Pre-train backbones on images without labels; return the folder of their weights.

    Args:
        config: The file, or the settings themselves.
        out: The folder to make.
        overrides: Dotted keys → YAML values that replace those of the file.
        resume: Go on where an interrupted run stopped.
        progress: Show a progress bar, or lines where stderr is no terminal.

    Raises:
        ConfigError: The settings are invalid.
        DataError: There is nothing to train on.
        ModelError: The objective does not suit the backbone or the modalities.
        OutputError: `out` holds another run, or cannot be written.
    """
    from terrafuse.training import pretrain as pretrain_run  # Lightning takes seconds to import

    if not isinstance(config, PretrainConfig):
        config = load_pretrain_config(config, overrides or {})
    return pretrain_run(config, Path(out), resume=resume, progress=progress)


def pretrained_weights(folder: str | Path) -> str | dict[str, str]:
    """Return the weights that `pretrain` saved in a folder, as a value of `method.weights`.

    Args:
        folder: Folder that `pretrain` returned.

    Returns:
        Absolute path of the only file, or one path per modality.

    Raises:
        WeightsNotFoundError: The folder holds no finished pre-training.
        WeightsError: Its description is damaged.
    """
    path = Path(folder).resolve() / "pretrain.json"
    complete(path.parent)
    try:
        found = json.loads(path.read_text(encoding="utf-8"))["weights"]
    except (FileNotFoundError, NotADirectoryError):
        raise WeightsNotFoundError(
            f"'{folder}' holds no finished pre-training: there is no {path.name}. Give the folder "
            "that 'terrafuse pretrain --out' wrote, or finish it with --resume"
        ) from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise WeightsError(f"'{path}' cannot be read: {error}. Pre-train again") from None
    if isinstance(found, Mapping):
        return {name: str(path.with_name(file)) for name, file in found.items()}
    return str(path.with_name(found))
