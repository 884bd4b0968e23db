"""From a graph and its plan to an engine, on the device that it runs on.

``python -m edgedeploy_tensorrt.build BUNDLE`` does it before the first run, which would otherwise wait for it.
"""

from __future__ import annotations

import dataclasses
import hashlib
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from packaging.specifiers import SpecifierSet

from edgedeploy.archive import open_artifact
from edgedeploy.errors import EdgeDeployError, RunFailed, Unavailable
from edgedeploy.model import file_digest
from edgedeploy.records import canonical, to_json
from edgedeploy_tensorrt import api
from edgedeploy_tensorrt import plan as plans
from edgedeploy_tensorrt.api import Library, Refused
from edgedeploy_tensorrt.cache import Cache, Key, Made, default_root
from edgedeploy_tensorrt.cuda import Gpu, open_cuda
from edgedeploy_tensorrt.plan import Plan

#: Names under which requirements speak of a TensorRT.
DISTRIBUTIONS = {"tensorrt": "tensorrt", "rtx": "tensorrt-rtx"}


@dataclass(frozen=True)
class Engine:
    """An engine that fits this machine: its bytes, and how it came here (``built``, ``kept`` or ``ahead``)."""

    data: bytes
    origin: str
    seconds: float = 0.0
    fallen_back: tuple[str, ...] = ()


def unfit(plan: Plan, library: Library, gpu: Gpu) -> list[str]:
    """Sentences for what the plan requires and this machine is not."""
    name, found = DISTRIBUTIONS[plan.flavour], []
    for requirement in plan.requires:
        versions = requirement.removeprefix(name)
        if requirement.startswith("sm=") and requirement != f"sm={gpu.sm}":
            found.append(f"it is for a GPU with {requirement}, and the one here, {gpu.name}, has sm={gpu.sm}")
        if versions[:1] in ("<", ">", "=", "!", "~") and library.version not in SpecifierSet(versions, True):
            found.append(f"it needs {requirement}, and here is {library.title}")
    return found


def engine(
    graph: Path, plan: Plan, library: Library, gpu: Gpu, say: Callable[[str], None], cache: Cache | None = None
) -> Engine:
    """The engine of ``graph`` for this machine: built at export, kept from an earlier run, or built now.

    Raises:
        Unavailable: the plan is for another TensorRT or GPU, or engines cannot be kept.
        RunFailed: TensorRT cannot build it.
    """
    wrong = unfit(plan, library, gpu)
    if wrong:
        raise Unavailable(f"{graph.name} cannot be built on this machine: {'; '.join(wrong)}. Export it for this one.")
    for made in plan.ahead:
        if made.sm == gpu.sm and made.library == library.version and (graph.parent / made.file).is_file():
            return Engine((graph.parent / made.file).read_bytes(), "ahead")
    kept = cache or Cache(default_root())
    entry = kept.get(key(graph, plan, library, gpu), lambda: _make(graph, plan, library, gpu, kept), say)
    return Engine(entry.data, "built" if entry.fresh else "kept", entry.record.seconds, entry.record.fallen_back)


def key(graph: Path, plan: Plan, library: Library, gpu: Gpu) -> Key:
    """What the engine of ``graph`` on this machine belongs to. Engines built at export make no difference to it."""
    described = canonical(to_json(dataclasses.replace(plan, ahead=())))
    return Key(
        graph=file_digest(graph),
        plan=hashlib.sha256(described).hexdigest(),
        library=library.title,
        gpu=gpu.name,
        sm=gpu.sm,
        mode=gpu.mode,
    )


def _make(graph: Path, plan: Plan, library: Library, gpu: Gpu, cache: Cache) -> Made:
    started = time.monotonic()
    try:
        timings = cache.timings(library.title, gpu.sm) if plan.timing_cache else None
        built = api.build(api.parse(library, graph, plan), plan, timings=timings)
    except Refused as error:
        raise RunFailed(str(error)) from error
    if built.timings:
        cache.keep_timings(library.title, gpu.sm, built.timings)
    return Made(built.engine, built.log, time.monotonic() - started, built.fallen_back)


def build_bundle(path: str, say: Callable[[str], None]) -> list[Engine]:
    """The engines of every graph of the bundle at ``path``, built where they are not there yet.

    Raises:
        EdgeDeployError: the bundle cannot be used, or not here.
    """
    artifact = open_artifact(path)
    engines = []
    for name, graph in artifact.files.items():
        plan = plans.read(graph)
        library = api.load(plan.flavour)
        _, gpu = open_cuda()
        engines.append(engine(graph, plan, library, gpu, say))
        say(f"{name}: {engines[-1].origin}, {len(engines[-1].data)} bytes, {engines[-1].seconds:.1f} s to build")
    return engines


def main(arguments: Sequence[str]) -> int:
    """Build the engines of a bundle."""
    if len(arguments) != 1:
        print("usage: python -m edgedeploy_tensorrt.build BUNDLE", file=sys.stderr)
        return 2
    try:
        build_bundle(arguments[0], lambda text: print(text, file=sys.stderr))
    except EdgeDeployError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_status
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
