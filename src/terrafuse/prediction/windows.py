"""How a scene is cut into windows and run: one record that is passed whole."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

from terrafuse.config import RunConfig
from terrafuse.errors import ConfigError
from terrafuse.prediction.lattice import Blending, check_windows

Precision = Literal["32-true", "16-mixed", "bf16-mixed"]


@dataclass(frozen=True)
class WindowSettings:
    """Windows of a scene, and how the model runs on them.

    Args:
        crop_size: Side of the windows in scene pixels; rounded up to what the modalities' scales
            need.
        overlap: Scene pixels shared by neighbouring windows; at most half of `crop_size` with
            blending "taper", else less than it.
        blending: How overlapping windows are weighted, as in `Lattice`.
        batch_size: Windows per forward pass.
        precision: As in Lightning; logits are averaged in float32 in any case.

    Raises:
        ConfigError: A value that is not allowed, or an overlap that does not suit `crop_size`.
    """

    crop_size: int
    overlap: int
    blending: Blending = "taper"
    batch_size: int = 8
    precision: Precision = "32-true"

    def __post_init__(self) -> None:
        if self.precision not in get_args(Precision):
            raise ConfigError(
                f"precision is '{self.precision}'; allowed are {', '.join(get_args(Precision))}"
            )
        if self.batch_size < 1:
            raise ConfigError(f"batch_size is {self.batch_size}; allowed are positive numbers")
        check_windows(self.crop_size, self.overlap, self.blending)

    @classmethod
    def of_run(
        cls,
        config: RunConfig,
        *,
        crop_size: int | None = None,
        overlap: int | None = None,
        blending: Blending | None = None,
        batch_size: int | None = None,
        precision: Precision | None = None,
    ) -> WindowSettings:
        """The settings of a run, each replaced by what is given.

        Args:
            config: Of the run.
            crop_size: None: the run's; so are the following.
            overlap: None: the run's, or a quarter of the window where it names none.
            blending: As in `Lattice`.
            batch_size: Windows per forward pass.
            precision: None: "32-true", whatever the precision of training.

        Raises:
            ConfigError: They do not suit each other.
        """
        size = config.predict_crop_size if crop_size is None else crop_size
        if overlap is None:
            overlap = config.prediction.overlap
        return cls(
            crop_size=size,
            overlap=size // 4 if overlap is None else overlap,
            blending=blending or config.prediction.blending,
            batch_size=config.predict_batch_size if batch_size is None else batch_size,
            precision=precision or "32-true",
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as `prediction.json` and `metrics.json` record them."""
        return asdict(self)
