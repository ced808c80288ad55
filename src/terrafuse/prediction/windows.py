"""Settings of windows: how a scene is cut and run, as one record."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal, get_args

from terrafuse.config import RunConfig
from terrafuse.errors import ConfigError
from terrafuse.prediction.lattice import Blending, check_windows
from terrafuse.weights.portable import PortableInfo, damaged
from terrafuse.weights.run_info import fault_of

Precision = Literal["32-true", "16-mixed", "bf16-mixed"]


@dataclass(frozen=True)
class WindowSettings:
    """Settings of a scene's windows and of running the model on them.

    Args:
        crop_size: Side of the windows in scene pixels; rounded up to what the modalities' scales
            need.
        overlap: Scene pixels shared by neighbouring windows; at most half of `crop_size` with
            blending "taper", else less than it.
        blending: Weighting of overlapping windows, as in `Lattice`.
        batch_size: Windows per forward pass.
        precision: As in Lightning; logits are always averaged in float32.
        is_batch_chosen: Whether somebody chose `batch_size` for mapping. The one of the training,
            which stands in otherwise, may be replaced by one that suits the free memory.

    Raises:
        ConfigError: A value is not allowed, or `overlap` does not suit `crop_size`.
    """

    crop_size: int
    overlap: int
    blending: Blending = "taper"
    batch_size: int = 8
    precision: Precision = "32-true"
    is_batch_chosen: bool = field(default=True, compare=False)

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
        """Return a run's settings, each replaced by the argument given for it.

        Args:
            crop_size: Side of the windows in scene pixels; None, here and below: the run's value.
            overlap: None: the run's, or a quarter of the window if it has none.
            blending: Weighting of overlapping windows, as in `Lattice`.
            batch_size: Windows per forward pass.
            precision: None: "32-true", whatever the precision of training.

        Raises:
            ConfigError: The values contradict each other.
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
            is_batch_chosen=bool(batch_size or config.prediction.batch_size),
        )

    @classmethod
    def of_export(cls, info: PortableInfo, place: str) -> WindowSettings:
        """Return the settings that an exported model records.

        Args:
            info: Of the model.
            place: Its file, for messages.

        Raises:
            WeightsError: They are damaged.
        """
        try:
            return cls(**info.windows, is_batch_chosen=False)
        except (TypeError, ConfigError) as error:
            raise damaged(place, fault_of(error)) from None

    def changed(self, **given: Any) -> WindowSettings:
        """Return these settings, each replaced by the argument given for it that is not None.

        Windows of another size overlap by a quarter, unless told.

        Raises:
            ConfigError: The values contradict each other.
        """
        found = {name: value for name, value in given.items() if value is not None}
        if "crop_size" in found and "overlap" not in found:
            found["overlap"] = found["crop_size"] // 4
        return replace(self, **found, is_batch_chosen="batch_size" in found)

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, as recorded in `prediction.json` and `metrics.json`."""
        values = asdict(self)
        del values["is_batch_chosen"]
        return values
