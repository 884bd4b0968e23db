"""Runs context binaries of Qualcomm's QNN with ONNX Runtime: on a Hexagon, or on its simulator on x86.

Needs numpy, onnxruntime and onnxruntime-qnn, nothing else.
"""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from edgedeploy.errors import Incompatible, RunFailed, Unavailable, UsageError
from edgedeploy.runtime import Outputs, Runtime, Session, check_state
from edgedeploy.tensors import Array, Signature

#: The execution provider's name, with which its library is registered.
PROVIDER = "QNNExecutionProvider"
#: What ONNX Runtime's provider notes in a context model, separated by colons: format, backend, QNN, API, htp, ...
COMPATIBILITY = f"ep_compatibility_info.{PROVIDER}"
#: What the exporter notes in it: precision computed in, and how many nodes the HTP and the CPU compute.
COMPUTES_IN, HTP, NODES, CPU_NODES = (f"edgedeploy.{key}" for key in ("computes_in", "htp", "nodes", "cpu_nodes"))
SIMULATOR = "Qualcomm HTP simulator on x86"
_FATAL = 4


@dataclass(frozen=True)
class QnnRuntime(Runtime):
    """Options of a session.

    Args:
        threads: of the CPU, for nodes that the HTP does not take; ONNX Runtime's choice where ``None``.
    """

    name: ClassVar[str] = "qnn"

    @classmethod
    def version(cls) -> str:
        """Version of onnxruntime-qnn, without importing it."""
        try:
            return version("onnxruntime-qnn")
        except PackageNotFoundError as error:
            raise Unavailable.extra("QNN for ONNX Runtime", "qnn") from error

    @classmethod
    def preload(cls) -> None:
        """Import ONNX Runtime and load Qualcomm's library into it."""
        provider()

    def open(self, files: Mapping[str, Path], signatures: Mapping[str, Signature]) -> Session:
        """See `Runtime.open`."""
        if self.threads is not None and self.threads < 1:
            raise UsageError(f"{self.threads} threads cannot run anything; give 1 or more.")
        ort, qnn = provider()
        options = ort.SessionOptions()
        options.intra_op_num_threads = self.threads or 0
        options.log_severity_level = _FATAL
        options.add_provider_for_devices(devices(ort), {"backend_path": qnn.get_qnn_htp_path()})
        sessions = {name: _open(ort, qnn, path, options) for name, path in files.items()}
        for name, session in sessions.items():
            _check_names(files[name], session, signatures[name])
        return QnnSession(sessions, dict(signatures), self._facts(qnn, sessions))

    def _facts(self, qnn: Any, sessions: Mapping[str, Any]) -> dict[str, str | int | float]:
        noted = [session.get_modelmeta().custom_metadata_map for session in sessions.values()]
        facts: dict[str, str | int | float] = {
            "runtime": self.name,
            "version": qnn.__version__,
            "sdk": qnn.build_and_package_info.qnn_version,
            "threads": self.threads or "default",
            "computes_in": " and ".join(dict.fromkeys(note.get(COMPUTES_IN, "unknown") for note in noted)),
            "htp": int(noted[0].get(HTP, 0)),
            "nodes_on_htp": sum(int(note.get(NODES, 0)) for note in noted),
            "nodes_on_cpu": sum(int(note.get(CPU_NODES, 0)) for note in noted),
        }
        return {**facts, "emulated": SIMULATOR} if simulated() else facts


class QnnSession:
    """One or several context models, with their state carried from call to call."""

    def __init__(
        self, sessions: Mapping[str, Any], signatures: Mapping[str, Signature], facts: Mapping[str, str | int | float]
    ) -> None:
        self._sessions, self._signatures, self._facts = dict(sessions), signatures, facts
        self._names = {name: [o.name for o in s.get_outputs()] for name, s in self._sessions.items()}
        self._state: dict[str, Array] = {}
        self.reset()

    @property
    def facts(self) -> Mapping[str, str | int | float]:
        """Versions, processor, how many nodes it computes and in what; ``emulated`` on the simulator."""
        return self._facts

    def run(self, inputs: Mapping[str, Array], graph: str = "main") -> Outputs:
        """See `Session.run`."""
        signature = self._signatures[graph]
        signature.check(inputs)
        feed = {**inputs, **{s.input: self._state[s.input] for s in signature.state}}
        try:
            with quiet():
                values = self._sessions[graph].run(None, feed)
        except Exception as error:  # onnxruntime's exceptions share no base class
            raise RunFailed(f"QNN failed in graph '{graph}': {_line(error)}") from error
        outputs = dict(zip(self._names[graph], values, strict=True))
        for state in signature.state:
            self._state[state.input] = outputs.pop(state.output)
        return outputs

    def reset(self) -> None:
        """Put all state back to zeros."""
        self._state = {
            s.input: np.zeros(s.shape, s.dtype) for signature in self._signatures.values() for s in signature.state
        }

    def state(self) -> dict[str, Array]:
        """See `edgedeploy.runtime.Carrying.state`."""
        return {name: array.copy() for name, array in self._state.items()}

    def restore(self, state: Mapping[str, Array]) -> None:
        """See `edgedeploy.runtime.Carrying.restore`."""
        check_state(self._signatures.values(), state)
        self._state = {name: state[name].copy() for name in self._state}

    def close(self) -> None:
        """Free the graphs."""
        self._sessions.clear()


def simulated() -> bool:
    """Whether what computes here is the simulator that the vendor ships for development machines."""
    return platform.machine().lower() in ("x86_64", "amd64")


def provider() -> tuple[Any, Any]:
    """ONNX Runtime and Qualcomm's package, with the provider registered; a process can register it only once.

    Raises:
        Unavailable: one of them is not installed, or its library cannot be loaded here.
    """
    try:
        import onnxruntime
        import onnxruntime_qnn
    except ImportError as error:
        raise Unavailable.extra("QNN for ONNX Runtime", "qnn") from error
    if not devices(onnxruntime):
        try:
            with quiet():
                onnxruntime.register_execution_provider_library(PROVIDER, onnxruntime_qnn.get_library_path())
        except Exception as error:  # onnxruntime's exceptions share no base class
            if "already registered" not in str(error):
                raise Unavailable(f"ONNX Runtime cannot load QNN here: {_line(error)}.") from error
    if not devices(onnxruntime):
        raise Unavailable(f"QNN {onnxruntime_qnn.__version__} finds no device on this {platform.machine()} machine.")
    return onnxruntime, onnxruntime_qnn


def devices(ort: Any) -> list[Any]:
    """The device of QNN, as ONNX Runtime lists it, alone in a list; empty before the provider is registered."""
    return [device for device in ort.get_ep_devices() if device.ep_name == PROVIDER][:1]


@contextmanager
def quiet() -> Iterator[None]:
    """Keep what Qualcomm's libraries print, on both streams, away from the user."""
    sys.stdout.flush()
    sys.stderr.flush()
    kept = [os.dup(1), os.dup(2)]
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 1)
        os.dup2(nowhere, 2)
        yield
    finally:
        for descriptor, number in zip(kept, (1, 2), strict=True):
            os.dup2(descriptor, number)
            os.close(descriptor)
        os.close(nowhere)


def _open(ort: Any, qnn: Any, path: Path, options: Any) -> Any:
    try:
        with quiet():
            session = ort.InferenceSession(str(path), options)
    except Exception as error:  # onnxruntime's exceptions share no base class
        raise _refused(ort, qnn, path, error) from error
    if HTP not in session.get_modelmeta().custom_metadata_map:
        raise RunFailed(f"{path.name} holds no context binary of this project. Export it again.")
    if PROVIDER not in session.get_providers():
        raise Unavailable(f"ONNX Runtime did not start QNN for {path.name} and fell back to the CPU.")
    return session


def _refused(ort: Any, qnn: Any, path: Path, error: Exception) -> RunFailed | Incompatible:
    text = _line(error)
    if "ir version" in text.lower() or "opset" in text.lower():
        return Incompatible(f"ONNX Runtime {ort.__version__} is too old for {path.name}: {text}")
    if "EpContext" in text:
        sdk = qnn.build_and_package_info.qnn_version
        return RunFailed(
            f"QNN {sdk} cannot load the context binary in {path.name}: it is damaged, or from a newer QNN. "
            "Copy it again, or export it with this one."
        )
    return RunFailed(f"QNN cannot load {path.name}: {text}")


def _check_names(path: Path, session: Any, signature: Signature) -> None:
    for kind, values, specs, states in (
        ("input", session.get_inputs(), signature.inputs, [s.input for s in signature.state]),
        ("output", session.get_outputs(), signature.outputs, [s.output for s in signature.state]),
    ):
        known = {value.name for value in values}
        for name in (*(spec.name for spec in specs), *states):
            if name not in known:
                raise Incompatible(f"{path.name} has no {kind} '{name}', which its manifest lists. Export it again.")


def _line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
