"""Words in a stream of sound: one to a clip, or as they come.

A *clip* is one utterance: its answer is that at the end, and the decision before it is noted on the way. In
*continuous* listening, to a microphone or a long recording, utterances follow one another. The read-out of the network
is the mean of all frames of the utterance and never forgets, so each begins afresh: at the first sound that is loud
enough, and it ends with a decision, or undecided after as many frames as the network takes at once. What is said across
such an end is cut.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from edgedeploy.errors import UsageError
from edgedeploy.listening.events import Answer, Decision, Event, Utterance
from edgedeploy.listening.policy import Decider, Policy, Scores
from edgedeploy.records import from_json, to_json
from edgedeploy.stream import Stream, StreamState
from edgedeploy.tasks.keywords import Heard, Keywords, mono

Sound = npt.NDArray[np.float32]

#: An utterance whose loudest sample is below this share of full scale (-60 dB) is silence.
SILENCE = 1e-3
#: Seconds before the onset of an utterance that belong to it: words begin more softly than they go on.
LEAD = 0.1
#: Words told of an utterance, likeliest first.
TOP = 3

_NOTHING: Sound = np.empty(0, np.float32)


class Listener:
    """Listens to one stream of sound.

    Args:
        stream: of a keyword model; it is the listener's own from here on.
        policy: when scores become a decision.
        continuous: many utterances, and not one.

    Raises:
        UsageError: the stream is not one of sound.
    """

    def __init__(self, stream: Stream[Heard], policy: Policy | None = None, continuous: bool = False) -> None:
        if not isinstance(stream.task, Keywords):
            raise UsageError(f"A model for the task '{stream.task.kind}' does not listen: give a keyword model.")
        self.stream, self.policy, self.continuous = stream, policy or Policy(), continuous
        self.task: Keywords = stream.task
        self._features = self.task.features
        self._decision: Decision | None = None
        self._last: Answer | None = None
        self.reset()

    @property
    def samples(self) -> int:
        """Of sound that were pushed since `reset`."""
        return self._taken + len(self._rest)

    @property
    def seconds(self) -> float:
        """The same in seconds."""
        return self.samples / self._features.sample_rate

    def reset(self) -> None:
        """Forget all: the next sound begins another stream."""
        self._taken, self._rest, self._ended = 0, _NOTHING, False
        self._fresh()

    def push(self, sound: Sound) -> list[Event]:
        """What the next piece brings, in order: float32 (n,) mono at the task's rate, in -1 to 1.

        Raises:
            UsageError: it is not such a piece, or the stream has ended.
            RunFailed: the runtime gave up.
        """
        self._check_open()
        sound = mono(sound, self._features.sample_rate, self.samples)
        if not self.continuous:
            return self._take(sound)
        sound, hop = np.concatenate([self._rest, sound]), self._features.step
        whole = len(sound) // hop * hop
        events = []
        for at in range(0, whole, hop):
            self._rest = sound[at + hop :]
            events += self._take(sound[at : at + hop])
        self._rest = sound[whole:].copy()
        return events

    def finish(self) -> list[Event]:
        """What the end of the stream brings; its last is an `Utterance`, unless nothing was under way.

        Raises:
            UsageError: a clip was too short for any answer, or the stream has ended already.
            RunFailed: the runtime gave up.
        """
        self._check_open()
        rest, self._rest = self._rest, _NOTHING
        events = self._take(rest)
        self._ended = True
        if self._waiting:
            return events
        events += self._answered(self.stream.finish())
        if self._waiting:  # the last answers have ended it
            return events
        if self._last is None and not self.continuous:
            window = self._features.window / self._features.sample_rate
            raise UsageError(f"{self.seconds:.3g} s of sound are too short for an answer: a frame takes {window:g} s.")
        return events if self._last is None else [*events, self._utterance(self._last)]

    def save(self) -> StreamState:
        """What `resume` goes on from.

        Raises:
            UsageError: the stream has ended.
            Unavailable: see `Stream.save`.
        """
        held = {"rest": self._rest.tolist(), "lead": self._lead.tolist()}
        counts = {"taken": self._taken, "begin": self._begin, "skip": self._skip}
        last = None if self._last is None else {**to_json(self._last), "scores": self._last.scores.tolist()}
        said = {"decision": to_json(self._decision), "last": last, "decider": self._decider.save(), "peak": self._peak}
        kind = {"continuous": self.continuous, "waiting": self._waiting}
        return self.stream.save({"listener": {**held, **counts, **said, **kind}})

    def resume(self, state: StreamState) -> None:
        """Go on where ``state`` was saved; the policy is that of this listener.

        Raises:
            Incompatible: it is the state of another bundle.
            UsageError: it does not fit, or is not that of a listener of this kind.
            Unavailable: see `Stream.resume`.
        """
        try:
            saved: dict[str, Any] = state.context["listener"]
            if saved["continuous"] is not self.continuous:
                kinds = {True: "continuous listening", False: "a single clip"}
                raise UsageError(
                    f"The saved state is of {kinds[bool(saved['continuous'])]}, and this is {kinds[self.continuous]}."
                )
            rest, lead = (np.asarray(saved[name], np.float32).reshape(-1) for name in ("rest", "lead"))
            taken, begin, skip = (int(saved[name]) for name in ("taken", "begin", "skip"))
            waiting, peak, last = bool(saved["waiting"]), float(saved["peak"]), saved["last"]
            decision = saved["decision"] and from_json(Decision, saved["decision"], "the saved decision")
            answer = last and Answer(**{**last, "scores": np.asarray(last["scores"], np.float32)})
            decider = Decider(self.policy, self.task.frames)
            decider.restore(saved["decider"])
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise UsageError("The saved state is not that of listening for words.") from error
        self.stream.resume(state)
        self._taken, self._rest, self._ended = taken, rest, False
        self._begin, self._skip, self._waiting, self._lead = begin, skip, waiting, lead
        self._decision, self._last, self._decider, self._peak = decision, answer, decider, peak

    def _check_open(self) -> None:
        if self._ended:
            raise UsageError("The stream has ended: reset the listener, and the next sound begins another.")

    def _fresh(self, skip: int = 0) -> None:
        """The next sound belongs to another utterance, but for so many samples that belong to none."""
        self.stream.reset()
        self._begin, self._skip, self._waiting, self._lead = self._taken, skip, self.continuous, _NOTHING
        self._decider, self._peak = Decider(self.policy, self.task.frames), 0.0
        self._decision = self._last = None

    def _take(self, sound: Sound) -> list[Event]:
        """The next piece; in continuous listening at most a hop."""
        self._taken += len(sound)
        loudest = float(np.abs(sound).max(initial=0.0))
        if self._skip > 0:
            self._skip -= len(sound)
            return []
        if self._waiting:
            lead = round(LEAD * self._features.sample_rate) + self._features.step
            self._lead = np.concatenate([self._lead, sound])[-lead:]
            if loudest < self.policy.onset:
                return []
            sound, self._waiting = self._lead, False
            self._begin = self._taken - len(sound)
        self._peak = max(self._peak, loudest)
        return self._answered(self.stream.push(sound))

    def _answered(self, answers: Sequence[Heard]) -> list[Event]:
        events: list[Event] = []
        for heard in answers:
            self._last = answer = self._answer(heard)
            events.append(answer)
            found = None if self._decision else self._decider.take(answer.scores, answer.frames)
            if found:
                self._decision = self._decided(answer, *found)
                events.append(self._decision)
            if self.continuous and (found or answer.frames >= self.task.frames):
                events.append(self._utterance(answer))
                self._fresh(round(self.policy.refractory * self._features.sample_rate) if found else 0)
                break
        return events

    def _answer(self, heard: Heard) -> Answer:
        fbank, had = self._features, self._taken - self._begin
        rested, waited = (
            min(fbank.samples(heard.frames + ahead), had) / fbank.sample_rate for ahead in (0, self.task.lookahead)
        )
        return Answer(self._begin / fbank.sample_rate, heard.frames, rested, waited, heard.scores)

    def _decided(self, answer: Answer, word: int, score: float) -> Decision:
        return Decision(self.task.labels[word], score, answer.begin, answer.frames, answer.rested, answer.waited)

    def _utterance(self, answer: Answer) -> Utterance:
        seconds = (self._taken - self._begin) / self._features.sample_rate
        return Utterance(
            answer.begin, seconds, answer.frames, top(self.task, answer.scores), self._decision, self._peak,
            tuple(self._doubts(answer)),
        )  # fmt: skip

    def _doubts(self, answer: Answer) -> list[str]:
        doubts = []
        if self._peak < SILENCE:
            doubts.append(f"silence: the loudest sample is {self._peak:.2g} of full scale, below {SILENCE:g}.")
        if answer.frames > self.task.frames:
            doubts.append(
                f"{answer.frames} frames, and the network takes {self.task.frames} at once: the answer is the mean over"
                " all of it. For several words in one recording, listen continuously."
            )
        return doubts


def top(task: Keywords, scores: Scores, count: int = TOP) -> tuple[tuple[str, float], ...]:
    """The ``count`` likeliest words and their scores, likeliest first; the first label first among equals."""
    order = np.argsort(-scores, kind="stable")[:count]
    return tuple((task.labels[i], float(scores[i])) for i in order)
