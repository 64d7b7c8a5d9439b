"""Both implementations of the log's kernels, and small logs to work on."""

from __future__ import annotations

import pytest

from blockreplica import kernels


@pytest.fixture(params=["native", "reference"])
def implementation(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Runs the test twice: over the C core and over its Python twin."""
    name = str(request.param)
    for function, body in kernels._load(name, None)[2].items():
        monkeypatch.setattr(kernels, function, body)
    return name
