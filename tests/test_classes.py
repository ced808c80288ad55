from collections import Counter

import numpy as np
import pytest

from terrafuse.classes import ClassScheme
from terrafuse.errors import ConfigError, LabelError

CODED = ClassScheme(names=("dry", "wet"), codes=((0,), (7, 255)), void=(-1,))
PALETTE = ClassScheme(names=("road", "tree"), codes=(("#FFFFFF",), ("#00ff00",)), void=("#000000",))


@pytest.mark.parametrize("dtype", [np.int16, np.int32, np.float32, np.float64])
def test_codes_become_indices_whatever_the_dtype(dtype):
    raw = np.array([[0, 7], [255, -1]], dtype=dtype)
    assert CODED.encode(raw).tolist() == [[0, 1], [1, 255]]


def test_uint8_takes_the_table_and_agrees_with_the_general_way():
    rng = np.random.default_rng(0)
    raw = rng.choice(np.array([0, 7, 255], np.uint8), size=(40, 50))
    np.testing.assert_array_equal(CODED.encode(raw), CODED.encode(raw.astype(np.int32)))


def test_colours_become_indices():
    raw = np.zeros((3, 1, 3), np.uint8)
    raw[:, 0, 0] = 255
    raw[1, 0, 1] = 255
    assert PALETTE.encode(raw).tolist() == [[0, 1, 255]]


def test_unknown_values_are_listed_with_their_counts():
    raw = np.array([[0, 3, 3], [9, 0, 7]], np.uint8)
    with pytest.raises(LabelError, match=r"labels of scene 'a' .*3 \(2 px, 33.3%\), 9 \(1 px"):
        CODED.encode(raw, where="labels of scene 'a'")


def test_unknown_values_become_what_the_scheme_says_and_are_counted():
    raw = np.array([[1, 4, 9], [9, 7, 0]])
    for dtype in (np.uint8, np.int16, np.float32):
        for unknown, index in (("void", 255), ("b", 1)):
            scheme = ClassScheme(("a", "b"), codes=((1,), (4,)), void=(0,), unknown=unknown)
            met: Counter[str] = Counter()
            labels = scheme.encode(raw.astype(dtype), met=met)
            np.testing.assert_array_equal(labels, [[0, 1, index], [index, index, 255]])
            assert met == {"9": 2, "7": 1}
    # NaN and broken numbers are unknown as well, a nodata value is not.
    scheme = ClassScheme(("a", "b"), codes=((1,), (4,)), unknown="b")
    labels = scheme.encode(np.array([[1, 0.5, np.nan, -9]]), nodata=-9)
    np.testing.assert_array_equal(labels, [[0, 1, 1, 255]])


def test_unknown_colours_become_a_class():
    scheme = ClassScheme(("a", "b"), codes=(("#ff0000",), ("#00ff00",)), unknown="b")
    raw = np.array([[[255, 252]], [[0, 255]], [[0, 0]]], np.uint8)
    met: Counter[str] = Counter()
    np.testing.assert_array_equal(scheme.encode(raw, met=met), [[0, 1]])
    assert met == {"#fcff00": 1}
    assert ClassScheme.from_dict(scheme.to_dict()).unknown == "b"
    assert scheme == ClassScheme(("a", "b"), codes=(("#ff0000",), ("#00ff00",)))
    with pytest.raises(ConfigError, match=r"unknown value of 'unknown' 'B'.*(void|'b')"):
        ClassScheme(("a", "b"), unknown="B")


def test_unknown_colours_are_shown_as_colours():
    raw = np.full((3, 2, 2), 252, np.uint8)
    with pytest.raises(LabelError, match="#fcfcfc"):
        PALETTE.encode(raw)


def test_message_names_the_code_that_a_value_nearly_is():
    raw = np.zeros((3, 2, 2), np.uint8)
    raw[1] = 254  # #00fe00, nearly #00ff00
    with pytest.raises(LabelError, match=r"#00fe00 \(4 px, 100.0%, nearly #00ff00\);"):
        PALETTE.encode(raw)
    with pytest.raises(LabelError, match=r"7\.0001 \(1 px, 50.0%, nearly 7\);"):
        CODED.encode(np.array([[7.0001, 0]]))
    with pytest.raises(LabelError, match=r" 8 \(1 px, 50.0%\);"):
        CODED.encode(np.array([[8, 0]]))


def test_nan_and_fractions_are_no_labels():
    with pytest.raises(LabelError, match="nan"):
        CODED.encode(np.array([[0.0, np.nan]]))
    with pytest.raises(LabelError, match=r"0\.5"):
        CODED.encode(np.array([[0.5, 0.0]]))


def test_nodata_is_ignored_unless_it_is_a_class():
    assert CODED.encode(np.array([[5, 0]], np.int16), nodata=5).tolist() == [[255, 0]]
    assert CODED.encode(np.array([[5, 0]], np.uint8), nodata=5).tolist() == [[255, 0]]
    assert CODED.encode(np.array([[7, 0]], np.int16), nodata=7).tolist() == [[1, 0]]
    assert CODED.encode(np.array([[np.nan, 0]]), nodata=np.nan).tolist() == [[255, 0]]


def test_scheme_survives_its_dict():
    assert ClassScheme.from_dict(CODED.to_dict()) == CODED
    assert ClassScheme.from_dict(PALETTE.to_dict()) == PALETTE


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"names": ()}, "1 to 255"),
        ({"names": ("a", "a")}, "not unique"),
        ({"names": ("a", "b"), "codes": ((1,), (1,))}, "more than one class"),
        ({"names": ("a",), "codes": ((1,),), "void": (1,)}, "more than one class or void: 1"),
        ({"names": ("a",), "colors": ("red",)}, "#rrggbb"),
        ({"names": ("a", "b"), "colors": ("#000000",)}, "2 classes but 1 colors"),
    ],
)
def test_contradictions_are_refused(fields, text):
    with pytest.raises(ConfigError, match=text):
        ClassScheme(**fields)


def test_default_colours_differ_for_as_many_classes_as_there_can_be() -> None:
    scheme = ClassScheme(tuple(f"class {i}" for i in range(255)))
    assert len(set(scheme.colors)) == 255
    assert scheme.colors[12] == "#91afcd"  # the first one, 41 % of the way to white
    assert scheme.colors[24] == "#284664"  # and to black
