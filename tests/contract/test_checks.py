"""Each check finds the fault it is for, with what to do; a sound method passes all of them."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import Tensor, nn

from terrafuse import api, methods
from terrafuse.backbones import Backbone
from terrafuse.contract import CHECKS, Case, run_check, run_checks
from terrafuse.modalities import Modality
from terrafuse.segmenter import Inputs, Segmenter, SegmenterOutput

CHECK = {check.name: check for check in CHECKS}


class Pixels(Backbone):
    """Looks at every pixel by itself."""

    channels, strides, stride = (8,), (1,), 1

    def __init__(self, in_channels: int) -> None:
        super().__init__()
        self.body = nn.Conv2d(in_channels, 8, 1)

    def forward(self, image: Tensor) -> list[Tensor]:
        return [self.body(image)]

    def layer_groups(self) -> list[list[nn.Parameter]]:
        return [list(self.parameters())]


class Sound(Segmenter):
    """Masked sums of what every modality shows; each fault below changes one thing in it.

    Args:
        hidden: Whether there is a layer between.
    """

    title = "Sound"
    supports_missing = True
    own_scales = False

    def __init__(
        self, modalities: Sequence[Modality], num_classes: int, *, hidden: bool = True
    ) -> None:
        super().__init__(modalities, num_classes)
        self.nets = nn.ModuleDict({m.name: Pixels(len(m.bands)) for m in modalities})
        self.head = nn.Conv2d(8, num_classes, 1)
        self.hidden = hidden
        self.stride = 2

    def features(self, inputs: Inputs) -> Tensor:
        found = [
            net(inputs.images[name])[0] * inputs.valid[name] for name, net in self.nets.items()
        ]
        return torch.stack(found).sum(0).tanh()

    def segment(self, inputs: Inputs) -> SegmenterOutput:
        return SegmenterOutput(self.head(self.features(inputs)))


class NoDefault(Sound):
    """Args:
    width: Of nothing.
    hidden: See above.
    """

    def __init__(self, modalities: Any, num_classes: int, *, width: int, hidden: bool = True):
        super().__init__(modalities, num_classes)


class Undocumented(Sound):
    """Nothing about its option."""

    def __init__(self, modalities: Any, num_classes: int, *, width: int = 1) -> None:
        super().__init__(modalities, num_classes)


class NoTitle(Sound):
    """hidden: an option."""

    title = ""


class OtherSize(Sound):
    """Crops what comes out."""

    def forward(self, *given: Any, **named: Any) -> SegmenterOutput:
        return SegmenterOutput(super().forward(*given, **named).logits[..., 1:])


class SameSizesOnly(Sound):
    """Takes modalities as they come, and hopes that their sizes are alike."""

    own_scales = True

    def features(self, inputs: Inputs) -> Tensor:
        found = [net(inputs.images[name])[0] for name, net in self.nets.items()]
        return torch.stack(found).sum(0)


class OneOnly(Sound):
    """The last modality goes in, and has no influence."""

    def features(self, inputs: Inputs) -> Tensor:
        first, *_ = self.nets
        found = [
            net(inputs.images[n])[0] * inputs.valid[n] * (n == first)
            for n, net in self.nets.items()
        ]
        return torch.stack(found).sum(0)


class AlikeBands(Sound):
    """Sees the mean of the bands."""

    def features(self, inputs: Inputs) -> Tensor:
        found = []
        for name, net in self.nets.items():
            x = inputs.images[name]
            found.append(net(x.mean(1, keepdim=True).expand_as(x))[0] * inputs.valid[name])
        return torch.stack(found).sum(0)


class MixesSamples(Sound):
    """Subtracts the mean of the batch, in evaluation mode too."""

    def features(self, inputs: Inputs) -> Tensor:
        found = super().features(inputs)
        return found - 0.5 * found.mean((0, 2, 3), keepdim=True)


class AsksTheBatch(Sound):
    """Divides by how many modalities the batch has."""

    def features(self, inputs: Inputs) -> Tensor:
        there = sum(inputs.present(name).float().mean() for name in self.nets)
        return super().features(inputs) / there


class Unmasked(Sound):
    """The bias of a modality that is missing goes in."""

    def features(self, inputs: Inputs) -> Tensor:
        found = [net(inputs.images[n])[0] for n, net in self.nets.items()]
        weights = [1 + 0.1 * (n in given) for given in [self.given] for n in self.nets]
        return torch.stack([w * x for w, x in zip(weights, found, strict=True)]).sum(0)

    def forward(self, images: Any, valid: Any = None) -> SegmenterOutput:
        self.given = set(images)
        return super().forward(images, valid)


class GoesOn(Sound):
    """Says that it needs every modality, and does not ask."""

    supports_missing = False

    def _check_present(self, *_: Any) -> None: ...

    def forward(self, images: Any, valid: Any = None) -> SegmenterOutput:
        like = next(iter(images.values()))
        full = {m.name: images.get(m.name, _zeros(m, like, self.modalities, images)) for m in
                self.modalities}  # fmt: skip
        return super().forward(full, valid)


def _zeros(m: Modality, like: Tensor, modalities: Any, images: Any) -> Tensor:
    first = next(x for x in modalities if x.name in images)
    height, width = (round(n * float(first.scale_ratio)) for n in like.shape[-2:])
    return torch.zeros(len(like), len(m.bands), m.size_at(height), m.size_at(width))


class DividesByValid(Sound):
    """A mean over the pixels with data, of which there may be none."""

    def features(self, inputs: Inputs) -> Tensor:
        found = super().features(inputs)
        valid = torch.stack(list(inputs.valid.values())).any(0)
        return found / valid.float().mean((1, 2, 3), keepdim=True)


class Idle(Sound):
    """Has a layer that it does not use."""

    def __init__(self, modalities: Any, num_classes: int, *, hidden: bool = True) -> None:
        super().__init__(modalities, num_classes)
        self.idle = nn.Linear(3, 3)


class SkipsMissing(Sound):
    """Leaves out the nets of modalities that the batch lacks."""

    def features(self, inputs: Inputs) -> Tensor:
        found = [
            net(inputs.images[n])[0] * inputs.valid[n]
            for n, net in self.nets.items()
            if inputs.present(n).any()
        ]
        return torch.stack(found or [0 * net(inputs.images[n])[0] for n, net in self.nets.items()]
                           ).sum(0)  # fmt: skip


class Unsaved(Sound):
    """A factor that is drawn, and neither parameter nor buffer."""

    def __init__(self, modalities: Any, num_classes: int, *, hidden: bool = True) -> None:
        super().__init__(modalities, num_classes)
        Unsaved.count += 1
        self.factor = Unsaved.count

    count = 0

    def features(self, inputs: Inputs) -> Tensor:
        return super().features(inputs) * self.factor


class OwnStatistics(Sound):
    """Forgets the normalisation."""

    def set_statistics(self, statistics: Any) -> None: ...


class Float32Only(Sound):
    """Meets values of two precisions."""

    def segment(self, inputs: Inputs) -> SegmenterOutput:
        features = self.features(inputs)
        return SegmenterOutput(torch.einsum("kc,nchw->nkhw", self.head.weight[:, :, 0, 0].double(),
                                            features))  # fmt: skip


class NoBackbone(Sound):
    """Its nets are plain."""

    def __init__(self, modalities: Any, num_classes: int, *, hidden: bool = True) -> None:
        super().__init__(modalities, num_classes)
        self.nets = nn.ModuleDict({m.name: Plain(len(m.bands)) for m in modalities})


class Plain(nn.Module):
    def __init__(self, bands: int) -> None:
        super().__init__()
        self.body = nn.Conv2d(bands, 8, 1)

    def forward(self, image: Tensor) -> list[Tensor]:
        return [self.body(image)]


class Stuck(Sound):
    """Sees every window as one pixel."""

    def features(self, inputs: Inputs) -> Tensor:
        found = super().features(inputs)
        return found.mean((2, 3), keepdim=True) + 0 * found


class Peeks(Sound):
    """Asks for pixel values."""

    def features(self, inputs: Inputs) -> Tensor:
        found = super().features(inputs)
        return found + 1 if bool((found > 0).any()) else found


class OtherAsGraph(Sound):
    """Does something else while it is recorded."""

    def features(self, inputs: Inputs) -> Tensor:
        found = super().features(inputs)
        return 2 * found if torch.compiler.is_exporting() else found


#: A fault, the check that is for it, and what the message tells to do.
FAULTS = [
    (NoDefault, "built", "option 'width' has no default; options are keyword-only"),
    (Undocumented, "built", "option 'width' is not documented; write 'width: …' under 'Args:'"),
    (NoTitle, "built", "the class has no 'title': set it to a line"),
    (OtherSize, "sizes", "are (2, 3, 32, 31), not (2, 3, 32, 32); return (N, K, h, w)"),
    (SameSizesOnly, "scales", "RuntimeError"),
    (OneOnly, "influence", "other pixels of 'sar' leave the logits as they are; use"),
    (AlikeBands, "bands", "rgb blue_1 ↔ red_2"),
    (MixesSamples, "neighbours", "gives another result in the batch than alone"),
    (AsksTheBatch, "lacking neighbours", "ask inputs.present(name) sample by sample"),
    (Unmasked, "missing", "set supports_missing = False"),
    (GoesOn, "missing", "without 'rgb' it goes on, though supports_missing is False; leave"),
    (DividesByValid, "gaps", "look for divisions by sums over valid pixels"),
    (Idle, "gradients", "for a batch of 1 'idle.weight' gets no gradient; use it in 'segment'"),
    (SkipsMissing, "training", "'nets.sar.body.weight' gets no gradient; use it"),
    (Unsaved, "saved", "has to be a parameter, a buffer, or follow from the options"),
    (OwnStatistics, "statistics", "'mean_rgb' is not in the state as it was set; leave"),
    (Float32Only, "precision", "test_checks.py, line"),
    (Peeks, "exported", "cannot be recorded as a graph: "),
    (OtherAsGraph, "exported", "terrafuse.tracing.is_traced() must come to the same"),
    (NoBackbone, "backbones", "make it by create_backbone, or derive the encoder from"),
    (Stuck, "learning", "look for what stops its gradient"),
]


@pytest.fixture
def named(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Case]:
    def name(method: type[Segmenter], **options: Any) -> Case:
        monkeypatch.setitem(methods.METHODS, method.__name__, method)  # type: ignore[arg-type]
        return Case(method.__name__, **options)

    return name


def test_a_sound_method_passes_every_check(named: Callable[..., Case]) -> None:
    results = list(run_checks(named(Sound)))
    assert {r.name: (r.state, r.message) for r in results if r.state != "ok"} == {}
    assert [r.name for r in results] == [check.name for check in CHECKS]


@pytest.mark.parametrize(
    ("fault", "check", "told"), FAULTS, ids=lambda x: getattr(x, "__name__", x)
)
def test_a_fault_is_found_by_its_check(
    named: Callable[..., Case], fault: type[Segmenter], check: str, told: str
) -> None:
    result = run_check(CHECK[check], named(fault))
    assert result.state == "failed"
    assert told in result.message


def test_every_check_has_a_fault() -> None:
    assert {check for _, check, _ in FAULTS} == set(CHECK)


def test_what_a_method_does_not_promise_is_not_asked_of_it(named: Callable[..., Case]) -> None:
    class Strict(Sound):
        """hidden: nothing."""

        supports_missing = False

    result = run_check(CHECK["lacking neighbours"], named(Strict))
    assert (result.state, result.message) == ("skipped", "supports_missing is False")
    one = (Modality("only", ("a", "b")),)
    result = run_check(CHECK["missing"], named(Strict, modalities=one))
    assert result.state == "skipped"


def test_what_cannot_be_built_is_asked_no_more(named: Callable[..., Case]) -> None:
    class Raises(Sound):
        """hidden: nothing."""

        def __init__(self, modalities: Any, num_classes: int, *, hidden: bool = True) -> None:
            raise RuntimeError("no such file")

    (result,) = run_checks(named(Raises))
    assert result.state == "failed"
    assert "test_checks.py, line" in result.message
    assert result.message.endswith("RuntimeError: no such file")


MODULE = '''
"""A method of a user."""
import torch
from torch import nn
from terrafuse.backbones import create_backbone
from terrafuse.decoders import create_decoder
from terrafuse.segmenter import Segmenter, SegmenterOutput

class Mine(Segmenter):
    """Sum of levels.

    Args:
        backbone: timm name.
        options: Of the backbone.
    """
    title = "Sum of levels"

    def __init__(
        self, modalities, num_classes, *, backbone="resnet18", options: dict | None = None
    ):
        super().__init__(modalities, num_classes)
        made = [create_backbone(backbone, len(m.bands), **(options or {})) for m in modalities]
        self.nets = nn.ModuleList(made)
        self.decoder = create_decoder("segformer", made[0].channels, made[0].strides, num_classes,
                                      channels=8)
        self.stride = made[0].stride

    def segment(self, inputs):
        levels = [net(inputs.images[m.name]) for net, m in zip(self.nets, self.modalities)]
        return SegmenterOutput(self.decoder([SUM for same in zip(*levels)]))
'''
SMALL = "options={channels: [4, 6, 8, 10], layers: [1, 1, 1, 1]}"


@pytest.mark.parametrize(
    ("total", "code", "last"),
    [
        ("torch.stack(same).sum(0)", 0, "keeps the contract of all methods (1 not asked of it)"),
        ("same[0] + 0 * same[1]", 1, "does not keep: influence, bands"),
    ],
    ids=["sound", "one modality lost"],
)
def test_check_method_on_the_command_line(
    total: str, code: int, last: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    command_line: Any,
) -> None:  # fmt: skip
    name = f"checked_{code}"
    (tmp_path / f"{name}.py").write_text(MODULE.replace("SUM", total))
    monkeypatch.chdir(tmp_path)
    found, out, err = command_line("check-method", f"{name}:Mine", "-s", SMALL)
    lines = out.splitlines()
    assert (found, err) == (code, "")
    assert last in lines[-1]
    checks = [line for line in lines if line.startswith(("ok ", "FAILED", "skipped"))]
    assert [line[9:].partition(":")[0] for line in checks] == [check.name for check in CHECKS]
    if code:
        place = next(i for i, x in enumerate(lines) if x.startswith("FAILED   influence"))
        told = lines[place + 1]
        assert "other pixels of 'sar' leave the logits as they are" in told


def test_check_method_takes_a_manifests_modalities(
    tmp_path: Path, named: Callable[..., Case]
) -> None:
    named(Sound)
    values = {
        "classes": [{"name": "a", "code": 0}, {"name": "b", "code": 1}],
        "modalities": {
            "s2": {"kind": "optical", "bands": ["B4", "B8"]},
            "heights": {"kind": "elevation", "bands": ["z"]},
            "s1": {"kind": "sar", "bands": ["VV"], "unit": "db"},
        },
        "scenes": [{"id": "1", "split": "train", "s2": "a.tif", "heights": "b.tif", "s1": "c.tif"}],
    }
    (tmp_path / "dataset.yaml").write_text(yaml.safe_dump(values))
    results = api.check_method("Sound", manifest=tmp_path / "dataset.yaml")
    assert next(iter(results)).state == "ok"


def test_check_method_says_what_is_no_method(tmp_path: Path, command_line: Any) -> None:
    code, out, err = command_line("check-method", "late_fuson")
    assert (code, out) == (2, "")
    assert "unknown method 'late_fuson'. Did you mean 'late_fusion'?" in err
    code, _, err = command_line("check-method", "json:loads")
    assert code == 2
    assert "has to be a class derived from terrafuse.Segmenter" in err


def test_check_method_prints_json(
    named: Callable[..., Case], command_line: Any, tmp_path: Path
) -> None:
    named(NoTitle)
    code, out, _ = command_line("check-method", "NoTitle", "--json")
    (row,) = json.loads(out)
    assert code == 1
    assert (row["name"], row["state"]) == ("built", "failed")
