"""Times two or more sides in turns, A B A B ...: what slows the machine slows every side.

Processor seconds by default, so that other work on the machine counts for none; ratios are taken
within a round, and their median and range are what is told.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

Clock = Callable[[], float]


@dataclass(frozen=True)
class Turns:
    """What was measured.

    Attributes:
        seconds: side -> seconds a call, one number a round.
        results: side -> what its last call returned.
    """

    seconds: dict[str, list[float]]
    results: dict[str, Any]

    def median(self, side: str) -> float:
        """Seconds a call."""
        return statistics.median(self.seconds[side])

    def fastest(self, side: str) -> float:
        """Seconds of the fastest call."""
        return min(self.seconds[side])

    def ratios(self, slow: str, fast: str) -> list[float]:
        """How many times as long ``slow`` took as ``fast``, round by round."""
        return [a / b for a, b in zip(self.seconds[slow], self.seconds[fast], strict=True)]

    def ratio(self, slow: str, fast: str) -> float:
        """The median of the rounds' ratios."""
        return statistics.median(self.ratios(slow, fast))

    def ratio_line(self, slow: str, fast: str) -> str:
        """That median and the range over the rounds, to be printed."""
        ratios = self.ratios(slow, fast)
        return f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"


def in_turns(
    sides: Mapping[str, Callable[[], Any]],
    rounds: int,
    calls: int = 1,
    clock: Clock = time.process_time,
) -> Turns:
    """Calls every side in turns, A B B A, once beforehand to warm up.

    Args:
        sides: name -> what is timed. A side that must see another batch at every call counts them.
        rounds: how often each side gets its turn.
        calls: calls in a turn.
        clock: seconds; ``time.process_time`` counts this process, ``time.perf_counter`` the clock.

    Returns:
        Seconds a call and last results.
    """
    seconds: dict[str, list[float]] = {side: [] for side in sides}
    results = {side: work() for side, work in sides.items()}
    for number in range(rounds):
        # A B, B A: neither always comes first.
        for side, work in list(sides.items())[:: -1 if number % 2 else 1]:
            start = clock()
            for _ in range(calls):
                results[side] = work()
            seconds[side].append((clock() - start) / calls)
    return Turns(seconds, results)


def device_clock(device: str) -> Clock:
    """Processor seconds on a CPU; on a GPU the clock's, once it has done what it was given."""
    if not device.startswith("cuda"):
        return time.process_time
    import torch

    def clock() -> float:
        torch.cuda.synchronize(device)
        return time.perf_counter()

    return clock
