"""What of the server's paths users hear."""

from __future__ import annotations

from terrafuse.web.service.veil import Veil


def test_the_longest_name_counts() -> None:
    veil = Veil({"/srv/runs": "models", "/srv/runs/a/s1.tif": "north/s1.tif"})
    told = veil("'/srv/runs/a/s1.tif' is not like '/srv/runs', nor like '/srv/other/b.tif'")
    assert told == "'north/s1.tif' is not like 'models', nor like '…/b.tif'"
