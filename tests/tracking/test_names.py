"""Two images whose files would take each other's names are not tracked side by side."""

from __future__ import annotations

from pathlib import Path

import pytest

import blockreplica as br
from blockreplica.errors import RefusedError


@pytest.mark.parametrize(("first", "second"), [("d", "d.000001"), ("d.000001", "d"), ("d.img", "d.img.1234567")])
def test_an_image_whose_log_would_be_another_ones_is_refused(tmp_path: Path, first: str, second: str) -> None:
    for name in (first, second):
        (tmp_path / name).write_bytes(bytes(8192))
    with br.track(tmp_path / first) as image:
        image.pwrite(b"x", 0)
    with pytest.raises(RefusedError, match=r"rename one of the two"):
        br.track(tmp_path / second)
    with br.track(tmp_path / first) as image:  # the first one goes on
        image.pwrite(b"y", 0)


@pytest.mark.parametrize("second", ["d.00001", "d.img", "e.000001", "d.000001.bak"])
def test_other_names_live_side_by_side(tmp_path: Path, second: str) -> None:
    for name in ("d", second):
        (tmp_path / name).write_bytes(bytes(8192))
        with br.track(tmp_path / name) as image:
            image.pwrite(b"x", 0)
