"How long a test waits for what must happen: a limit only ends what hangs, so it grows with how busy the machine is."

import os
import time
from functools import cache

UNHURRIED = 0.12  # seconds of `slowness`' loop on a quiet machine


@cache
def slowness():
    "How many times longer than on a quiet machine a fixed loop takes here and now, at least 1."
    start = time.perf_counter()
    sum(i * i for i in range(2_000_000))
    return max(1.0, (time.perf_counter() - start) / UNHURRIED)


def patient(
    seconds,  # what is ample on a quiet machine
):
    "Give the seconds to wait here: four times as many, more on a slow machine, and times PATIENCE where that is set."
    return seconds * 4 * slowness() * float(os.environ.get("PATIENCE", "1"))
