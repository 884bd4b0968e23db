"""Sensors read again and again while samples are taken, by a process beside the one that is measured."""

from __future__ import annotations

from types import TracebackType

from edgedeploy.bench.telemetry import Reading, Series


class Watch:
    """Reads every ``interval`` seconds inside its block; 0 reads nothing."""

    def __init__(self, interval: float) -> None:
        self._interval = interval

    def __enter__(self) -> Watch:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop."""

    def readings(self) -> tuple[Reading, ...]:
        """What was read, once the block has ended."""
        return ()

    def series(self) -> tuple[Series, ...]:
        """What was read over time, once the block has ended."""
        return ()
