"""Every measurement and comparison, kept in one SQLite file and found again by model, device, artifact or scenario.

The file is ``EDGEDEPLOY_HISTORY``, else ``edgedeploy/history.db`` in the user's data folder (``XDG_DATA_HOME``). Any
number of processes may use it at once; a write is there whole or not at all. A file that is damaged, or that is not
ours, is refused and left as it is.
"""

from edgedeploy.history.lines import read_lines, write_lines
from edgedeploy.history.store import (
    AccuracyRow,
    History,
    Origin,
    Remembered,
    Row,
    default_path,
    now,
    origin_of,
    remember,
)

__all__ = [
    "AccuracyRow",
    "History",
    "Origin",
    "Remembered",
    "Row",
    "default_path",
    "now",
    "origin_of",
    "read_lines",
    "remember",
    "write_lines",
]
