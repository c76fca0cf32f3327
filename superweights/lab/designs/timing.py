"""How much CPU time one thing takes beside another, in one process: the least of several turns, taken in turn."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any


def ratio(one: Callable[[], Any], other: Callable[[], Any], turns: int = 5) -> float:
    """The CPU seconds of `one` over those of `other`, each the least of `turns`, after a first call of both."""
    one()
    other()
    least = [float("inf"), float("inf")]
    for _ in range(turns):
        for place, work in enumerate((one, other)):
            began = time.process_time()
            work()
            least[place] = min(least[place], time.process_time() - began)
    return least[0] / least[1]
