"""What came of listening to one source of sound."""

from __future__ import annotations

import time
from dataclasses import dataclass

from edgedeploy.listening.events import Event, Utterance
from edgedeploy.listening.listener import Listener, Sound
from edgedeploy.opening import described


@dataclass(frozen=True)
class Account:
    """What was heard, and what it took.

    Args:
        source: a file's name, or the microphone's.
        seconds: of sound that was heard.
        computing: seconds that features and network took for it, once through; no benchmark.
        utterances: of a clip its one; of continuous listening those with a decision.
        undecided: utterances of continuous listening without one.
        doubts: sentences that qualify all of it.
    """

    source: str
    seconds: float
    computing: float
    utterances: tuple[Utterance, ...]
    undecided: int = 0
    doubts: tuple[str, ...] = ()

    @property
    def real_time_factor(self) -> float:
        """Seconds of computing per second of sound; above 1 it cannot keep up. NaN without sound."""
        return self.computing / self.seconds if self.seconds else float("nan")


class Tally:
    """Keeps account while a listener listens; its memory grows with what was decided, and not with the sound."""

    def __init__(self, listener: Listener) -> None:
        self._listener = listener
        self._start, self._computing = listener.seconds, 0.0
        self._utterances: list[Utterance] = []
        self._undecided = self._lost = 0

    def push(self, sound: Sound, lost: bool = False) -> list[Event]:
        """See `Listener.push`; ``lost`` says that some sound before this piece was lost."""
        self._lost += lost
        began = time.perf_counter()
        events = self._listener.push(sound)
        self._computing += time.perf_counter() - began
        return self._kept(events)

    def finish(self) -> list[Event]:
        """See `Listener.finish`."""
        began = time.perf_counter()
        events = self._listener.finish()
        self._computing += time.perf_counter() - began
        return self._kept(events)

    def account(self, source: str) -> Account:
        """Of what was pushed here."""
        doubts, session = [], self._listener.stream.session
        if "emulated" in session.facts:
            doubts.append(f"a rehearsal: this is {described(session)}, and not what the bundle was made for.")
        if self._lost:
            doubts.append(f"sound was lost {self._lost} times: this machine did not take it as fast as it came.")
        return Account(
            source, self._listener.seconds - self._start, self._computing, tuple(self._utterances), self._undecided,
            tuple(doubts),
        )  # fmt: skip

    def _kept(self, events: list[Event]) -> list[Event]:
        for event in events:
            if isinstance(event, Utterance):
                if event.decision is None and self._listener.continuous:
                    self._undecided += 1
                else:
                    self._utterances.append(event)
        return events
