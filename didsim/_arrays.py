"""Names for the kinds of array that didsim passes around."""

import numpy as np
from numpy.typing import ArrayLike, NDArray

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

__all__ = ["ArrayLike", "FloatArray", "IntArray"]
