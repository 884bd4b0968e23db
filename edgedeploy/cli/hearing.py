"""Listening at the command line: sources of sound one after the other, what is said on the way, and what is kept."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import typer

from edgedeploy.cli.terminal import plain, writable
from edgedeploy.errors import EdgeDeployError, UsageError

if TYPE_CHECKING:
    from edgedeploy.listening import Account, Answer, Decision, Event, Listener
    from edgedeploy.listening.listener import Sound
    from edgedeploy.report.listening import Scene
    from edgedeploy.stream import StreamState

#: Seconds of sound that a picture shows, from the beginning.
PICTURED = 60.0
#: Bytes of a file that tell it from another.
BEGINNING = 64 << 10


class Source(Protocol):
    """Where sound comes from."""

    @property
    def name(self) -> str:
        """For people."""
        ...

    def mark(self) -> str | None:
        """What tells it from other sources, so that a later run can go on in it; ``None`` where it has no places."""
        ...

    def pieces(self, rate: int) -> Iterator[tuple[Sound, bool]]:
        """Its sound at ``rate`` Hz, and whether some was lost before each piece."""
        ...


@dataclass(frozen=True)
class File:
    """A file of sound; its mark is of its place and its beginning."""

    path: Path
    resample: bool

    @property
    def name(self) -> str:
        return str(self.path)

    def mark(self) -> str | None:
        try:
            with self.path.open("rb") as stream:
                beginning = stream.read(BEGINNING)
        except OSError:  # said in one sentence when it is read
            return None
        return hashlib.sha256(str(self.path.resolve()).encode("utf-8", "surrogateescape") + beginning).hexdigest()

    def pieces(self, rate: int) -> Iterator[tuple[Sound, bool]]:
        from edgedeploy.tasks.audio import blocks

        return ((piece, False) for piece in blocks(self.path, rate, self.resample))


@dataclass(frozen=True)
class Microphone:
    """The microphone ``wanted``, for ``limit`` seconds of sound if not until it is stopped."""

    wanted: str | None
    limit: float | None

    @property
    def name(self) -> str:
        return "microphone"

    def mark(self) -> None:
        return None

    def pieces(self, rate: int) -> Iterator[tuple[Sound, bool]]:
        from edgedeploy.tasks.microphone import find, pieces

        found = find(self.wanted)
        typer.echo(f"  listening to {plain(found.name)}; Ctrl-C ends it", err=True)
        left = float("inf") if self.limit is None else self.limit * rate
        with closing(pieces(found, rate)) as sound:
            for piece, lost in sound:
                yield piece[: int(min(left, len(piece)))], lost
                left -= len(piece)
                if left <= 0:
                    return


@dataclass(frozen=True)
class Done:
    """What came of all sources: ``error`` is that of the first that could not be heard."""

    accounts: list[Account]
    error: EdgeDeployError | None
    stopped: bool


class Hearing:
    """Takes sources one after the other."""

    def __init__(self, listener: Listener, voice: Voice, save: Path | None, kept: Kept | None) -> None:
        self._listener, self._voice, self._save, self._kept = listener, voice, save, kept

    def all(self, sources: Sequence[Source], state: StreamState | None) -> Done:
        """Accounts of them; a source that cannot be heard does not stop the others, unless it is the only one."""
        accounts: list[Account] = []
        error: EdgeDeployError | None = None
        for source in sources:
            self._listener.reset()
            try:
                account, stopped = self._one(source, state)
            except EdgeDeployError as failed:
                if len(sources) == 1:
                    raise
                error = error or type(failed)(f"{source.name}: {failed}" if source.name not in str(failed) else failed)
                continue
            finally:
                self._voice.quiet()
            accounts.append(account)
            if stopped:
                return Done(accounts, error, stopped=True)
        return Done(accounts, error, stopped=False)

    def _one(self, source: Source, state: StreamState | None) -> tuple[Account, bool]:
        from edgedeploy.listening import Tally

        self._voice.begin(source.name)
        mark, position = source.mark(), 0
        if state is not None:
            self._listener.resume(state)
            position = _position(state, mark)
            where = f" in {source.name} behind {position} samples" if position else ""
            typer.echo(f"  going on after {self._listener.seconds:.3f} s{plain(where)}", err=True)
        tally, stopped, kept = Tally(self._listener), False, False
        try:
            for piece, lost in _behind(source.pieces(self._listener.task.features.sample_rate), position):
                self._take(tally.push(piece, lost), piece)
                position += len(piece)
                kept = self._save_state(mark, position)
        except KeyboardInterrupt:
            stopped = True
            self._voice.quiet()
            if kept:
                typer.echo(f"  what is known so far is kept: go on with --resume {plain(str(self._save))}", err=True)
        try:
            self._take(tally.finish(), None)
        except UsageError:
            if not stopped:  # else there may be less than an answer takes
                raise
        return tally.account(source.name), stopped

    def _take(self, events: list[Event], piece: Sound | None) -> None:
        if self._kept is not None:
            self._kept.take(events, piece)
        for event in events:
            self._voice.say(event)

    def _save_state(self, mark: str | None, position: int) -> bool:
        """Keep the stream as it is now, where that was asked for."""
        if self._save is None:
            return False
        state = self._listener.save()
        context = {**state.context, "source": {"mark": mark, "position": position}}
        with writable(self._save):
            dataclasses.replace(state, context=context).write(self._save)
        return True


def _position(state: StreamState, mark: str | None) -> int:
    """Samples of this source that were heard before ``state`` was saved; 0 where it was another source."""
    before = state.context.get("source")
    if mark is None or not isinstance(before, dict) or before.get("mark") != mark:
        return 0
    position = before.get("position")
    return position if isinstance(position, int) else 0


def _behind(pieces: Iterator[tuple[Sound, bool]], position: int) -> Iterator[tuple[Sound, bool]]:
    """The pieces without their first ``position`` samples."""
    for piece, lost in pieces:
        skipped = min(position, len(piece))
        position -= skipped
        if skipped < len(piece):
            yield piece[skipped:], lost


class Voice:
    """Says what is heard: lines of JSON on standard output, else a live line and decisions on standard error."""

    def __init__(self, listener: Listener, every: float, as_json: bool) -> None:
        self._listener, self._every, self._json = listener, every, as_json
        self._live = sys.stderr.isatty() and not as_json
        self._source, self._next = "", 0.0

    def begin(self, source: str) -> None:
        self._source, self._next = source, 0.0

    def say(self, event: Event) -> None:
        from edgedeploy.listening import Answer, Decision

        if isinstance(event, Answer):
            at = event.begin + event.waited
            if at >= self._next:
                self._next = at + self._every - 1e-9
                self._answer(event)
        elif self._json:
            kind = "decision" if isinstance(event, Decision) else "utterance"
            line({"event": kind, "source": self._source, **dataclasses.asdict(event)})
        elif isinstance(event, Decision) and self._listener.continuous:
            self._decision(event)

    def quiet(self) -> None:
        """Remove the live line."""
        if self._live:
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()

    def _answer(self, answer: Answer) -> None:
        from edgedeploy.listening import top

        likeliest = top(self._listener.task, answer.scores)
        if self._json:
            times = {key: getattr(answer, key) for key in ("begin", "frames", "rested", "waited")}
            line({"event": "answer", "source": self._source, **times, "top": likeliest})
        elif self._live:
            word, score = likeliest[0]
            bar = "#" * round(20 * score)
            sys.stderr.write(f"\r\x1b[K  {answer.begin + answer.waited:8.2f} s  {score:.2f} {bar:<20} {plain(word)}")
            sys.stderr.flush()

    def _decision(self, one: Decision) -> None:
        self.quiet()
        typer.echo(f"  {one.begin + one.waited:8.2f} s  {plain(one.word)}  {one.score:.2f}", err=True)


class Kept:
    """Keeps what a picture shows: the first `PICTURED` seconds."""

    def __init__(self, listener: Listener) -> None:
        self._threshold = listener.policy.threshold
        self._left = int(PICTURED * listener.task.features.sample_rate)
        self._pieces: list[Sound] = []
        self._answers: list[Answer] = []
        self._decisions: list[Decision] = []

    def take(self, events: list[Event], piece: Sound | None) -> None:
        from edgedeploy.listening import Answer, Decision

        if piece is not None:
            self._pieces += [piece[: self._left]] if self._left else []
            self._left -= min(self._left, len(piece))
        for event in events:
            if isinstance(event, Answer | Decision) and event.begin + event.waited <= PICTURED:
                (self._answers if isinstance(event, Answer) else self._decisions).append(event)  # type: ignore[arg-type]

    def scene(self, source: str) -> Scene:
        """What is kept, as a picture takes it."""
        import numpy as np

        from edgedeploy.report.listening import Scene

        sound = np.concatenate(self._pieces) if self._pieces else np.empty(0, np.float32)
        return Scene(source, sound, tuple(self._answers), tuple(self._decisions), self._threshold)


def line(record: dict[str, Any]) -> None:
    """One line of JSON on standard output, at once."""
    typer.echo(json.dumps(record, ensure_ascii=False))
