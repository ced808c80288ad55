"""Settings of training and pre-training runs, as read from YAML."""

from terrafuse.config.run import (
    AugmentConfig,
    AugmentPlace,
    DataConfig,
    EvaluationConfig,
    FixedStatistics,
    LearningConfig,
    LossConfig,
    MethodConfig,
    PredictionConfig,
    RunConfig,
    TrainingConfig,
    load_run_config,
)

__all__ = [
    "AugmentConfig",
    "AugmentPlace",
    "DataConfig",
    "EvaluationConfig",
    "FixedStatistics",
    "LearningConfig",
    "LossConfig",
    "MethodConfig",
    "PredictionConfig",
    "RunConfig",
    "TrainingConfig",
    "load_run_config",
]
