"""Choice of a setting per row of a sweep, by validation score with the first seed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from terrafuse.api.sweep_plan import Candidates, SweepRun
from terrafuse.errors import ConfigError, StoppedError, TerrafuseError
from terrafuse.evaluation import SCORES
from terrafuse.reports.sweep_tables import Choice


def choose_value(
    candidates: Candidates,
    jobs: Sequence[SweepRun],
    train: Callable[[SweepRun], Path],
    say: Callable[[str], None],
) -> Choice:
    """Train a run per value, unless it is finished, and choose the best value.

    A run that fails (a learning rate so high that the loss is not finite) is excluded. If all fail,
    the first value is chosen, whose run then fails in the table.

    Args:
        candidates: Setting and its values.
        jobs: Per value, the row's run with the first seed.
        train: Trains a run, or finds it finished; returns its folder.
        say: Called with a line per value.

    Raises:
        ConfigError: A run has no validation.
        StoppedError: Ctrl-C or SIGTERM stopped a run; the same call resumes it.
    """
    scores: dict[str, float | None] = {}
    monitor = jobs[0].config.training.monitor
    for value, job in zip(candidates.values, jobs, strict=True):
        if job.config.training.validate_every is None:
            raise ConfigError(
                f"'{job.title}' cannot choose {candidates.key} by validation: its run has no "
                "training.validate_every. Set it, or give one value with -s"
            )
        try:
            scores[value] = _best_score(train(job), monitor)
        except StoppedError as error:
            raise StoppedError(f"{error.event}. The same command resumes the sweep") from None
        except TerrafuseError as error:
            scores[value] = None
            say(f"{job.name} failed: {error}")
            continue
        found = "undefined" if scores[value] is None else f"{scores[value]:.4f}"
        say(f"{job.name}: {monitor} {found} in validation")
    known = {value: score for value, score in scores.items() if score is not None}
    pick = max if SCORES[monitor].higher_is_better else min
    best = pick(known, key=lambda value: known[value], default=candidates.values[0])
    say(f"{jobs[0].title}: {candidates.key} {best} of {', '.join(candidates.values)}")
    return Choice(candidates.key, best, scores, monitor)


def _best_score(folder: Path, monitor: str) -> float | None:
    from terrafuse.training.log import read_log  # training takes seconds to import

    rows = read_log(folder / "log.csv")
    found = [float(text) for row in rows if (text := row.get(f"val_{monitor}"))]
    pick = max if SCORES[monitor].higher_is_better else min
    return pick(found, default=None)
