"""Runs Core ML packages: with Core ML on macOS, elsewhere with a reference interpreter of the program in them.

Needs numpy and coremltools; the interpreter needs torch besides.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

from edgedeploy.errors import Unavailable, UsageError
from edgedeploy.runtime import Runtime, Session
from edgedeploy.tensors import Signature
from edgedeploy_coreml.package import read
from edgedeploy_coreml.vendor import coremltools, coremltools_version

ComputeUnits = Literal["all", "cpu", "cpu_and_gpu", "cpu_and_ne"]


@dataclass(frozen=True)
class CoreMLRuntime(Runtime):
    """Options of a session.

    Args:
        threads: of the reference interpreter; Core ML itself takes no number.
        compute_units: which units Core ML may use; what it does use is among the facts.
        arithmetic: of the reference interpreter: ``program`` rounds to fp16 where the program says so, ``exact`` never.
        reference: use the reference interpreter on macOS, too.
    """

    name: ClassVar[str] = "coreml"
    compute_units: ComputeUnits = "all"
    arithmetic: Literal["program", "exact"] = "program"
    reference: bool = False

    @classmethod
    def version(cls) -> str:
        """Version of Core ML Tools, without importing it."""
        return coremltools_version()

    @classmethod
    def preload(cls) -> None:
        """Import Core ML Tools."""
        coremltools()

    def open(self, files: Mapping[str, Path], signatures: Mapping[str, Signature]) -> Session:
        """See `Runtime.open`."""
        return self._open(files, signatures, tapped=False)

    def open_tapped(self, files: Mapping[str, Path], signatures: Mapping[str, Signature]) -> Session:
        """See `Runtime.open_tapped`; always by the reference interpreter, since Core ML shows nothing inside."""
        return self._open(files, signatures, tapped=True)

    def _open(self, files: Mapping[str, Path], signatures: Mapping[str, Signature], tapped: bool) -> Session:
        if self.compute_units not in ComputeUnits.__args__:  # type: ignore[attr-defined]
            raise UsageError(
                f"There are no compute units '{self.compute_units}'. Known: all, cpu, cpu_and_gpu, cpu_and_ne."
            )
        if self.arithmetic not in ("program", "exact"):
            raise UsageError(f"There is no arithmetic '{self.arithmetic}'. Known: program, exact.")
        if self.threads is not None and self.threads < 1:
            raise UsageError(f"{self.threads} threads cannot run anything; give 1 or more.")
        packages = {name: read(path) for name, path in files.items()}
        if sys.platform == "darwin" and not self.reference and not tapped:
            from edgedeploy_coreml.apple import AppleSession

            return AppleSession(packages, signatures, self.compute_units)
        try:
            from edgedeploy_coreml import reference
        except ImportError as error:
            raise Unavailable.extra("torch, with which Core ML programs are interpreted,", "coreml") from error
        settings = reference.Settings(self.threads, self.arithmetic, tapped)
        graphs = {name: reference.load(package, signatures[name], settings) for name, package in packages.items()}
        return reference.ReferenceSession(graphs, settings)
