"""Lightning's Trainer from a run's settings."""

from __future__ import annotations

import os
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from lightning.pytorch import Trainer
from lightning.pytorch.strategies import DDPStrategy
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from terrafuse.config import LearningConfig, TrainingConfig
from terrafuse.errors import ConfigError, MissingDependencyError
from terrafuse.training.processes import MeetingDDP, MeetingFSDP, meet_by

_BARE = {
    "enable_checkpointing": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
}


def check_trainer(config: LearningConfig, *, meets: bool = False) -> int:
    """Refuse settings that no trainer can be created from.

    Args:
        meets: Whether the processes meet now, where a launcher has started all of them.

    Returns:
        Number of processes of the run.

    Raises:
        ConfigError: Devices do not exist, or settings exclude each other.
        MissingDependencyError: A logger is not installed.
    """
    for name in config.loggers:
        if find_spec(name) is None:
            raise MissingDependencyError(
                f"training.loggers names '{name}', which is not installed. "
                "Run: pip install 'terrafuse[track]'"
            )
    if isinstance(config, TrainingConfig) and config.strategy.startswith("fsdp"):
        _refuse_with_shards(config)
    strategy = _trainer_of(config).strategy
    if not isinstance(strategy, MeetingDDP | MeetingFSDP):
        if config.backend != "auto":
            raise ConfigError(
                f"training.backend is {config.backend}, and nothing is exchanged: it is for "
                "several processes with strategy 'ddp' or 'fsdp'. Leave it out"
            )
        return int(getattr(strategy, "world_size", 1))
    if meets and strategy.cluster_environment.creates_processes_externally:
        meet_by(strategy)
    return int(strategy.num_processes * strategy.num_nodes)


def _refuse_with_shards(config: TrainingConfig) -> None:
    wanted = {
        "ema_decay": (config.ema_decay is not None, "the average needs whole weights"),
        "cache_features": (config.cache_features, "features are kept of whole backbones"),
        "head_first_steps": (config.head_first_steps > 0, "shards are frozen only as a whole"),
    }
    for name, (is_set, reason) in wanted.items():
        if is_set:
            raise ConfigError(
                f"training.{name} cannot be used with strategy 'fsdp': {reason}. Use strategy "
                f"'ddp', or leave {name} out"
            )


def create_trainer(config: LearningConfig, callbacks: list[Any], out: Path) -> Trainer:
    """Create a trainer that counts steps and leaves validation, logging and saving to callbacks.

    Args:
        config: Devices, precision, steps, loggers.
        callbacks: In the order in which they run.

    Raises:
        ConfigError: Devices do not exist.
    """
    return Trainer(
        **_devices(config),
        strategy=_strategy(config, _trainer_of(config)),
        precision=config.precision,
        max_steps=config.steps,
        accumulate_grad_batches=config.accumulate,
        gradient_clip_val=config.gradient_clip,
        callbacks=callbacks,
        logger=[_create_logger(name, out) for name in config.loggers] or False,
        default_root_dir=out,
        use_distributed_sampler=False,  # the loader distributes its samples itself
        log_every_n_steps=1,  # a callback writes log.csv; this only silences a warning
        num_sanity_val_steps=0,
        **_BARE,
    )


def _devices(config: LearningConfig) -> dict[str, Any]:
    return {
        "accelerator": config.accelerator,
        "devices": config.devices,
        "num_nodes": config.nodes,
    }


def _trainer_of(config: LearningConfig) -> Trainer:
    """Create a trainer only to learn from it what the settings mean on this machine.

    Raises:
        ConfigError: Devices do not exist, or the strategy does not suit them.
    """
    is_fsdp = config.strategy.startswith("fsdp")
    named: Any = "auto" if is_fsdp else config.strategy
    try:
        chosen = Trainer(**_devices(config), strategy=named, logger=False, **_BARE)
        strategy = _strategy(config, chosen)
        if not isinstance(strategy, str):
            chosen = Trainer(**_devices(config), strategy=strategy, logger=False, **_BARE)
            strategy.cluster_environment.validate_settings(strategy.num_processes, config.nodes)
        return chosen
    except (MisconfigurationException, ValueError, RuntimeError) as error:
        if isinstance(error, ConfigError):
            raise
        raise ConfigError(
            "training.accelerator, devices, nodes and strategy do not suit this machine: "
            f"{str(error).splitlines()[0]}"
        ) from None


def _strategy(config: LearningConfig, chosen: Trainer) -> Any:
    """The strategy by which processes meet; of one process, or in a notebook, Lightning's name.

    Args:
        chosen: A trainer with Lightning's strategy.
    """
    if config.strategy.startswith("fsdp"):
        return MeetingFSDP(config.backend, cpu_offload=config.strategy.endswith("offload"))
    is_plain = config.strategy in ("auto", "ddp") or config.strategy.startswith("ddp_find")
    if not (is_plain and isinstance(chosen.strategy, DDPStrategy)):
        return config.strategy
    # A modality may be absent from a whole batch; its backbone then gets no gradient.
    finds = not config.strategy.endswith("false")
    return MeetingDDP(config.backend, find_unused_parameters=finds)


def _create_logger(name: str, out: Path) -> Any:
    from lightning.pytorch import loggers

    if name == "tensorboard":
        return loggers.TensorBoardLogger(out, name="tensorboard", version="")
    if name == "wandb":
        return loggers.WandbLogger(project="terrafuse", name=out.name, save_dir=out)
    # MLflow's default is the working directory, in a deprecated format.
    own = f"sqlite:///{out.absolute() / 'mlflow.db'}"
    uri = os.environ.get("MLFLOW_TRACKING_URI", own)
    return loggers.MLFlowLogger("terrafuse", run_name=out.name, tracking_uri=uri)
