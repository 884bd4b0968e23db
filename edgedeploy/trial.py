"""What one backend can do on this machine, found out by doing it: load it, export a tiny network, open that, run it.

``python -m edgedeploy.trial NAME`` writes one JSON object per line to standard output: ``{"step": ...}`` when a step
begins, ``{"finding": ..., ...}`` when it is over. A vendor's library that crashes, hangs or prints takes only that
process with it; `look` starts it and makes findings of whatever becomes of it.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Literal, cast

from edgedeploy import fate, inherit, plugins
from edgedeploy.errors import EdgeDeployError, Unavailable, UsageError

if TYPE_CHECKING:
    from edgedeploy.device import Device

#: ``loads``: its library can be imported, and there was nothing to try it on.
State = Literal["ok", "emulated", "loads", "missing", "failed", "none"]
#: What is tried, in this order; the columns of ``edgedeploy doctor``.
STEPS = ("export", "build", "run")
#: What this module is started with besides names, and the last that it says.
QUICK, READERS, DONE = "--quick", "--readers", {"done": True}
#: Started side by side at most: vendors' libraries are large, and boards are small.
AT_ONCE = 2


@dataclass(frozen=True)
class Finding:
    """How one step went; ``said`` is empty where there is nothing to say."""

    state: State
    said: str = ""


@dataclass(frozen=True)
class Tried:
    """What was found about one backend: the version of its library, and each of `STEPS`."""

    name: str
    version: str = ""
    export: Finding = Finding("none")
    build: Finding = Finding("none")
    run: Finding = Finding("none")


@dataclass(frozen=True)
class Reader:
    """Whether the reader of one format of checkpoints can be imported."""

    name: str
    found: Finding


@dataclass(frozen=True)
class Look:
    """What works here: backends, and readers of checkpoints."""

    backends: tuple[Tried, ...]
    readers: tuple[Reader, ...]


def look(names: Sequence[str], limit: float, quick: bool = False) -> Look:
    """Try every backend, and import every reader of checkpoints, in processes of their own, `AT_ONCE` at a time.

    Args:
        names: of exporters and runtimes.
        limit: seconds that one process may take.
        quick: only import what a backend needs.
    """
    return asyncio.run(_look(names, limit, quick))


async def _look(names: Sequence[str], limit: float, quick: bool) -> Look:
    turn = asyncio.Semaphore(AT_ONCE)

    async def backend(name: str) -> Tried:
        async with turn:
            return await _try(name, limit, quick)

    async def readers() -> tuple[Reader, ...]:
        async with turn:
            return await _readers(limit)

    *tried, read = await asyncio.gather(*(backend(name) for name in names), readers())
    return Look(tuple(one for one in tried if isinstance(one, Tried)), cast("tuple[Reader, ...]", read))


async def _readers(limit: float) -> tuple[Reader, ...]:
    found: dict[str, Finding] = {}

    def hear(event: Mapping[str, Any]) -> None:
        if "reader" in event:
            found[event["reader"]] = Finding(event["state"], event["said"])

    names = plugins.names(plugins.CHECKPOINTS)
    why = await _listen([READERS], limit, hear)
    lost = Finding("failed", f"The process that imported it {why}.")
    return tuple(Reader(name, found.get(name, lost)) for name in names)


async def _try(name: str, limit: float, quick: bool) -> Tried:
    result, step = Tried(name), "load"

    def hear(event: Mapping[str, Any]) -> None:
        nonlocal result, step
        if "step" in event:
            step = str(event["step"])
        elif "version" in event:
            result = replace(result, version=str(event["version"]))
        elif event.get("finding") in STEPS:
            result = _with(result, {event["finding"]: Finding(event["state"], event["said"])})

    why = await _listen([name, *([QUICK] if quick else [])], limit, hear)
    return _died(result, step, why) if why else result


async def _listen(arguments: Sequence[str], limit: float, hear: Callable[[Mapping[str, Any]], None]) -> str:
    """Run this module with ``arguments`` and hand on its events; why it ended before it was done, if it did."""
    kills = fate.out_of_memory_kills()
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-P", "-m", "edgedeploy.trial", *arguments),
        env=inherit.environment(OMP_NUM_THREADS="1"),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
        limit=1 << 20,
        start_new_session=True,  # it can be ended with everything that it has started
    )
    assert process.stdout is not None
    done = late = False
    try:
        async with asyncio.timeout(limit):
            async for line in process.stdout:
                with contextlib.suppress(ValueError):  # somebody's print
                    event = json.loads(line)
                    done = event == DONE
                    hear(event)
            await process.wait()
    except TimeoutError:
        late = True
    finally:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
        await process.wait()
    if done:
        return ""
    return f"gave no answer within {limit:g} s" if late else fate.cause(process.returncode or 0, kills)


def _died(result: Tried, step: str, why: str) -> Tried:
    """The step that it died in failed, and those after it were not tried."""
    doing = {"load": "while it was imported", "export": "while it exported", "build": "while it opened an export"}
    failed = Finding("failed", f"The process {why} {doing.get(step, 'while it ran')}.")
    if step == "load":
        return _with(result, dict.fromkeys(STEPS, failed))
    return _with(result, dict.fromkeys(("build", "run") if step == "build" else (step,), failed))


def _with(result: Tried, findings: Mapping[str, Finding]) -> Tried:
    return replace(result, **cast("dict[str, Any]", findings))


# In the process that tries


def main(arguments: Sequence[str]) -> None:
    """Try what ``arguments`` name and tell each finding."""
    with _own_output() as output, tempfile.TemporaryDirectory(prefix="edgedeploy-trial-") as folder:
        backend = _findings(arguments[0], Path(folder), QUICK in arguments)
        for said in _read() if arguments[0] == READERS else backend:
            output.write(json.dumps(said) + "\n")
            output.flush()
        output.write(json.dumps(DONE) + "\n")


def _read() -> Iterator[Mapping[str, Any]]:
    for name in plugins.names(plugins.CHECKPOINTS):
        try:
            plugins.find(plugins.CHECKPOINTS, name)
            found = Finding("ok")
        except Exception as error:
            found = _finding(error)
        yield {"reader": name, "state": found.state, "said": found.said}


@contextlib.contextmanager
def _own_output() -> Iterator[IO[str]]:
    """Standard output for us alone; what libraries print there goes to standard error."""
    with os.fdopen(os.dup(1), "w", encoding="utf-8") as stream:
        os.dup2(2, 1)
        yield stream


def _findings(name: str, folder: Path, quick: bool) -> Iterator[Mapping[str, Any]]:
    runtime: Any = None
    loaded = Finding("none")
    try:
        runtime = plugins.find(plugins.RUNTIMES, name)
        yield {"version": runtime.version()}
        runtime.preload()
        loaded = Finding("loads")
    except Exception as error:
        loaded = _finding(error)
    yield _said("run", loaded)
    yield {"step": "export"}
    artifact = None
    try:
        exporter = plugins.find(plugins.EXPORTERS, name)
        if quick:
            _torch()
            yield _said("export", Finding("loads"))
        else:
            artifact, target = _exported(name, exporter, folder)
            yield _said("export", Finding("ok", target))
    except Exception as error:
        yield _said("export", _finding(error))
    if artifact is None or loaded.state != "loads":
        yield _said("build", Finding("none") if loaded.state in ("loads", "none") else loaded)
        return
    yield {"step": "build"}
    session: Any = None
    try:
        session = runtime(threads=1).open(artifact.files, artifact.signatures)
        yield _said("build", Finding("ok"))
        yield {"step": "run"}
        _run(session, artifact)
        emulated = session.facts.get("emulated")
        for step in ("build", "run") if emulated else ("run",):
            yield _said(step, Finding("emulated", f"{emulated}") if emulated else Finding("ok"))
    except Exception as error:
        for step in ("build", "run") if session is None else ("run",):
            yield _said(step, _finding(error))


def _said(step: str, finding: Finding) -> Mapping[str, Any]:
    return {"finding": step, "state": finding.state, "said": finding.said}


def _finding(error: Exception) -> Finding:
    line = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
    state: State = "missing" if isinstance(error, (Unavailable, ImportError)) else "failed"
    return Finding(state, line if isinstance(error, EdgeDeployError) else f"{type(error).__name__}: {line[:200]}")


def _torch() -> Any:
    try:
        import torch
    except ImportError as error:
        raise Unavailable.extra("torch, which captures networks,", "export") from error
    return torch


def _exported(name: str, exporter: Any, folder: Path) -> tuple[Any, str]:
    """A bundle for this machine; where an exporter only writes for a device, for the first that prefers it."""
    from edgedeploy import device

    try:
        return _export(exporter, None, folder), ""
    except UsageError:
        profiles = (device.load(known) for known in device.names())
        profile = next((p for p in profiles if name in {p.backend, *(r.name for r in p.runtimes)}), None)
        if profile is None:
            raise
        return _export(exporter, profile, folder), f"for {profile.name}"


def _export(exporter: Any, profile: Device | None, folder: Path) -> Any:
    """A bundle of a network of one convolution, in the first precision that needs no calibration."""
    import numpy as np

    from edgedeploy.exporter import Evidence, Request, export
    from edgedeploy.model import Graph, Model, Source
    from edgedeploy.tensors import Signature, TensorSpec

    torch = _torch()
    torch.manual_seed(0)
    network = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3, padding=1), torch.nn.ReLU()).eval().requires_grad_(False)
    shape = (1, 3, 16, 16)
    signature = Signature((TensorSpec("x", "float32", shape),), (TensorSpec("y", "float32", (1, 8, 16, 16)),))
    model = Model("trial", {"main": Graph(network, signature)}, Source("trial", "factory", "0" * 64))
    precision = next(p for p in (*exporter.precisions, "fp32") if p != "int8")
    samples = [np.random.default_rng(0).random(shape, np.float32)]
    request = Request(exporter.for_device(profile, precision, {}), Evidence(samples, "random inputs"), device=profile)
    return export(model, request, folder)


def _run(session: Any, artifact: Any) -> None:
    from edgedeploy.tensors import random_input

    spec = artifact.signatures["main"].inputs[0]
    session.run({spec.name: random_input(spec, {}, seed=0)})
    session.close()


if __name__ == "__main__":
    main(sys.argv[1:])
