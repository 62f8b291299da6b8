# Only what recbench uses.
from typing import Any

import numpy as np

from . import _Sparse

_Array = np.ndarray[Any, Any]

def svds(A: _Sparse, k: int = ..., *, rng: int | None = ...) -> tuple[_Array, _Array, _Array]: ...
