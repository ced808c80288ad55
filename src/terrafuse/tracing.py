"""Forms of operations that a graph can hold: of any pixel values, and of sizes that are symbols."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

import torch
import torch.nn.functional as F
from torch import Tensor


def is_traced() -> bool:
    """Whether what runs now is recorded: compiled, exported, or traced.

    Code that asks for pixel values, to leave out work that they make needless, must do the work
    then: what is absent is masked, not skipped.
    """
    return torch.compiler.is_compiling() or torch._C._get_tracing_state() is not None


def split_dim(x: Tensor, dim: int, sizes: Sequence[int]) -> Tensor:
    """Dimension `dim` as several of these sizes: `unflatten`, which has no types."""
    result: Tensor = x.unflatten(dim, tuple(sizes))  # type: ignore[no-untyped-call]
    return result


def parts_of_batch(x: Tensor, parts: int) -> tuple[Tensor, ...]:
    """Split a batch (M · N, …) into its M parts (N, …).

    As `chunk`, which takes the size of a part for a constant in a graph.
    """
    return split_dim(x, 0, (parts, x.shape[0] // parts)).unbind(0)


def times(length: int, ratio: Fraction, *, up: bool = False) -> int:
    """A length times a ratio, rounded down or up; the length may be a symbol."""
    more = ratio.denominator - 1 if up else 0
    return (length * ratio.numerator + more) // ratio.denominator


def divided(length: int, stride: float) -> int:
    """Pixels of a map of this stride over `length` pixels, which may be a symbol."""
    if not has_symbols(length):
        return round(length / stride)
    return times(length, 1 / Fraction(stride).limit_denominator())


def has_symbols(*lengths: int) -> bool:
    """Whether one of some lengths is a symbol, of a graph whose sizes stay open."""
    return any(isinstance(length, torch.SymInt) for length in lengths)


def same_size(own: Sequence[int], wanted: Sequence[int]) -> bool:
    """Whether two sizes are equal; of symbols, whether they are for all values."""
    if not has_symbols(*own, *wanted):
        return tuple(own) == tuple(wanted)
    return all(_holds(a == b) for a, b in zip(own, wanted, strict=True))


def extend(x: Tensor, dim: int, more: int) -> Tensor:
    """Append zeros along a dimension.

    As `pad`, whose amounts ONNX takes for constants.
    """
    if not has_symbols(more):
        return F.pad(x, [0] * (2 * (x.ndim - dim % x.ndim) - 1) + [more]) if more else x
    if _holds(more == 0):
        return x
    shape = list(x.shape)
    shape[dim] = more
    return torch.cat([x, x.new_zeros(shape)], dim=dim)


def pool_to(x: Tensor, size: tuple[int, int]) -> Tensor:
    """Mean over the pixels of `x` (N, C, H, W) in each of a map of `size`: (N, C, h, w).

    As `adaptive_avg_pool2d`, which graphs hold for constant sizes only; of symbols, two products
    with matrices of shares.
    """
    if not has_symbols(*x.shape[-2:], *size):
        return F.adaptive_avg_pool2d(x, size)
    rows, cols = (_pooling(own, wanted, x) for own, wanted in zip(x.shape[-2:], size, strict=True))
    return rows @ x @ cols.T


def resize_traced(x: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize a map (N, C, H, W) bilinearly, antialiased where it shrinks, in a graph.

    As `interpolate`, whose antialiasing few graphs hold: where it shrinks, two products with the
    matrices of its weights.
    """
    if all(_holds(wanted >= own) for wanted, own in zip(size, x.shape[-2:], strict=True)):
        return F.interpolate(x, size, mode="bilinear", align_corners=False)
    rows, cols = (
        _triangles(own, wanted, x) for own, wanted in zip(x.shape[-2:], size, strict=True)
    )
    return (rows @ x.float() @ cols.T).to(x.dtype)


def _holds(condition: bool) -> bool:
    """Whether a condition is known to hold, whatever the values of its symbols."""
    from torch.fx.experimental.symbolic_shapes import statically_known_true  # brings sympy

    return statically_known_true(condition)


def _pooling(own: int, wanted: int, like: Tensor) -> Tensor:
    """Shares of `own` pixels in the mean of each of `wanted`, (wanted, own)."""
    place = torch.arange(wanted, device=like.device).unsqueeze(1)
    pixel = torch.arange(own, device=like.device).unsqueeze(0)
    first = place * own // wanted
    after = ((place + 1) * own + wanted - 1) // wanted
    inside = ((pixel >= first) & (pixel < after)).to(like.dtype)
    return inside / inside.sum(dim=1, keepdim=True)


def _triangles(own: int, wanted: int, like: Tensor) -> Tensor:
    """Weights of `own` pixels in each of `wanted`, (wanted, own), of antialiased `interpolate`."""
    place = torch.arange(wanted, device=like.device, dtype=torch.float32).unsqueeze(1)
    pixel = torch.arange(own, device=like.device, dtype=torch.float32).unsqueeze(0)
    scale = torch.full((), own, device=like.device, dtype=torch.float32) / wanted
    distance = (pixel + 0.5 - (place + 0.5) * scale) / scale.clamp(min=1)
    weights = (1 - distance.abs()).clamp(min=0)
    return weights / weights.sum(dim=1, keepdim=True)


@dataclass(frozen=True)
class WindowPlaces:
    """Where the pixels of a map lie in windows, and back, by indices.

    A gather costs more than the views that cut a map otherwise, but its sizes may be symbols of
    which nothing has to be known.

    Args:
        taken: Per window and place in it, row-major, the index of the pixel (count · area,).
        back: Per pixel of the map, row-major, its index in `taken`.
        rows: Per window and place, the row that it has among all windows (count · area,).
        cols: Likewise its column.
        covered: Height and width of all windows together.
        count: Number of windows, with one that covers nothing.
        area: Places in a window.
    """

    taken: Tensor
    back: Tensor
    rows: Tensor
    cols: Tensor
    covered: tuple[int, int]
    count: int
    area: int

    def cut(self, x: Tensor) -> Tensor:
        """Pixels (N, L, C) → windows (N · count, area, C)."""
        # Split, then merged: `view` in one step would compare sizes, and note what it found.
        return split_dim(x[:, self.taken], 1, (self.count, self.area)).flatten(0, 1)

    def join(self, windows: Tensor, samples: int) -> Tensor:
        """Windows (N · count, area, C) → pixels of the map (N, L, C)."""
        return split_dim(windows, 0, (samples, self.count)).flatten(1, 2)[:, self.back]


def window_places(
    size: tuple[int, int],
    window: tuple[int, int],
    device: torch.device,
    *,
    mirrored: bool = False,
    shift: tuple[int, int] = (0, 0),
) -> WindowPlaces:
    """Places of the pixels of a map in windows that cover it.

    Args:
        size: Height and width of the map.
        window: Rows and columns of a window.
        mirrored: Whether places beyond the map take the pixel mirrored at its last row or column;
            else they take one index more than the map has pixels.
        shift: Rows and columns by which the map is first rolled, upwards and to the left.
    """
    (height, width), (high, wide) = size, window
    down, across = (height + high - 1) // high, (width + wide - 1) // wide
    # One more, which nothing is taken back from: of a single window a graph would note that it is
    # one, or not, and refuse others.
    count = down * across + 1
    # One index for windows and places: shapes that broadcast would have to be compared with 1.
    index = torch.arange(count * high * wide, device=device)
    number, place = index // (high * wide), _rest(index, high * wide)
    rows = number // across * high + place // wide
    cols = _rest(number, across) * wide + _rest(place, wide)
    if mirrored:
        taken = mirror(rows, height) * width + mirror(cols, width)
    else:
        taken = _rest(rows + shift[0], height) * width + _rest(cols + shift[1], width)
        taken = torch.where((rows < height) & (cols < width), taken, height * width)
    pixel = torch.arange(height * width, device=device)
    y = _rest(pixel // width + (height - 1) * shift[0], height)  # − shift, and not negative
    x = _rest(_rest(pixel, width) + (width - 1) * shift[1], width)
    place = _rest(y, high) * wide + _rest(x, wide)
    back = (y // high * across + x // wide) * (high * wide) + place
    covered = (down * high, across * wide)
    return WindowPlaces(taken, back, rows, cols, covered, count, high * wide)


def split_heads(qkv: Tensor, heads: int) -> Tensor:
    """Queries, keys and values side by side (N, L, 3D) → (3, N, heads, L, d)."""
    return split_dim(qkv, 2, (3, heads, -1)).permute(2, 0, 3, 1, 4)


def join_heads(x: Tensor) -> Tensor:
    """Result of attention (N, heads, L, d) → (N, L, heads · d).

    Not by a view: a graph would keep it, though kernels lay out their results in two ways.
    """
    return torch.cat(x.unbind(1), dim=-1)


def mirror(places: Tensor, size: int) -> Tensor:
    """Mirror places beyond a line of `size` at its ends: 0, …, size − 1, size − 2, …, 0, 1, …."""
    period = max(2 * (size - 1), 1)
    places = _rest(places, period)
    return torch.minimum(places, period - places)


def _rest(x: Tensor, divisor: int) -> Tensor:
    """Rest of a division of what is not negative; for `%`, ONNX takes only constants."""
    return x - x // divisor * divisor
