"""numpy, loaded when the first array is needed, and the names of its types.

It takes longer to load than all of this package, and much can go on without it: finding out what a command means,
opening a replica, reading the first windows of an image while it loads (`replication.bulk`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Array = NDArray[Any]
    Bools = NDArray[np.bool_]
    Bytes = NDArray[np.uint8]
    #: One-dimensional, of structured records.
    Rows = NDArray[Any]
else:
    Array = Bools = Bytes = Rows = Any

    class _Late:
        """Stands for numpy; whatever is asked of it comes from there, and is kept."""

        def __getattr__(self, name: str) -> Any:
            import numpy  # by Python's import lock whole, whichever threads ask

            value = getattr(numpy, name)
            setattr(self, name, value)
            return value

    np = _Late()

__all__ = ["Array", "Bools", "Bytes", "Rows", "load", "np"]


def load() -> None:
    """Load numpy: in a thread, beside what needs none yet."""
    import numpy  # noqa: F401
