"""Settings of runs and pre-trainings, as their YAML files hold them."""

from terrafuse.config.run import (
    AugmentConfig,
    DataConfig,
    EvaluationConfig,
    FixedStatistics,
    LearningConfig,
    LossConfig,
    PredictionConfig,
    RunConfig,
    TrainingConfig,
    load_run_config,
)

__all__ = [
    "AugmentConfig",
    "DataConfig",
    "EvaluationConfig",
    "FixedStatistics",
    "LearningConfig",
    "LossConfig",
    "PredictionConfig",
    "RunConfig",
    "TrainingConfig",
    "load_run_config",
]
