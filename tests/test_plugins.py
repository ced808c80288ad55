"""Code from outside the package: where it is found, what goes wrong, and what is never imported."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from remedies import refused
from small_methods import RESNET
from terrafuse import layouts, plugins
from terrafuse.backbones import create_backbone, list_backbones
from terrafuse.classes import ClassScheme
from terrafuse.config import LossConfig, load_run_config
from terrafuse.contract import random_images, statistics_of
from terrafuse.decoders import create_decoder
from terrafuse.errors import DataError, ModelError, PluginError, UnknownNameError
from terrafuse.layouts import describe
from terrafuse.methods import create_segmenter, describe_run, load_segmenter
from terrafuse.modalities import Modality
from terrafuse.training import create_loss
from terrafuse.weights import save_model

MODALITIES = (Modality("a", ("x", "y")), Modality("b", ("z",)))
#: A method, a backbone, a decoder, a loss and a layout; their helper is imported from beside them.
CODE = '''
"""What a user wrote."""
from torch import nn
from terrafuse.backbones import Backbone, create_backbone
from terrafuse.decoders import create_decoder
from terrafuse.segmenter import Segmenter, SegmenterOutput
from NAME_helper import CHANNELS

VERSION = 1

class Mine(Segmenter):
    title = "Sum of two"
    def __init__(self, modalities, num_classes, *, backbone: str = "NAME:Thin", factor: int = 2):
        super().__init__(modalities, num_classes)
        self.nets = nn.ModuleList(create_backbone(backbone, len(m.bands)) for m in modalities)
        self.head = create_decoder(
            "NAME:Head", self.nets[0].channels, self.nets[0].strides, num_classes
        )
        self.stride, self.factor = self.nets[0].stride, factor
    def segment(self, inputs):
        levels = [net(inputs.images[m.name]) for net, m in zip(self.nets, self.modalities)]
        return SegmenterOutput(self.head([sum(same) * self.factor for same in zip(*levels)]))

class Thin(Backbone):
    channels, strides, stride = (CHANNELS,), (2,), 2
    def __init__(self, in_channels: int, *, bias: bool = True):
        super().__init__()
        self.body = nn.Conv2d(in_channels, CHANNELS, 2, stride=2, bias=bias)
    def forward(self, image):
        return [self.body(image)]
    def layer_groups(self):
        return [list(self.parameters())]

class Head(nn.Module):
    def __init__(self, channels, num_classes):
        super().__init__()
        self.body = nn.Conv2d(channels[0], num_classes, 1)
    def forward(self, levels):
        return self.body(levels[0])

class Squares(nn.Module):
    def __init__(self, counts, *, power: float = 2.0):
        super().__init__()
        self.power = power
    def forward(self, logits, labels):
        return logits.abs().pow(self.power).mean()

def two_files(root, options):
    """Two files beside each other."""
    names = sorted(path.name for path in root.iterdir())
    return {"classes": [{"name": "all", "code": 0}], "scenes": names}

def nothing(root, options):
    return None

number = 7
'''


@pytest.fixture(autouse=True)
def nothing_remembered(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Each test is a process of its own, as far as modules and places go."""
    monkeypatch.setattr(plugins, "_beside", {})
    monkeypatch.setattr(plugins, "_origins", {})
    before = set(sys.modules)
    yield
    forget(before)


def forget(before: set[str]) -> None:
    for name in set(sys.modules) - before:
        if name.startswith(("mine_", "evil_")):
            del sys.modules[name]


def write_code(folder: Path, name: str, text: str = CODE) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}_helper.py").write_text("CHANNELS = 5\n")
    path = folder / f"{name}.py"
    path.write_text(text.replace("NAME", name))
    return path


def write_run(folder: Path, name: str = "run.yaml", **values: Any) -> Path:
    values = {"data": {"manifest": "dataset.yaml"}, "method": {"name": "single"}} | values
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump(values))
    return path


def install(folder: Path, distribution: str, points: dict[str, dict[str, str]]) -> None:
    """A distribution as an installer leaves it: metadata only."""
    info = folder / f"{distribution.replace('-', '_')}-1.2.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 1.2\n")
    lines = []
    for kind, entries in points.items():
        lines += [f"[{plugins.GROUPS[kind]}]", *(f"{k} = {v}" for k, v in entries.items())]
    (info / "entry_points.txt").write_text("\n".join(lines) + "\n")


def build(config: Any) -> Any:
    made = create_segmenter(config.method.name, MODALITIES, 3, config.method.options)
    made.set_statistics(statistics_of(MODALITIES))
    return made.eval()


def test_a_method_beside_its_run_file_works_with_backbone_decoder_and_helper(
    tmp_path: Path,
) -> None:
    write_code(tmp_path, "mine_a")
    config = load_run_config(write_run(tmp_path, method={"name": "mine_a:Mine", "factor": 3}))
    assert "mine_a" not in sys.modules  # reading settings imports nothing
    made = build(config)
    assert made.factor == 3
    assert made(random_images(MODALITIES, (30, 20))).logits.shape == (2, 3, 30, 20)
    assert made.nets[0].channels == (5,)
    with pytest.raises(UnknownNameError, match=r"option of method 'mine_a:Mine' 'faktor'. Did you"):
        create_segmenter("mine_a:Mine", MODALITIES, 3, {"faktor": 1})
    with pytest.raises(ModelError, match=r"option 'factor' of method 'mine_a:Mine' is 'much'"):
        create_segmenter("mine_a:Mine", MODALITIES, 3, {"factor": "much"})


def test_a_backbone_of_ones_own_stands_under_our_methods(tmp_path: Path) -> None:
    write_code(tmp_path, "mine_b")
    method = {"name": "late_fusion", "backbone": "mine_b:Thin", "decoder": "mine_b:Head"}
    config = load_run_config(write_run(tmp_path, method=method))
    assert build(config)(random_images(MODALITIES, (8, 8))).logits.shape == (2, 3, 8, 8)
    options = {"bias": False}
    assert create_backbone("mine_b:Thin", 4, **options).body.bias is None
    with pytest.raises(UnknownNameError, match=r"option of backbone 'mine_b:Thin' 'bios'"):
        create_backbone("mine_b:Thin", 4, bios=False)
    with pytest.raises(ModelError, match=r"takes no weights .'file.pth'.*no keyword-only argument"):
        create_backbone("mine_b:Thin", 4, weights="file.pth")


def test_a_loss_of_ones_own_is_reported_by_its_own_name(tmp_path: Path) -> None:
    write_code(tmp_path, "mine_c")
    losses = [{"name": "cross_entropy"}, {"name": "mine_c:Squares", "power": 1.0, "weight": 0.5}]
    config = load_run_config(write_run(tmp_path, training={"losses": losses}))
    counts = torch.tensor([3, 4])
    loss = create_loss(config.training.losses, ClassScheme(("a", "b")), counts)
    from terrafuse.segmenter import SegmenterOutput

    logits = torch.tensor([-1.0, 3.0]).view(1, 2, 1, 1)
    terms = loss(SegmenterOutput(logits), torch.tensor([[[1]]]))
    assert list(terms) == ["total", "cross_entropy", "Squares"]
    assert terms["Squares"].item() == 2.0  # mean of 1 and 3
    assert terms["total"].item() == pytest.approx(terms["cross_entropy"].item() + 1.0)
    with pytest.raises(PluginError, match=r"'mine_c:Mines' is not there.*Did you mean 'Mine'"):
        create_loss([LossConfig(name="mine_c:Mines")], ClassScheme(("a", "b")), counts)


def test_a_layout_of_ones_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make_raster: Callable[..., Path]
) -> None:
    write_code(tmp_path / "code", "mine_d")
    monkeypatch.syspath_prepend(tmp_path / "code")
    make_raster(tmp_path / "place" / "one.tif", np.ones((1, 4, 4), np.uint8))
    values = describe(tmp_path / "place", "mine_d:two_files")
    assert values["scenes"] == ["one.tif"]
    with pytest.raises(DataError, match=r"layout 'mine_d:nothing' returned NoneType"):
        describe(tmp_path / "place", "mine_d:nothing")


@pytest.mark.parametrize(
    ("kind", "call", "should"),
    [
        ("method", lambda n: create_segmenter(n, MODALITIES, 2), "from terrafuse.Segmenter"),
        ("backbone", lambda n: create_backbone(n, 3), "terrafuse.backbones.Backbone"),
        ("decoder", lambda n: create_decoder(n, [4], [4], 2), "channels, num_classes"),
        ("loss", lambda n: create_loss(
            [LossConfig(name=n)], ClassScheme(("a", "b")), torch.ones(2)), "counts"),
        ("layout", lambda n: describe(Path(), n), "values of a manifest"),
    ],
)  # fmt: skip
def test_what_is_something_else_is_refused(
    kind: str, call: Any, should: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_code(tmp_path, "mine_e")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(
        PluginError, match=rf"{kind} 'mine_e:number' is an object of type int in '.*mine_e.py'; .*"
    ):
        call("mine_e:number")
    with pytest.raises(PluginError, match=should):
        call("mine_e:number")


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("import no_such_package_at_all\n", "ModuleNotFoundError in .*mine_f.py, line 1: No mod"),
        ("x = 1\ny = x / 0\n", "ZeroDivisionError in .*mine_f.py, line 2: division"),
        ("def broken(:\n", "SyntaxError in .*mine_f.py, line 1"),
        ("import sys\nsys.exit('no')\n", "SystemExit in .*mine_f.py, line 2: no"),
    ],
)
def test_a_module_that_does_not_run_says_where(tmp_path: Path, text: str, told: str) -> None:
    write_code(tmp_path, "mine_f", text)
    config = load_run_config(write_run(tmp_path, method={"name": "mine_f:Mine"}))
    with pytest.raises(PluginError, match=f"method 'mine_f:Mine' cannot be imported: {told}"):
        build(config)


def test_a_module_that_is_missing_says_where_it_was_looked_for(tmp_path: Path) -> None:
    config = load_run_config(write_run(tmp_path, method={"name": "mine_g.deep:Mine"}))
    with pytest.raises(PluginError) as told:
        build(config)
    assert f"where Python looks or in '{tmp_path}'. Write 'mine_g.py' beside" in str(told.value)
    write_code(tmp_path, "mine_g")  # the remedy
    with pytest.raises(PluginError, match=r"is one module, not a folder .* write 'mine_g:…'"):
        build(config)
    again = load_run_config(write_run(tmp_path, method={"name": "mine_g:Mine"}))
    assert build(again).num_classes == 3


def test_two_modules_of_one_name_are_not_guessed_between(tmp_path: Path) -> None:
    first, second = write_code(tmp_path / "one", "mine_h"), write_code(tmp_path / "two", "mine_h")
    method = {"name": "mine_h:Mine"}
    build(load_run_config(write_run(tmp_path / "one", method=method)))
    again = load_run_config(write_run(tmp_path / "one", "again.yaml", method=method))
    assert build(again).num_classes == 3
    other = load_run_config(write_run(tmp_path / "two", method=method))
    with pytest.raises(PluginError, match=f"2 modules 'mine_h': {first} and {second}. Rename"):
        build(other)
    second.unlink()  # renamed
    write_code(tmp_path / "two", "mine_hh")
    renamed = write_run(tmp_path / "two", method={"name": "mine_hh:Mine"})
    assert build(load_run_config(renamed)).num_classes == 3


@pytest.mark.parametrize("name", ["mine_x:", "a:b:c", ":Mine", "mine x:Mine", "C:/here:Mine"])
def test_what_is_not_of_the_form_is_said(name: str) -> None:
    with pytest.raises(PluginError, match=r"is not of the form module:Name"):
        create_segmenter(name, MODALITIES, 2)


def test_what_is_not_named_is_not_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither a module beside the run file nor a plug-in that nobody asks for."""
    write_code(tmp_path, "mine_i")
    write_code(tmp_path, "evil_i", "raise SystemExit('ran')\n")
    install(tmp_path / "site", "broken-plugin", {"method": {"broken": "evil_i:Mine"}})
    monkeypatch.syspath_prepend(tmp_path / "site")
    build(load_run_config(write_run(tmp_path, method={"name": "mine_i:Mine"})))
    create_segmenter("single", MODALITIES[:1], 2, RESNET)
    assert "evil_i" not in sys.modules
    # After the import, nothing else is found in the folder.
    assert str(tmp_path) not in sys.path
    with pytest.raises(ModuleNotFoundError):
        __import__("evil_i")


def save(tmp_path: Path, made: Any) -> Path:
    info = describe_run(
        made,
        scheme=ClassScheme(("a", "b", "c")),
        statistics=statistics_of(MODALITIES),
        crop_size=32,
        overlap=8,
    )
    save_model(tmp_path / "run", made.state_dict(), info)
    return tmp_path / "run"


def test_a_run_folder_whose_code_is_elsewhere_says_what_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = set(sys.modules)
    path = write_code(tmp_path / "proj", "mine_j")
    made = build(load_run_config(write_run(tmp_path / "proj", method={"name": "mine_j:Mine"})))
    run = save(tmp_path, made)
    stored = json.loads((run / "model.json").read_text())["code"]
    assert stored["mine_j:Mine"]["file"] == str(path)
    assert len(stored["mine_j:Mine"]["sha256"]) == 64
    forget(before)
    monkeypatch.setattr(plugins, "_beside", {})
    monkeypatch.chdir(tmp_path / "proj")  # being there is not enough: pytest's path lacks it
    with pytest.raises(PluginError) as told:
        load_segmenter(run)
    assert f"'{run}' needs code from outside terrafuse" in str(told.value)
    assert f"was in '{path}'. If that is code you trust, set PYTHONPATH={path.parent}" in str(
        told.value
    )
    monkeypatch.syspath_prepend(path.parent)  # the remedy
    loaded, _ = load_segmenter(run)
    images = random_images(MODALITIES, (16, 16))
    assert torch.equal(loaded(images).logits, made(images).logits)


def test_code_that_changed_since_training_is_said(tmp_path: Path) -> None:
    before = set(sys.modules)
    path = write_code(tmp_path, "mine_k")
    run = save(
        tmp_path, build(load_run_config(write_run(tmp_path, method={"name": "mine_k:Mine"})))
    )
    load_segmenter(run)  # as it was: no warning
    forget(before)
    path.write_text(path.read_text().replace("VERSION = 1", "VERSION = 22"))
    with pytest.warns(
        UserWarning, match=f"'mine_k:Mine' is in '{path}' now, whose code is another"
    ):
        load_segmenter(run)


def test_a_run_folder_brings_no_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its own settings name a module, which lies in it: that is not run."""
    write_code(tmp_path / "run", "evil_l", "raise SystemExit('ran')\n")
    stored = write_run(tmp_path / "run", "config.yaml", method={"name": "evil_l:Mine"})
    monkeypatch.chdir(tmp_path / "run")
    with pytest.raises(PluginError, match=r"no module 'evil_l' where Python looks. Write"):
        build(load_run_config(stored))


def test_plugins_are_found_by_name_and_never_replace_ours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_code(tmp_path, "mine_m")
    install(
        tmp_path, "my-plugin",
        {"method": {"sum_of_two": "mine_m:Mine", "single": "evil_m:Mine"},
         "backbone": {"thin": "mine_m:Thin", "resnet18": "evil_m:Thin"},
         "decoder": {"one_layer": "mine_m:Head"}, "loss": {"squa.res": "mine_m:Squares"},
         "layout": {"two-files": "mine_m:two_files"}},
    )  # fmt: skip
    monkeypatch.syspath_prepend(tmp_path)
    made = create_segmenter("sum_of_two", MODALITIES, 3, {"backbone": "thin"})
    assert made.method_name == "sum_of_two"
    assert create_backbone("thin", 2).channels == (5,)
    assert create_decoder("one_layer", [4], [4], 2) is not None
    counts = torch.ones(2)
    terms = create_loss([LossConfig(name="squa.res")], ClassScheme(("a", "b")), counts)
    assert list(terms.losses) == ["squa_res"]
    assert describe(tmp_path, "two-files")["scenes"]
    assert type(create_segmenter("single", MODALITIES[:1], 2, RESNET)).__name__ == "Single"
    create_backbone("resnet18", 3, channels=[4, 6, 8, 10], layers=[1, 1, 1, 1])
    assert "evil_m" not in sys.modules
    with pytest.raises(
        UnknownNameError, match=r"unknown method 'sum_of_tow'. Did you mean 'sum_of"
    ):
        create_segmenter("sum_of_tow", MODALITIES, 3)
    monkeypatch.setattr(plugins, "_beside", {})
    info = describe_run(
        made, scheme=ClassScheme(("a", "b", "c")), statistics=statistics_of(MODALITIES),
        crop_size=32, overlap=8,
    )  # fmt: skip
    assert info.code["sum_of_two"]["distribution"] == "my-plugin 1.2"


def test_a_broken_plugin_names_its_distribution(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(tmp_path, "gone-plugin", {"method": {"gone": "evil_n:Mine"}})
    install(tmp_path, "other-plugin", {"method": {"twice": "evil_n:A"}})
    install(tmp_path, "third-plugin", {"method": {"twice": "evil_n:B"}})
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(
        PluginError, match=r"method 'gone' of the distribution gone-plugin 1.2: there"
    ):
        create_segmenter("gone", MODALITIES, 2)
    with pytest.raises(
        PluginError, match=r"'twice' is provided by other-plugin 1.2 .* and third-p"
    ):
        create_segmenter("twice", MODALITIES, 2)


def test_of_two_plugins_of_one_name_the_module_can_be_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_code(tmp_path, "mine_t")
    for name in ("first-plugin", "second-plugin"):
        install(tmp_path, name, {"method": {"both": "mine_t:Mine"}})
    monkeypatch.syspath_prepend(tmp_path)
    with refused("plugins:_installed | Uninstall one of them, or write which is meant:") as error:
        create_segmenter("both", MODALITIES, 3)
    assert create_segmenter(error.find("is meant: (.*)$"), MODALITIES, 3).num_classes == 3
    shutil.rmtree(tmp_path / "second_plugin-1.2.dist-info")
    assert create_segmenter("both", MODALITIES, 3).num_classes == 3


def test_parts_of_packages_are_where_they_are_told_to_be(tmp_path: Path) -> None:
    config = load_run_config(write_run(tmp_path, method={"name": "mine_u.deep:Mine"}))
    (tmp_path / "mine_u").mkdir()
    (tmp_path / "mine_u" / "__init__.py").write_text("")
    with refused("plugins:_import | beside the file that names it, install it, or put") as error:
        build(config)
    assert error.find("Write '(.*?)' beside") == "mine_u/deep.py"
    text = CODE.replace("from NAME_helper import CHANNELS", "CHANNELS = 5")
    (tmp_path / "mine_u" / "deep.py").write_text(text.replace("NAME", "mine_u.deep"))
    assert build(config).num_classes == 3


def test_metadata_that_cannot_be_read_concern_their_distribution(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_code(tmp_path, "mine_r")
    install(tmp_path, "my-plugin", {"method": {"sum_of_two": "mine_r:Mine"}})
    install(tmp_path, "torn-plugin", {})
    torn = tmp_path / "torn_plugin-1.2.dist-info" / "entry_points.txt"
    torn.write_text("[terrafuse.methods]\nno value here\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.warns(UserWarning, match=r"torn_plugin-1\.2\.dist-info' has no readable entry"):
        assert create_segmenter("sum_of_two", MODALITIES, 3).num_classes == 3


def test_a_run_whose_plugin_is_not_installed_names_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_code(tmp_path / "site", "mine_o")
    install(tmp_path / "site", "my-plugin", {"method": {"sum_of_two": "mine_o:Mine"}})
    with monkeypatch.context() as installed:
        installed.syspath_prepend(tmp_path / "site")
        made = create_segmenter("sum_of_two", MODALITIES, 3)
        made.set_statistics(statistics_of(MODALITIES))
        run = save(tmp_path, made)
    with pytest.raises(PluginError, match=r"'sum_of_two' was of my-plugin 1.2; install that"):
        load_segmenter(run)


def test_plugins_are_listed_without_being_imported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command_line: Any
) -> None:
    install(
        tmp_path, "my-plugin",
        {"method": {"gone": "evil_p:Mine"}, "backbone": {"thin": "evil_p:Thin"},
         "layout": {"two-files": "evil_p:two_files"}},
    )  # fmt: skip
    monkeypatch.syspath_prepend(tmp_path)
    for verb, key, name in (
        ("methods", "name", "gone"),
        ("backbones", "family", "thin"),
        ("layouts", "name", "two-files"),
    ):
        code, out, _ = command_line(verb, "--json")
        rows = json.loads(out)
        assert code == 0
        assert rows[0]["source"] == "terrafuse"
        assert rows[-1][key] == name
        assert rows[-1]["source"].startswith("my-plugin 1.2 (evil_p:")
        assert list(rows[-1]) == list(rows[0])
        code, out, _ = command_line(verb)
        assert code == 0
        assert name in out
    assert "evil_p" not in sys.modules
    assert [s.name for s in layouts.list_layouts()][-1] == "two-files"
    assert list_backbones()  # the code's own list is that of the package


def test_names_on_the_command_line_are_looked_for_where_one_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_code(tmp_path / "here", "mine_q")
    run = write_run(tmp_path / "there")
    monkeypatch.chdir(tmp_path / "here")
    config = load_run_config(run, {"method.name": "mine_q:Mine"})
    assert build(config).factor == 2
