"""What native runners print, and what it says: the runners that this project knows, and how any output is read.

A number is taken from where the runner's description says it stands, or not at all: nothing is guessed, and output of
which the times do not add up to the passes that were asked for is refused.
"""

from __future__ import annotations

import math
import re
import statistics
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from edgedeploy.errors import RunFailed, UsageError
from edgedeploy.fate import last_words
from edgedeploy.parts import SIZES, TIMES, Line, Reads, Runner, places

#: Seconds that no single time of a runner is above: more is another number taken for a time.
LONGEST = 1e6

_NUMBER = r"\d+(?:\.\d+)?(?:[eE][+-]?\d{1,3})?"
_VALUE = rf"(?P<value>{_NUMBER})"

#: The runners of `edgedeploy.parts.RUNNERS`, described.
KNOWN: Mapping[str, Runner] = {
    runner.name: runner
    for runner in (
        Runner(
            name="executor_runner",
            runtime="executorch",
            command=(
                "{runner} --model_path={model} --num_executions={passes}[ --cpu_threads={threads}]"
                "[ --method_name={method}]"
            ),
            reads=Reads(
                each=Line(rf"Iteration \d+ of \d+: {_VALUE} ms", "ms"),
                total=Line(rf"Model executed successfully (?P<count>\d+) time\(s\) in {_VALUE} ms", "ms"),
                load=Line(rf"Model loaded in {_VALUE} ms", "ms"),
            ),
            log="ExecuTorch",
            source="ExecuTorch, examples/portable/executor_runner; runtime/platform/default/android.cpp for the log",
        ),
        Runner(
            name="onnxruntime_perf_test",
            runtime="onnxruntime",
            command="{runner} -I -S 1 -m times -r {passes}[ -x {threads}][ {dims}] {model} {result}",
            reads=Reads(
                each=Line(rf"^[^,\n]*,{_VALUE},\d+,-?\d+,\d+$", "s"),
                load=Line(rf"Session creation time cost: ?{_VALUE} s", "s"),
                first=Line(rf"First inference time cost: ?{_VALUE} ms", "ms"),
                memory=Line(rf"Peak working set size: ?{_VALUE} bytes", "B"),
            ),
            source="ONNX Runtime, onnxruntime/test/perftest (README.md, performance_runner.cc)",
        ),
        Runner(
            name="benchmark_model",
            runtime="litert",
            command=(
                "{runner} --graph={model}[ --num_threads={threads}] --warmup_runs=1 --warmup_min_secs=0 "
                "--num_runs={passes} --min_secs=0 --max_secs={limit} --report_peak_memory_footprint=true"
            ),
            reads=Reads(
                mean=Line(
                    r"count=(?P<count>\d+)[^\n]*\n(?:(?!.*count=)[^\n]*\n)*?"
                    rf"[^\n]*Inference timings in us: [^\n]*Inference \(avg\): {_VALUE}",
                    "us",
                ),
                load=Line(rf"Inference timings in us: Init: {_VALUE},", "us"),
                first=Line(rf"First inference: {_VALUE},", "us"),
                memory=Line(rf"Overall peak memory footprint \(MB\) via periodic monitoring: {_VALUE}", "MiB"),
            ),
            source="LiteRT, tflite/tools/benchmark (README.md, benchmark_model.cc)",
        ),
        Runner(
            name="edgedeploy_runner",
            runtime="executorch",
            command=(
                "{runner} {model} --passes {passes}[ --threads {threads}][ --method {method}][ --shapes {shapes}]"
            ),
            reads=Reads(
                each=Line(rf'"pass": \d+, "nanoseconds": {_VALUE}\b', "ns"),
                load=Line(rf'"load": {_VALUE}\b', "ns"),
                memory=Line(rf'"peak memory": {_VALUE}\b', "B"),
            ),
            source="this project, exporters/edgedeploy_executorch/runner.cpp",
        ),
    )
}


@dataclass(frozen=True)
class Output:
    """What one run of a runner told, in seconds and bytes; ``None`` is not told.

    Args:
        each: the passes, one by one; empty where only their mean is told.
        mean: mean of ``count`` passes.
        count: passes that were made.
        first: the first pass of the process; of those in ``each`` and in ``mean`` it is none where told apart.
        resolution: the step in which the times are told.
    """

    each: tuple[float, ...]
    mean: float
    count: int
    load: float | None
    first: float | None
    memory: int | None
    resolution: float


def described(runner: Runner) -> Runner:
    """``runner`` with the command and the reading of the known one of its name, where it has none of its own."""
    if runner.reads is not None:
        return runner
    known = KNOWN[runner.name]
    return replace(runner, command=known.command, reads=known.reads, log=runner.log or known.log)


def fill(runner: Runner, values: Mapping[str, str | None]) -> str:
    """The command of ``runner`` with each of `PLACES` replaced; a part in brackets goes where a value is ``None``.

    Raises:
        UsageError: a value that the command needs is ``None``.
    """

    def optional(found: re.Match[str]) -> str:
        part = found[1]
        return part if all(values.get(name) is not None for name in places(part, runner.name)) else ""

    command = re.sub(r"\[([^\[\]]*)\]", optional, runner.command)
    for name in sorted(places(command, runner.name)):
        if values.get(name) is None:
            raise UsageError(f"The command of {runner.name} needs '{{{name}}}', which is not given.")
    return command.format(**values)


def read(text: str, reads: Reads, passes: int) -> Output:
    """What ``text`` tells of a run that was asked for ``passes`` passes.

    Raises:
        RunFailed: it tells no time of a pass, a number that is none, or of another number of passes.
    """
    load, first = _one(text, reads.load, TIMES), _one(text, reads.first, TIMES)
    memory = _one(text, reads.memory, SIZES)
    if reads.first is not None and first is None:
        raise _unreadable("tells nothing of its first pass", text)
    told = _matches(text, reads.each)
    if told:
        assert reads.each is not None
        times = [_number(match["value"], reads.each, TIMES, text) for match in told]
        steps = [_step(match["value"], reads.each) for match in told]
        found = (tuple(times), math.fsum(times) / len(times), len(times), statistics.median(steps))
    else:
        found = ((), *_together(text, reads))
    each, mean, count, resolution = found
    if count != passes:
        raise _unreadable(f"tells of {count} passes instead of {passes}", text)
    if mean <= 0 or min(each, default=mean) <= 0:
        raise _unreadable("tells that a pass took no time at all: its clock is too coarse for this graph", text)
    return Output(each, mean, count, load, first, None if memory is None else round(memory), resolution)


def _together(text: str, reads: Reads) -> tuple[float, int, float]:
    """Mean, passes and resolution, of a runner that tells all passes at once."""
    cases: tuple[tuple[Line | None, Callable[[int], int]], ...] = (
        (reads.total, lambda count: count),
        (reads.mean, lambda count: 1),
    )
    for line, divisor in cases:
        told = _matches(text, line)
        if line is not None and told:
            match = told[-1]
            count = _whole(match["count"], text)
            by = divisor(count)
            return _number(match["value"], line, TIMES, text) / by, count, _step(match["value"], line) / by
    raise _unreadable("tells no time of a pass", text)


def _matches(text: str, line: Line | None) -> list[re.Match[str]]:
    return [] if line is None else list(re.finditer(line.pattern, text, re.MULTILINE))


def _one(text: str, line: Line | None, units: Mapping[str, float]) -> float | None:
    """The last that is told of a quantity."""
    told = _matches(text, line)
    return None if line is None or not told else _number(told[-1]["value"], line, units, text)


def _number(value: str | None, line: Line, units: Mapping[str, float], text: str) -> float:
    if value is None or not re.fullmatch(_NUMBER, value, re.ASCII):
        raise _unreadable(f"has '{value}' where a number should be", text)
    number = float(value) * units[line.unit]
    if not math.isfinite(number) or (units is TIMES and number > LONGEST) or number >= 2**63:
        raise _unreadable(f"has '{value} {line.unit}' where no such number can be", text)
    return number


def _whole(value: str | None, text: str) -> int:
    if value is None or not re.fullmatch(r"[1-9]\d{0,15}", value, re.ASCII):
        raise _unreadable(f"has '{value}' where a number of passes should be", text)
    return int(value)


def _step(value: str, line: Line) -> float:
    """The smallest difference that a number told like ``value`` can show, in seconds."""
    digits, _, exponent = value.lower().partition("e")
    power = int(exponent or 0) - len(digits.partition(".")[2])
    return float(f"1e{max(-300, min(300, power))}") * TIMES[line.unit]


def _unreadable(what: str, text: str) -> RunFailed:
    return RunFailed(f"The runner's output {what}. {last_words(text)}")
