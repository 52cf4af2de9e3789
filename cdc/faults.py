"""Named crash points, so that tests kill real processes at exactly chosen places.

`point("capture.after_append")` does nothing unless the environment variable CDC_FAULT names it, as
`name` or `name:count`; then the process kills itself with SIGKILL on the count-th pass (default 1).
The variable is read once, at import: a point costs one comparison.
"""

from __future__ import annotations

import os
import signal
from itertools import count

_WANTED, _, _AT = os.environ.get("CDC_FAULT", "").partition(":")
_PASSES = count(1)


def point(name: str) -> None:
    """Die here by SIGKILL if CDC_FAULT asks for it."""
    if name == _WANTED and next(_PASSES) == int(_AT or 1):
        os.kill(os.getpid(), signal.SIGKILL)
