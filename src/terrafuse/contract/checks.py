"""The contract of every method, one function per promise.

The package's own tests and `terrafuse check-method` run the same list. A message says what does
not hold, what the contract is, and where a method mends it.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal

import torch
from torch import Tensor

from terrafuse.classes import ClassScheme
from terrafuse.config.options import option_names
from terrafuse.contract.influence import change, changed_images, in_groups, stack, too_small
from terrafuse.contract.inputs import CLASSES, Case, Images, random_images, statistics_of
from terrafuse.errors import MissingModalityError, ModelError, UnknownNameError
from terrafuse.exporting import to_program
from terrafuse.methods import create_segmenter, describe_run, find_method, load_segmenter
from terrafuse.segmenter import Segmenter, SegmenterOutput
from terrafuse.weights import save_model

_SIZES = ((32, 32), (34, 46), (2, 70), (96, 64))
_SCALES = (0.5, 2.0, 3.0, 20.0)
_CLOSE = {"rtol": 1e-4, "atol": 1e-5}


class ContractError(AssertionError):
    """A method does not keep what every method keeps."""


class NotAsked(Exception):  # noqa: N818
    """A promise that a method does not make."""


@dataclass(frozen=True)
class Check:
    """A promise.

    Args:
        name: In a word or two.
        promise: In a sentence.
        run: Raises `ContractError` where it is not kept, `NotAsked` where it is not made.
    """

    name: str
    promise: str
    run: Callable[[Case], None]


@dataclass(frozen=True)
class CheckResult:
    """Outcome of a check.

    Args:
        name: Of the check.
        promise: In a sentence.
        state: "ok", "failed" or "skipped".
        message: What does not hold and how to mend it, or why it was skipped.
    """

    name: str
    promise: str
    state: Literal["ok", "failed", "skipped"]
    message: str = ""


def run_check(check: Check, case: Case) -> CheckResult:
    """Run one check; whatever a method raises is a check that failed."""
    try:
        check.run(case)
    except NotAsked as reason:
        return CheckResult(check.name, check.promise, "skipped", str(reason))
    except ContractError as error:
        return CheckResult(check.name, check.promise, "failed", str(error))
    except Exception as error:  # the method's own
        told = f"{_place_of(error)}{type(error).__name__}: {error}"
        return CheckResult(check.name, check.promise, "failed", told)
    return CheckResult(check.name, check.promise, "ok")


def run_checks(case: Case) -> Iterator[CheckResult]:
    """Every check in turn; nothing after the first where the method cannot be built."""
    for check in CHECKS:
        result = run_check(check, case)
        yield result
        if check is CHECKS[0] and result.state == "failed":
            return


def check_built(case: Case) -> None:
    """Options with defaults, documented, checked by name; the constructor keeps its signature."""
    method = find_method(case.method)
    for key in option_names(method):
        default = inspect.signature(method).parameters[key].default
        _keep(
            default is not inspect.Parameter.empty,
            f"option '{key}' has no default; options are keyword-only arguments with defaults, so "
            "that run.yaml may leave them out",
        )
        _keep(
            f"{key}: " in (method.__doc__ or ""),
            f"option '{key}' is not documented; write '{key}: …' under 'Args:' of the docstring of "
            "the class, which is what users read",
        )
    _keep(bool(method.title), "the class has no 'title': set it to a line that says what it is")
    made = create_segmenter(case.method, case.inputs, CLASSES, case.options)
    _keep(isinstance(made, method), f"the class makes {type(made).__name__} instead of itself")
    _keep(
        made.num_classes == CLASSES and made.modalities == case.inputs,
        "modalities or num_classes are not known to the base class; call "
        "super().__init__(modalities, num_classes) with what came in",
    )
    try:
        create_segmenter(case.method, case.inputs, CLASSES, {"no_such_option": 1})
    except UnknownNameError:
        return
    raise ContractError(
        "an option that does not exist is taken in silence; name options one by one, keyword-only, "
        "instead of **options"
    )


def check_sizes(case: Case) -> None:
    """Logits of any window have its size."""
    segmenter = case.make()
    for size in _SIZES:
        output = _run(segmenter, random_images(case.inputs, size))
        _keep_shape(output, (2, CLASSES, *size), f"for a window of {size[0]} × {size[1]} pixels")


def check_scales(case: Case) -> None:
    """Modalities of any pixel size go in."""
    *others, last = case.inputs
    for scale in _SCALES:
        modalities = (*others, replace(last, scale=scale))
        output = _run(case.make(modalities), random_images(modalities, (60, 60)))
        where = f"with '{last.name}' of pixels {scale:g} times as large as the scene's"
        _keep_shape(output, (2, CLASSES, 60, 60), where)


def check_influence(case: Case) -> None:
    """The output depends on every modality, with values that training would reach."""
    segmenter = case.make()
    images = random_images(case.inputs, (64, 64))
    logits = _run(segmenter, images).logits
    for m in case.inputs:
        other = _run(segmenter, images | {m.name: images[m.name].flip(0)}).logits
        _keep(
            float((other - logits).abs().max()) > 1e-4,
            f"other pixels of '{m.name}' leave the logits as they are; use inputs.images of every "
            "modality in 'segment'",
        )


def check_bands(case: Case) -> None:
    """Every band and date has an influence of its own from the first step on."""
    for modalities in in_groups(find_method(case.method).num_modalities[1]):
        images = random_images(modalities, (32, 32), batch=1)
        names, samples = zip(*changed_images(modalities, images), strict=True)
        first, *others = _run(case.start(modalities, 2), stack([images, *samples])).logits
        changes = {name: change(first, x) for name, x in zip(names, others, strict=True)}
        alike = {n for n in names if "↔" in n and not n.startswith(modalities[0].name)}
        lost = too_small(changes) - (alike if case.sees_distances_only else set())
        _keep(
            not lost,
            f"at the start these make no difference: {'; '.join(sorted(lost))}. A band without "
            "influence gets no gradient: give each a weight of its own that is not 0",
        )


def check_neighbours(case: Case) -> None:
    """A sample's result does not depend on the others in its batch."""
    segmenter = case.make()
    images = random_images(case.inputs, (64, 64), batch=3)
    _keep_apart(segmenter, images, case.rounding, "in evaluation mode nothing may be taken over")


def check_lacking_neighbours(case: Case) -> None:
    """A sample that lacks a modality leaves its neighbours as they are."""
    segmenter = case.make()
    if not segmenter.supports_missing:
        raise NotAsked("supports_missing is False")
    images = random_images(case.inputs, (64, 64), batch=1 + len(case.inputs))
    for i, m in enumerate(case.inputs):  # sample 0 has all, sample i + 1 lacks the i-th
        images[m.name][i + 1] = torch.nan
    _keep_apart(
        segmenter,
        images,
        case.rounding,
        "ask inputs.present(name) sample by sample; nothing may be taken over",
    )


def check_missing(case: Case) -> None:
    """A modality that is missing has no influence, or is named in the message."""
    segmenter = case.make()
    if len(case.inputs) == 1:
        raise NotAsked("without its only modality nothing is left")
    images = random_images(case.inputs, (64, 64))
    for m in case.inputs:
        left = {name: x for name, x in images.items() if name != m.name}
        if not segmenter.supports_missing:
            _keep_named(segmenter, left, m.name)
            continue
        absent = _run(segmenter, left).logits
        blank = _run(segmenter, images | {m.name: torch.full_like(images[m.name], torch.nan)})
        valid = {m.name: torch.zeros(2, *images[m.name].shape[-2:], dtype=torch.bool)}
        with torch.no_grad():
            masked = segmenter(images, valid)
        _keep(bool(absent.isfinite().all()), f"without '{m.name}' logits are not finite")
        _keep(
            torch.equal(absent, blank.logits) and torch.equal(absent, masked.logits),
            f"'{m.name}' left out, without data and masked give three results; supports_missing "
            "promises that what is not valid has no influence: weigh with inputs.valid or "
            "inputs.present, or set supports_missing = False",
        )


def check_gaps(case: Case) -> None:
    """Gaps in bands and in modalities give finite output."""
    segmenter = case.make()
    images = random_images(case.inputs, (64, 64))
    for x in images.values():
        x[0, 0, : x.shape[-2] // 2] = torch.nan  # one band, half of the window
        x[1, :, :, : x.shape[-1] // 4] = torch.nan  # all bands, a quarter
    wanted = [images]
    if segmenter.supports_missing:
        wanted.append({name: torch.full_like(x, torch.nan) for name, x in images.items()})
    for given in wanted:
        _keep(
            bool(_run(segmenter, given).logits.isfinite().all()),
            "logits are not finite where pixels have no data; these arrive as 0, so look for "
            "divisions by sums over valid pixels, and for logarithms",
        )


def check_gradients(case: Case) -> None:
    """Every parameter that learns gets a finite gradient, from one sample and from several."""
    for batch in (1, 2):
        segmenter = case.make().train()
        output = segmenter(random_images(case.inputs, (64, 64), batch=batch))
        terms = [output.logits, *output.aux_logits]
        total = torch.stack([x.square().mean() for x in terms]).sum()
        (total + sum(output.losses.values())).backward()
        _keep_gradients(segmenter, f"for a batch of {batch}")


def check_training_with_gaps(case: Case) -> None:
    """A step with gaps and missing modalities trains."""
    segmenter = case.make().train()
    images = random_images(case.inputs, (64, 64))
    for i, x in enumerate(images.values()):
        x[:, :, :5] = torch.nan
        if segmenter.supports_missing and i > 0:
            x[:] = torch.nan  # for the whole batch
    segmenter(images).logits.square().mean().backward()
    # Distributed training waits for the gradient of every parameter that ever has one.
    _keep_gradients(segmenter, "for a batch with gaps, that lacks modalities", but=("aux",))
    _keep(
        all(bool(buffer.isfinite().all()) for buffer in segmenter.buffers()),
        "buffers are not finite after a step with gaps; running statistics must leave out what "
        "has no data",
    )


def check_saved(case: Case) -> None:
    """Saved and loaded, it gives the same."""
    segmenter = case.make()
    info = describe_run(
        segmenter,
        scheme=ClassScheme(tuple("abc"[:CLASSES])),
        statistics=statistics_of(case.inputs),
        crop_size=64,
        overlap=16,
        rules={m.name: {"nodata": 0} for m in case.inputs},
        grid=case.inputs[0].name,
    )
    images = random_images(case.inputs, (50, 38))
    with TemporaryDirectory() as folder:
        save_model(Path(folder) / "run", segmenter.state_dict(), info)
        loaded, found = load_segmenter(Path(folder) / "run")
        found = replace(found, state_sha256=info.state_sha256)  # of the file just written
        _keep(found == info, f"of the run folder comes {found}, and not what went in: {info}")
        _keep(
            loaded.method_name == case.method and not loaded.training,
            "a loaded method has another name, or is in training mode",
        )
        _keep(
            torch.equal(_run(loaded, images).logits, _run(segmenter, images).logits),
            "saved and loaded, it gives another result; what the result depends on has to be a "
            "parameter, a buffer, or follow from the options",
        )


def check_statistics(case: Case) -> None:
    """Means and deviations of the bands are part of what is saved."""
    state = case.make().state_dict()
    for m in case.inputs:
        for key, value in (("mean", 3.0), ("std", 2.0)):
            found = state.get(f"{key}_{m.name}")
            _keep(
                found is not None and found.tolist() == [value] * len(m.bands),
                f"'{key}_{m.name}' is not in the state as it was set; leave the buffers of the "
                "base class and 'set_statistics' as they are",
            )


def check_precision(case: Case) -> None:
    """Mixed precision works."""
    segmenter = case.make().train()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits = segmenter(random_images(case.inputs, (64, 64))).logits
    logits.float().square().mean().backward()
    _keep(bool(logits.isfinite().all()), "logits in bfloat16 are not finite")


def check_backbones(case: Case) -> None:
    """Check that pretrained parts can be found, for a learning rate of their own."""
    segmenter = case.make()
    owned = {id(p) for backbone in segmenter.backbones() for p in backbone.parameters()}
    _keep(
        bool(owned) and owned < {id(p) for p in segmenter.parameters()},
        "no part is a Backbone, or all is; make it by create_backbone, or derive the encoder from "
        "terrafuse.backbones.Backbone, and keep the head outside",
    )


def check_learning(case: Case) -> None:
    """Within 150 steps, one batch is learnt by heart."""
    # Brings Lightning, by way of the room it is in.
    from terrafuse.config import TrainingConfig
    from terrafuse.contract.learning import accuracy, signs_of, train_until, with_all_learning

    modalities = tuple(replace(m, scale=1.0) for m in case.inputs)
    target = (modalities[-1].name, len(modalities[-1].bands) - 1)
    batch = signs_of(modalities, target, torch.Generator().manual_seed(1), batch=4)
    options = with_all_learning(case.method, dict(case.options))
    segmenter = replace(case, options=options).start(modalities, 2)
    config = TrainingConfig(steps=150, lr=1e-3, warmup_steps=10)
    step, scores = train_until(
        segmenter, config, lambda: batch, lambda: accuracy(segmenter, batch), 0.9
    )
    _keep(
        step is not None,
        f"after 150 steps on the same four crops {max(scores):.0%} of their pixels are right, and "
        f"not 90 %, though band {target[1] + 1} of '{target[0]}' shows their classes; look for "
        "what stops its gradient",
    )


def check_exported(case: Case) -> None:
    """A graph of it, for any batch and window, gives the same."""
    segmenter = case.make()
    module = to_program(segmenter).module()
    unit, least = segmenter.size_unit, segmenter.least_units
    images = random_images(case.inputs, (least * unit, (least + 2) * unit), batch=3)
    if segmenter.supports_missing and len(images) > 1:
        images[case.inputs[0].name][-1] = torch.nan
    for x in images.values():
        x[0, :, : x.shape[-2] // 3] = torch.nan
    wanted = _run(segmenter, images).logits
    with torch.no_grad():
        found = module(*images.values())
    _keep(
        torch.allclose(found, wanted, rtol=_CLOSE["rtol"], atol=1e-4),
        f"as a graph it gives another result (by {float((found - wanted).abs().max()):.2g}); what "
        "is done under terrafuse.tracing.is_traced() must come to the same",
    )


#: In the order in which they are run; the first says whether the others can be.
CHECKS = (
    Check("built", "options have defaults, are documented and are checked by name", check_built),
    Check("sizes", "logits have the size of the window, whatever that is", check_sizes),
    Check("scales", "modalities may have pixels of any size", check_scales),
    Check("influence", "the output depends on every modality", check_influence),
    Check("bands", "every band and date has an influence from the first step on", check_bands),
    Check("neighbours", "samples do not depend on their neighbours", check_neighbours),
    Check(
        "lacking neighbours",
        "samples that lack modalities leave their neighbours as they are",
        check_lacking_neighbours,
    ),
    Check("missing", "missing modalities have no influence, or are named", check_missing),
    Check("gaps", "gaps give finite output", check_gaps),
    Check("gradients", "gradients reach every parameter that learns", check_gradients),
    Check("training", "a step with gaps and missing modalities trains", check_training_with_gaps),
    Check("saved", "saved and loaded it is the same", check_saved),
    Check("statistics", "the normalisation is saved with it", check_statistics),
    Check("precision", "mixed precision works", check_precision),
    Check("exported", "as a graph for any batch and window it is the same", check_exported),
    Check("backbones", "its backbones are found", check_backbones),
    Check("learning", "one batch is learnt by heart", check_learning),
)


def _run(segmenter: Segmenter, images: Images) -> SegmenterOutput:
    with torch.no_grad():
        output: SegmenterOutput = segmenter(images)
    return output


def _keep(holds: bool, message: str) -> None:
    if not holds:
        raise ContractError(message)


def _keep_shape(output: SegmenterOutput, shape: tuple[int, ...], where: str) -> None:
    for name, logits in [
        ("logits", output.logits),
        *(("aux_logits", x) for x in output.aux_logits),
    ]:
        _keep(
            tuple(logits.shape) == shape,
            f"{where} {name} are {tuple(logits.shape)}, not {shape}; return (N, K, h, w) of any "
            "stride, and set self.stride to what the size of inputs must be a multiple of",
        )
        _keep(bool(logits.isfinite().all()), f"{where} {name} are not finite")
    kind = output.logits.dtype
    _keep(kind == torch.float32, f"{where} logits are {kind}, and not float32")


def _keep_apart(segmenter: Segmenter, images: Images, rounding: float, how: str) -> None:
    together = _run(segmenter, images).logits
    atol = max(_CLOSE["atol"], rounding * float(together.abs().max()))
    for i in range(len(together)):
        alone = _run(segmenter, {m: x[i : i + 1] for m, x in images.items()}).logits
        _keep(
            torch.allclose(together[i : i + 1], alone, rtol=_CLOSE["rtol"], atol=atol),
            f"sample {i} of {len(together)} gives another result in the batch than alone (by "
            f"{float((together[i] - alone[0]).abs().max()):.2g}); {how} from one sample to another",
        )


def _keep_named(segmenter: Segmenter, left: dict[str, Tensor], absent: str) -> None:
    try:
        segmenter(left)
    except MissingModalityError as error:
        _keep(absent in str(error), f"the message does not name '{absent}': {error}")
        return
    raise ContractError(
        f"without '{absent}' it goes on, though supports_missing is False; leave 'forward' to the "
        "base class, or set supports_missing = True"
    )


def _keep_gradients(segmenter: Segmenter, where: str, but: tuple[str, ...] = ()) -> None:
    for name, parameter in segmenter.named_parameters():
        if any(part in name for part in but):
            continue
        _keep(
            (parameter.grad is not None) == parameter.requires_grad,
            f"{where} '{name}' gets no gradient; use it in 'segment' whatever comes in, or take "
            "it out",
        )
        _keep(
            parameter.grad is None or bool(parameter.grad.isfinite().all()),
            f"{where} the gradient of '{name}' is not finite",
        )


def _place_of(error: Exception) -> str:
    """Locate an exception of a user's code that is not one of ours."""
    if isinstance(error, ModelError):
        return ""
    trace = error.__traceback__
    place = ""
    while trace is not None:
        file = Path(trace.tb_frame.f_code.co_filename)
        if "site-packages" not in file.parts and "terrafuse" not in file.parts:
            place = f"{file}, line {trace.tb_lineno}: "
        trace = trace.tb_next
    return place
