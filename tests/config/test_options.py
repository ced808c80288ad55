"""Options are checked by the signature that takes them."""

from __future__ import annotations

from typing import Any, Literal

import pytest

from terrafuse.config.options import check_options, option_names
from terrafuse.errors import ModelError, UnknownNameError


class Thing:
    def __init__(
        self,
        first: int,
        *,
        kind: Literal["a", "b"] = "a",
        sizes: tuple[int, ...] = (1,),
        names: str | dict[str, str] = "x",
        anything: Any = None,
        own: Thing | None = None,
    ) -> None: ...


def test_only_keyword_arguments_are_options() -> None:
    assert option_names(Thing) == ["kind", "sizes", "names", "anything", "own"]


def test_values_come_back_in_the_annotated_types() -> None:
    given = {"sizes": [1, 2], "names": {"m": "y"}, "anything": [object]}
    assert check_options("thing", "t", Thing, given) == given | {"sizes": (1, 2)}


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"sises": 1}, UnknownNameError, r"option of thing 't' 'sises'\. Did you mean 'sizes'"),
        ({"first": 1}, UnknownNameError, r"'first'.*Known: anything, kind"),
        ({"kind": "c"}, ModelError, r"option 'kind' of thing 't' is 'c': .*'a' or 'b'"),
        ({"sizes": [1, "two"]}, ModelError, r"is \[1, 'two'\]: .*integer"),
        ({"own": 3}, ModelError, "option 'own' of thing 't' is 3"),
    ],
)
def test_mistakes_are_named(options: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        check_options("thing", "t", Thing, options)
