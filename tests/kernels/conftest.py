"""Every implementation of the kernels, by name: the Python twin and each CPU variant that this CPU runs."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace

import pytest

from blockreplica import _native, kernels

IMPLEMENTATIONS = ["reference-python", *(f"native-{name}" for name in _native.variants())]


@pytest.fixture(params=IMPLEMENTATIONS)
def kernel(request: pytest.FixtureRequest) -> Iterator[SimpleNamespace]:
    """The functions of one implementation, chosen as kernels.py chooses them from the environment."""
    before = _native.variant()
    name, cpu = request.param.split("-")
    native, variant, functions = kernels._load(name, cpu)
    assert (native, variant) == (name == "native", cpu)
    yield SimpleNamespace(native=native, **functions)
    _native.select_variant(before)
