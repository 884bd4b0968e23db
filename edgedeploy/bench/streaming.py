"""Passes through a stream: each of them is one step of the graph, and the host's work for it.

The samples are strung together into one stream without an end, and neither the host's side nor the state of the graph
is reset in between: what is measured is a device that listens all day.
"""

from __future__ import annotations

from collections import deque
from typing import Any

import numpy as np

from edgedeploy.bench.sampling import BatchSteps, Ready
from edgedeploy.bench.target import Target
from edgedeploy.errors import UsageError
from edgedeploy.runtime import Outputs, Session
from edgedeploy.tensors import Array


class StreamSteps:
    """Passes of one frame each: a hop of the stream to features, one step of the graph, its outputs to an answer.

    What comes before the first frame is complete is fed when this is made, so that every pass is alike.
    """

    batch = 1

    def __init__(self, target: Target, session: Session) -> None:
        frames = target.frames
        if frames is None:
            raise UsageError(f"The graph '{target.graph}' of {target.name} takes samples one by one, and no stream.")
        sound = _strung(target)
        self._task, self._session, self._graph = target.task, session, target.graph
        self._inputs = tuple(spec.name for spec in target.signature.inputs)
        self._outputs = tuple(spec.name for spec in target.signature.outputs)
        self._hop, self._length, self._at = frames.hop, len(sound), 0
        # what begins before the end goes on at the begin: a piece is a view, wherever it lies
        self._sound = np.resize(sound, len(sound) + max(frames.hop, frames.before))
        self._feed = self._task.feed()
        self._due = deque(self._feed.push(self._next(frames.before)))

    def prepare(self, index: int) -> Ready:
        """The tensors of the next frame, whatever ``index`` is: a stream has an order."""
        while not self._due:
            self._due.extend(self._feed.push(self._next(self._hop)))
        return Ready(dict(zip(self._inputs, self._due.popleft(), strict=True)), ())

    def compute(self, ready: Ready) -> Outputs:
        """One step of the graph; its state is carried by the session."""
        return self._session.run(ready.inputs, self._graph)

    def finish(self, ready: Ready, outputs: Outputs) -> Any:
        """What is known after the step."""
        return self._task.heard([outputs[name] for name in self._outputs])

    def _next(self, count: int) -> Array:
        piece = self._sound[self._at : self._at + count]
        self._at = (self._at + count) % self._length
        return piece


def _strung(target: Target) -> Array:
    """All samples, one after the other."""
    for sample in target.samples:
        if sample.ndim != 1:
            shape = "x".join(map(str, sample.shape))
            raise UsageError(f"A sample of {target.name} has the shape {shape}: a stream has one channel.")
    sound: Array = np.concatenate(target.samples)
    if not len(sound):
        raise UsageError(f"The {len(target.samples)} samples of {target.name} are empty; give a folder of real ones.")
    return sound


def steps_of(target: Target, session: Session, batch: int = 1) -> BatchSteps | StreamSteps:
    """The passes that the graph of ``target`` is made of: frames of a stream where it takes one, else batches.

    Raises:
        UsageError: the samples are none of a stream.
    """
    if target.frames is not None:
        return StreamSteps(target, session)
    return BatchSteps(target, session, target.graph, batch)
