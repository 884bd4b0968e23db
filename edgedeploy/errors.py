"""Every deliberate exception, and the exit status that the command line gives it.

::

    EdgeDeployError                       1
    +-- UsageError                        2   the request cannot be right
    +-- Unavailable                       3   right, but not here: what is missing, how to get it
    +-- Incompatible                      3   artifact and device (or runtime) disagree
    +-- Untrusted                         3   a file that may not be loaded safely, and what to do
    +-- ExportFailed                      1   the converter refused; ``__cause__`` is its own error
    +-- RunFailed                         1   the session or its worker died; its last words
    +-- BudgetExceeded                    4   it worked, and the answer is no
    +-- Unstable                          4   it worked, and there is no answer

Anything else that escapes is a bug and shows its traceback.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class EdgeDeployError(Exception):
    """Base of every deliberate error. The message is one sentence or two: what happened, then what to do."""

    exit_status = 1


class UsageError(EdgeDeployError):
    """The request cannot be right: a file, key, value or name is not what it has to be."""

    exit_status = 2


class Unavailable(EdgeDeployError):
    """The request is right, but something is missing here; the message ends with the line that installs it."""

    exit_status = 3

    @classmethod
    def extra(cls, what: str, extra: str) -> Unavailable:
        """The usual case: ``what`` needs the optional dependencies named ``extra``."""
        return cls(f"{what} is not installed here. Install it with: pip install 'edgedeploy[{extra}]'")


class Incompatible(EdgeDeployError):
    """Artifact and device disagree; the message lists each unmet fact."""

    exit_status = 3


class Untrusted(EdgeDeployError):
    """A checkpoint or bundle that may not be loaded safely."""

    exit_status = 3


class ExportFailed(EdgeDeployError):
    """The vendor's converter refused the model; ``__cause__`` is its own error."""


class RunFailed(EdgeDeployError):
    """A session or its worker process died."""


class BudgetExceeded(EdgeDeployError):
    """Everything ran, and the verdict is *fail*."""

    exit_status = 4


class Unstable(EdgeDeployError):
    """Everything ran, and the samples do not support an answer."""

    exit_status = 4


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """`` Did you mean 'x'?`` for the closest known name, else the list of what is known (leading space kept)."""
    names = sorted(set(known))
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.6)
    if close:
        return f" Did you mean '{close[0]}'?"
    return f" Known: {', '.join(names)}." if names else ""
