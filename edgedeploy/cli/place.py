"""``--on``: from a target's name or a URL to the way there, and measuring at its end."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from edgedeploy.errors import UsageError

if TYPE_CHECKING:
    from edgedeploy.bench.measurement import Measurement
    from edgedeploy.bench.run import BenchOptions, Progress, Where

LOCAL = "local"


@dataclass(frozen=True)
class Phone:
    """What only phones take: the native ``runner``, and the longest wait in seconds until they are cool."""

    runner: str | None = None
    cool_down: float = 0.0


@dataclass(frozen=True)
class Found:
    """Where to measure: ``on`` as a URL, the ``profile`` of what is there, the ``target``'s name if it has one."""

    on: str = LOCAL
    profile: str | None = None
    target: str | None = None

    @property
    def native(self) -> bool:
        """Whether no Python runs there, but a runner of the runtime's own."""
        return self.on.startswith("adb://")

    @contextmanager
    def where(self) -> Iterator[Where]:
        """The way there, open for as long as the block lasts."""
        from edgedeploy.bench.measurement import Place
        from edgedeploy.bench.remote.transport import way_to
        from edgedeploy.bench.run import Where

        way = way_to(self.on)
        reached = re.sub("//[^@]*@", "//", way.on)  # who logs in is nobody's business
        try:
            yield Where(way, Place(self._device(), reached, self.target))
        finally:
            way.close()

    def measure(
        self,
        bundle: Path,
        options: BenchOptions,
        follow: Callable[[Progress], None],
        phone: Phone,
    ) -> Measurement:
        """Measure there: with workers where Python runs, else with a native runner.

        Raises:
            UsageError: a runner or a time to cool down was given, and none is needed; or the phone has no profile.
            EdgeDeployError: see `edgedeploy.bench.run.bench` and `edgedeploy.bench.phone.native.bench_native`.
        """
        if self.native:
            return self._measure_native(bundle, options, follow, phone)
        if phone.runner is not None:
            raise UsageError("Workers measure where Python runs: --runner is for phones, as in --on adb://.")
        if phone.cool_down:
            raise UsageError("A phone says how warm it is: --cool-down is for phones, as in --on adb://.")
        from edgedeploy.bench.run import bench

        with self.where() as where:
            return bench(bundle, options, follow, where)

    def _measure_native(
        self,
        bundle: Path,
        options: BenchOptions,
        follow: Callable[[Progress], None],
        phone: Phone,
    ) -> Measurement:
        from edgedeploy.archive import open_artifact
        from edgedeploy.bench.phone.adb import AdbDevice
        from edgedeploy.bench.phone.native import bench_native
        from edgedeploy.bench.phone.native_plan import NativeRunner
        from edgedeploy.device import load

        if self.profile is None:
            raise UsageError(f"{self.on} needs a profile, which knows its runners: add --device, as in pixel-8.")
        profile = load(self.profile)
        runtime = options.backend or open_artifact(bundle).manifest.exporter.runtime
        chosen = NativeRunner.choose(phone.runner, runtime, profile, phone.cool_down)
        found = bench_native(bundle, options, chosen, AdbDevice.find(self.on), profile, follow)
        return replace(found, place=replace(found.place, target=self.target))

    def _device(self) -> str:
        """What the device is called: its profile; where it has none, its target's name, or the way to it."""
        from edgedeploy.device import THIS_MACHINE

        return THIS_MACHINE if self.on == LOCAL else self.profile or self.target or self.on


def found_at(on: str | None, device: str | None) -> Found:
    """Where ``--on`` leads; ``--device`` says what is there if the target does not.

    Raises:
        UsageError: no such target, and no URL of a known kind.
    """
    if on is None:
        return Found()
    from edgedeploy.targets import resolve

    target = resolve(on)
    return Found(target.on, device or target.profile, target.name)
