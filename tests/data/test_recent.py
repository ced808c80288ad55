"""Windows that were read last."""

from __future__ import annotations

from typing import Any

import numpy as np

from terrafuse.data.recent import RecentWindows


def test_the_least_recently_used_goes_first_and_a_large_one_is_not_kept() -> None:
    read: list[str] = []
    recent = RecentWindows(most_bytes=20)

    def get(name: str, *sizes: int) -> Any:
        def reading() -> Any:
            read.append(name)
            parts = tuple(np.full(size, len(read), np.uint8) for size in sizes)
            return parts if len(parts) > 1 else parts[0]

        return recent.get(name, reading)

    first = get("a", 5, 5)  # an image and its mask count together
    get("b", 10)
    assert get("a", 5, 5) is first
    get("c", 1)  # in the place of b, which was used before a
    assert get("a", 5, 5) is first
    get("large", 21)  # takes nobody's place
    assert get("a", 5, 5) is first
    assert (get("large", 21)[0], get("b", 10)[0]) == (5, 6)
    assert read == ["a", "b", "c", "large", "large", "b"]
