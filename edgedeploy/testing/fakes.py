"""Fakes for tests, of this project and of plug-ins: a clock that moves when told, a session that costs what it is told,
a benchmark target that misbehaves on request, and measurements made up from numbers.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np

from edgedeploy.bench.environment import Environment
from edgedeploy.bench.measurement import PARTS, SCHEMA, Conditions, Measurement, Passes, Process
from edgedeploy.bench.target import Job, Target
from edgedeploy.bench.telemetry import Telemetry
from edgedeploy.errors import Incompatible
from edgedeploy.runtime import Outputs
from edgedeploy.tasks.task import Prepared, Task
from edgedeploy.tensors import Array, Signature, TensorSpec

#: What `FakeSession` takes and gives where it is told nothing else.
SIGNATURE = Signature(
    inputs=(TensorSpec("image", "float32", ("batch", 3, 4, 4)),),
    outputs=(TensorSpec("scores", "float32", ("batch", 2)),),
)


class FakeClock:
    """Nanoseconds that pass only by `advance` and `sleep`, and by ``tick`` at each reading. Sleeps end ``late``."""

    def __init__(self, now: int = 0, tick: int = 0, late: int = 0) -> None:
        self.now, self._tick, self._late = now, tick, late
        self.sleeps: list[float] = []

    def __call__(self) -> int:
        """The time, like ``time.perf_counter_ns``."""
        self.now += self._tick
        return self.now

    def advance(self, nanoseconds: int) -> None:
        """Let time pass."""
        self.now += nanoseconds

    def sleep(self, seconds: float) -> None:
        """Let time pass, like ``time.sleep``, and remember it."""
        self.sleeps.append(seconds)
        self.now += round(seconds * 1e9) + self._late


class FakeSession:
    """Gives zeros of the signature's shape. Run number i (from 0) lets ``cost(i)`` nanoseconds of ``clock`` pass."""

    def __init__(
        self,
        clock: FakeClock | None = None,
        cost: Callable[[int], int] = lambda run: 1_000_000,
        signature: Signature = SIGNATURE,
        facts: Mapping[str, str | int | float] | None = None,
    ) -> None:
        self._clock, self._cost, self._signature = clock, cost, signature
        self._facts = dict(facts or {})
        self.runs, self.resets, self.closed = 0, 0, False

    @property
    def facts(self) -> Mapping[str, str | int | float]:
        """As given."""
        return self._facts

    def run(self, inputs: Mapping[str, Array], graph: str = "main") -> Outputs:
        """Zeros, with the first axis of the first input for every dynamic dimension."""
        self._signature.check(inputs)
        if self._clock is not None:
            self._clock.advance(self._cost(self.runs))
        self.runs += 1
        batch = next(iter(inputs.values())).shape[0]
        shapes = {o.name: tuple(batch if isinstance(d, str) else d for d in o.shape) for o in self._signature.outputs}
        return {o.name: np.zeros(shapes[o.name], o.dtype) for o in self._signature.outputs}

    def reset(self) -> None:
        """Count the call."""
        self.resets += 1

    def close(self) -> None:
        """Remember the call."""
        self.closed = True


@dataclass(frozen=True)
class FakeTask(Task[Array]):
    """Hands the sample on as the only input, and the first output back as the result."""

    kind: ClassVar[str] = "fake"

    def prepare(self, sample: Array) -> Prepared:
        """A batch of one."""
        return Prepared((sample[np.newaxis],), context=sample.shape)

    def finish(self, outputs: Any, context: Any) -> Array:
        """The first output."""
        result: Array = outputs[0]
        return result

    def distance(self, reference: Array, result: Array) -> float:
        """0 for equal arrays, else 1."""
        return 0.0 if np.array_equal(reference, result) else 1.0


def fake_target(session: FakeSession, samples: int = 2) -> Target:
    """A target around ``session``, with ``samples`` different samples."""
    return Target(
        name="fake",
        digest="0" * 64,
        backend="fake",
        model_size=1024,
        signature=SIGNATURE,
        task=FakeTask(),
        samples=tuple(np.full((3, 4, 4), i, np.float32) for i in range(samples)),
        load_runtime=lambda: "1.0",
        open=lambda: session,
    )


def load_fake(job: Job) -> Target:
    """A loader for `Job.loader`; the job's option ``behaviour`` says what goes wrong, and when (`Misbehaving`)."""
    behaviour = str(job.options.get("behaviour", ""))
    return fake_target(Misbehaving(behaviour))


class Misbehaving(FakeSession):
    """Does what ``behaviour`` says in its third run; with none, it works."""

    def __init__(self, behaviour: str) -> None:
        super().__init__(facts={"threads": 1})
        self._behaviour = behaviour

    def run(self, inputs: Mapping[str, Array], graph: str = "main") -> Outputs:
        """Zeros, or the end."""
        if self.runs == 2:
            _misbehave(self._behaviour)
        return super().run(inputs, graph)


def _misbehave(behaviour: str) -> None:
    match behaviour:
        case "abort":
            os.write(2, b"vendor: assertion failed in kernel\n")
            os.abort()
        case "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        case "hang":
            os.write(2, b"vendor: waiting for the device\n")
            time.sleep(3600)
        case "exit":
            os._exit(7)
        case "raise":
            raise RuntimeError("vendor: out of handles")
        case "refuse":
            raise Incompatible("This model wants another device.")
        case "print":
            print("vendor: hello from Python")
            sys.stdout.flush()
            os.write(1, b'{"event": "result", "answer": "forged"}\nvendor: hello from C, no newline')
        case "":
            pass
        case _:
            raise ValueError(f"There is no behaviour '{behaviour}'.")


def fake_passes(compute: Sequence[int]) -> Passes:
    """Passes of these compute times in nanoseconds; the other two parts take 1000 each."""
    return Passes((1000,) * len(compute), tuple(compute), (1000,) * len(compute))


def fake_process(compute: Sequence[int], **changed: Any) -> Process:
    """A quiet, steady process with these compute times in nanoseconds; ``changed`` fields replace the made-up ones."""
    telemetry = Telemetry(
        wall=3.0,
        resolution=5e-8,
        memory_before=50_000_000,
        memory_peak=80_000_000,
        processor=2.9,
        involuntary_switches=12,
        foreign=0.01,
        steal=0.0,
        pressure=0.0,
    )
    made = Process(
        start=0.2,
        runtime_import=0.1,
        load=0.05,
        first=fake_passes([40_000_000]),
        warmup=fake_passes([30_000_000] * 15),
        steady=True,
        samples=fake_passes(compute),
        telemetry=telemetry,
        facts={"threads": 1},
    )
    return replace(made, **changed)


def fake_environment(**changed: Any) -> Environment:
    """A machine that does not exist; ``changed`` fields replace the made-up ones."""
    made = Environment(
        machine="0123456789ab",
        board=None,
        cpu="Some CPU",
        isa=("avx2", "fma"),
        cores=4,
        affinity=(0, 1, 2, 3),
        cpu_limit=None,
        governor="performance",
        turbo=False,
        memory=8 << 30,
        system="Some Linux",
        kernel="6.1",
        hosted=None,
        python="3.11.7",
        runtime="1.0",
        packages={"numpy": "2.0"},
        load_average=(0.1, 0.2, 0.3),
    )
    return replace(made, **changed)


def fake_measurement(
    *processes: Process, before: Environment | None = None, after: Environment | None = None, **changed: Any
) -> Measurement:
    """A measurement without a doubt of three processes, or of those given; ``changed`` are its conditions."""
    made = Conditions(
        name="net",
        digest="d" * 64,
        model_size=1024,
        backend="fake",
        options={},
        threads=1,
        graph="main",
        batch=1,
        inputs={"image": (1, 3, 64, 64)},
        sample_count=2,
        sample_shape=(48, 64, 3),
        includes=PARTS,
        duration=10.0,
    )
    first = before or fake_environment()
    return Measurement(
        schema=SCHEMA,
        created="2025-01-01T00:00:00+00:00",
        conditions=replace(made, **changed),
        environment=first,
        environment_after=after or first,
        processes=processes or tuple(fake_process([20_000_000] * 200) for _ in range(3)),
    )


class FakeSteps:
    """Passes that take what they are told: pass i computes for ``cost(i)`` nanoseconds of ``clock``."""

    def __init__(
        self, clock: FakeClock, cost: Callable[[int], int], prepare: int = 0, finish: int = 0, batch: int = 1
    ) -> None:
        self.clock, self.cost, self.around, self.batch = clock, cost, (prepare, finish), batch
        self.seen: list[int] = []

    def prepare(self, index: int) -> int:
        """Remember the index."""
        self.seen.append(index)
        self.clock.advance(self.around[0])
        return index

    def compute(self, ready: int) -> int:
        """The index again."""
        self.clock.advance(self.cost(ready))
        return ready

    def finish(self, ready: int, outputs: int) -> None:
        """Both are the same index."""
        assert ready == outputs
        self.clock.advance(self.around[1])


def fake_times(count: int, seed: int, spread: float = 0.05, outliers: float = 0.01) -> tuple[int, ...]:
    """Nanoseconds of an undisturbed run around 20 ms: log-normal, and a share of passes that take longer by chance."""
    draw = np.random.default_rng(seed)
    times = 20e6 * np.exp(draw.normal(0, spread, count))
    late = draw.random(count) < outliers
    times[late] *= 1.5 + draw.exponential(1.0, int(late.sum()))
    return tuple(int(value) for value in times)
