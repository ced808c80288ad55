import torch
from hypothesis import given
from hypothesis import strategies as st

from terrafuse.samples import Sample, Window, collate

windows = st.builds(
    Window, st.integers(-20, 20), st.integers(-20, 20), st.integers(1, 30), st.integers(1, 30)
)


@given(windows, windows)
def test_intersection_holds_exactly_the_shared_pixels(a, b):
    def pixels(w):
        rows, cols = range(w.row, w.row_stop), range(w.col, w.col_stop)
        return {(r, c) for r in rows for c in cols}

    shared = a.intersection(b)
    assert (pixels(shared) if shared else set()) == pixels(a) & pixels(b)


def test_slices_are_relative_to_the_origin():
    assert Window(5, 7, 2, 3).slices(Window(4, 4, 9, 9)) == (slice(1, 3), slice(3, 6))


def sample(value: float) -> Sample:
    return Sample(
        images={"a": torch.full((2, 4, 4), value), "b": torch.full((1, 2, 2), value)},
        valid={"a": torch.ones(4, 4, dtype=torch.bool), "b": torch.ones(2, 2, dtype=torch.bool)},
        labels=torch.zeros(4, 4, dtype=torch.int64),
        window=Window(0, 0, 4, 4),
        scene_id="s",
    )


def test_without_makes_a_modality_absent_and_leaves_the_others():
    dropped = sample(1.0).without({"b"})
    assert dropped.images["b"].isnan().all()
    assert not dropped.valid["b"].any()
    assert (dropped.images["a"] == 1).all()
    assert dropped.valid["a"].all()


def test_collate_stacks_in_order():
    batch = collate([sample(1.0), sample(2.0)])
    assert batch.images["a"].shape == (2, 2, 4, 4)
    assert batch.images["b"][:, 0, 0, 0].tolist() == [1.0, 2.0]
    assert batch.labels is not None
    assert batch.labels.shape == (2, 4, 4)
    assert batch.scene_ids == ("s", "s")
