from pathlib import Path

import pytest

from terrafuse.config import RunConfig, load_run_config
from terrafuse.config.options import check_options, option_names
from terrafuse.errors import ConfigError, UnknownNameError, unknown_name

MINIMAL = "data: {manifest: d/dataset.yaml}\nmethod: {name: single, backbone: resnet18}\n"


@pytest.fixture
def write(tmp_path):
    def write_run(text: str):
        path = tmp_path / "run.yaml"
        path.write_text(text, encoding="utf-8")
        return path

    return write_run


def test_minimal_run_has_defaults_and_finds_its_manifest(write, tmp_path):
    config = load_run_config(write(MINIMAL))
    assert config.data.manifest == tmp_path / "d" / "dataset.yaml"
    assert config.method.options == {"backbone": "resnet18"}
    assert config.predict_crop_size == config.data.crop_size
    assert config.predict_overlap == config.data.crop_size // 4


def test_a_manifest_typed_on_the_command_line_counts_from_the_working_directory(
    write, tmp_path, monkeypatch
):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    config = load_run_config(write(MINIMAL), {"data.manifest": "e/dataset.yaml"})
    assert config.data.manifest == tmp_path / "here" / "e" / "dataset.yaml"
    config = load_run_config(write(MINIMAL), {"data.manifest": "/f/dataset.yaml"})
    assert str(config.data.manifest) == "/f/dataset.yaml"
    # Any other override leaves the manifest of the file where it is.
    config = load_run_config(write(MINIMAL), {"data.crop_size": "64"})
    assert config.data.manifest == tmp_path / "d" / "dataset.yaml"


def test_overrides_replace_and_add(write):
    config = load_run_config(
        write(MINIMAL),
        {
            "training.lr": "1e-3",
            "training.seed": "4",
            "method.decoder": "upernet",
            "data.augment.flip": "false",
        },
    )
    assert config.training.lr == 1e-3
    assert config.training.seed == 4
    assert config.method.options["decoder"] == "upernet"
    assert config.data.augment.flip is False


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (MINIMAL + "trainning: {steps: 3}\n", "unknown key 'trainning'. Did you mean 'training'"),
        (MINIMAL + "training: {step: 3}\n", "key in 'training' 'step'. Did you mean 'steps'"),
        (MINIMAL + "training: {steps: few}\n", "'training.steps' is 'few'"),
        (MINIMAL + "training: {steps: 5, warmup_steps: 5}\n", "must be fewer than steps"),
        (MINIMAL + "training: {optimizer: lion}\n", "'adamw', 'adam' or 'sgd'"),
        (MINIMAL + "training: {losses: []}\n", "at least 1"),
        ("data: {manifest: a, modality_dropout: 1.5}\nmethod: {name: x}\n", "between 0 and 1"),
        (
            "data: {manifest: a, augment: {flip: left}}\nmethod: {name: x}\n",
            "'data.augment.flip' is 'left': Input should be True, False, 'horizontal' or 'vert",
        ),
        ("data: {manifest: a, augment: {flips: yes}}\nmethod: {name: x}\n", "Did you mean 'flip'"),
        ("method: {name: x}\n", "'data' is missing"),
        ("- a\n", "must hold keys and values"),
        ("data: [\n", "not valid YAML"),
    ],
)
def test_faults_are_named(write, text, message):
    with pytest.raises(ConfigError) as caught:
        load_run_config(write(text))
    assert message in str(caught.value)


def test_missing_file_and_bad_override(write, tmp_path):
    with pytest.raises(ConfigError, match="there is no file"):
        load_run_config(tmp_path / "none.yaml")
    with pytest.raises(ConfigError, match="holds a value, not keys"):
        load_run_config(write(MINIMAL), {"method.name.x": "1"})


def test_yaml_cannot_run_code(write):
    with pytest.raises(ConfigError, match="not valid YAML"):
        load_run_config(write("data: !!python/object/apply:os.getcwd []\n"))


def test_every_setting_is_described_in_the_schema():
    schema = RunConfig.model_json_schema()
    assert schema["additionalProperties"] is False
    assert "crop_size" in schema["$defs"]["DataConfig"]["properties"]


def test_unknown_name_gives_the_nearest():
    assert "Did you mean 'late_fusion'?" in unknown_name(
        "method", "latefusion", ["late_fusion", "x"]
    )
    assert "Did you mean" not in unknown_name("method", "zzz", ["late_fusion"])


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("sam.pth", "{}/sam.pth"),
        ("other.pth", "other.pth"),
        ("timm", "timm"),
        ("null", None),
        ("{a: sam.pth, b: timm}", {"a": "{}/sam.pth", "b": "timm"}),
    ],
)
def test_weights_beside_the_settings_are_found(write, tmp_path, given, expected):
    def place(value):
        if isinstance(value, dict):
            return {key: place(inner) for key, inner in value.items()}
        return value and value.replace("{}", str(tmp_path))

    (tmp_path / "sam.pth").write_bytes(b"")
    text = f"data: {{manifest: d.yaml}}\nmethod: {{name: late_fusion, weights: {given}}}\n"
    assert load_run_config(write(text)).method.options["weights"] == place(expected)


def test_keys_by_their_old_names_are_taken_with_a_warning(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    text = (
        "data: {manifest: a.yaml}\nmethod: {name: single, backbone_options: {taps: [1], depth: 2}}"
    )
    path.write_text(text)
    with pytest.warns(UserWarning, match=r"run.yaml: 'method.backbone_options.taps' is called"):
        config = load_run_config(path)
    assert config.method.options["backbone_options"] == {"out_indices": [1], "depth": 2}
    path.write_text(text.replace("taps", "out_indices"))  # what the warning says
    assert load_run_config(path) == config
    (tmp_path / "config.yaml").write_text(text)  # a run folder's
    assert load_run_config(tmp_path / "config.yaml").method == config.method


def test_a_key_by_both_names_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    options = "{taps: [1], out_indices: [1]}"
    path.write_text(f"data: {{manifest: a.yaml}}\nmethod: {{name: a, backbone_options: {options}}}")
    with pytest.raises(ConfigError, match=r"holds 'taps' and 'out_indices'.*delete 'taps'"):
        load_run_config(path)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("lr: 0.1\n", "'lr' is not a key at the top of the file; it is training.lr"),
        ("training: {crop_size: 9}\n", "'crop_size' is not a key of training; it is "
         "data.crop_size or prediction.crop_size"),
        ("training: {flip: false}\n", "'flip' is not a key of training; it is data.augment.flip"),
        ("training: {backbone: resnet18}\n", "'backbone' is not a key of training; it is "
         "method.backbone"),
        ("evaluation: {weight: 2}\n", "'weight' is not a key of evaluation; it is "
         "training.losses[].weight"),
        ("training: {losses: [{name: dice}], steps: 3, std: 1}\n", "'std' is not a key of "
         "training; it is data.normalization.NAME.std"),
    ],
)  # fmt: skip
def test_a_key_of_another_section_names_that_section(tmp_path: Path, text: str, told: str) -> None:
    path = tmp_path / "run.yaml"
    path.write_text(MINIMAL + text)
    with pytest.raises(ConfigError) as error:
        load_run_config(path)
    assert str(error.value).startswith(f"{path}: {told} (line 3, column ")
    assert len(str(error.value).splitlines()) == 1


def test_the_remedy_for_a_key_of_another_section_is_taken(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text("data: {manifest: d.yaml, lr: 0.5}\nmethod: {name: single}\n")
    with pytest.raises(ConfigError, match=r"'lr' is not a key of data; it is training\.lr"):
        load_run_config(path)
    path.write_text("data: {manifest: d.yaml}\nmethod: {name: single}\ntraining: {lr: 0.5}\n")
    assert load_run_config(path).training.lr == 0.5


def test_a_key_of_training_among_a_methods_options_is_named() -> None:
    def method(*, backbone: str = "x") -> None: ...

    with pytest.raises(
        UnknownNameError, match=r"'lr'\. Known: backbone\. As a setting it is training\.lr"
    ):
        check_options("method", "mine", method, {"lr": 1})


def test_options_that_are_looked_for_elsewhere_are_options() -> None:
    from terrafuse.config.run import MethodConfig
    from terrafuse.methods import METHODS

    known = {name for method in METHODS.values() for name in option_names(method)}
    assert MethodConfig.options_elsewhere <= known


def test_odd_paths_are_left_as_they_are(write) -> None:
    path = write(
        "data: {manifest: ~nobody-here/d.yaml}\n"
        f"method: {{name: single, weights: {'w' * 5000}}}\n"
    )
    config = load_run_config(path)
    assert config.data.manifest == path.parent / "~nobody-here" / "d.yaml"
    assert config.method.options["weights"] == "w" * 5000
