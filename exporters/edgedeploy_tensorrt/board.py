"""What the board's profile says about its TensorRT, and what an export for it therefore cannot ask for.

The limits are those of NVIDIA's documentation of TensorRT 8.6, 10 and 11: the support matrices, and the pages on the
DLA, on engine compatibility and on ONNX opsets.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from packaging.version import InvalidVersion, Version

from edgedeploy.device import THIS_MACHINE, Device, this_machine
from edgedeploy.errors import Incompatible, UsageError

if TYPE_CHECKING:
    from edgedeploy_tensorrt import TensorRT

#: The oldest TensorRT with which bundles can be built, and the first in which the types in the graph are binding.
OLDEST, TYPED = Version("8.6"), Version("10.0")
#: Highest opset that the parser of a major version is documented to read.
OPSETS: Mapping[int, int] = {8: 17, 9: 19, 10: 20, 11: 24}
#: The DLA was left out of the releases from the first up to, and without, the second.
NO_DLA = (Version("10.8"), Version("11.4.1"))
#: Compute capabilities of the first GPUs with sparse tensor cores, and with engines that run on later ones.
AMPERE = 80


@dataclass(frozen=True)
class Board:
    """The facts of a device that decide how TensorRT builds for it; ``None`` is unknown."""

    name: str
    tensorrt: Version | None = None
    rtx: bool = False
    sm: int | None = None
    dla_cores: int | None = None
    lacks: tuple[str, ...] = ()
    jetpack: bool = False
    runs: tuple[str, ...] | None = None

    @classmethod
    def of(cls, device: Device | None) -> Board:
        """The facts of ``device``; of this machine (``None``), what it lacks is unknown, not absent."""
        device = device or this_machine()
        versions = {software.name: software.version.value for software in device.runtimes}
        gpus = [a for a in device.accelerators if a.kind == "gpu" and a.sm is not None]
        dlas = [a.cores.value if a.cores else None for a in device.accelerators if a.kind == "dla"]
        here = device.name == THIS_MACHINE
        return cls(
            name=device.name,
            tensorrt=version(versions.get("tensorrt")),
            rtx="tensorrt-rtx" in versions and "tensorrt" not in versions,
            sm=gpus[0].sm.value if gpus and gpus[0].sm else None,
            dla_cores=None if None in dlas or (here and not dlas) else sum(filter(None, dlas)),
            lacks=gpus[0].precisions.lacks if gpus else (),
            jetpack="JetPack" in device.os,
            runs=None if here else tuple(versions),
        )


def version(text: str | None) -> Version | None:
    """The version that ``text`` states, if it does."""
    try:
        return Version(text) if text else None
    except InvalidVersion:
        return None


def refuse_board(board: Board, flavour: str | None) -> None:
    """Refuse a board on which no engine can be built.

    Raises:
        Incompatible: it has no TensorRT, or one that is too old.
    """
    if board.runs is None:
        return
    others = [name for name in board.runs if name not in ("cuda", "tensorrt", "tensorrt-rtx", "torch-tensorrt")]
    also = f" It also runs {', '.join(others[:4])}." if others else ""
    if not {"tensorrt", "tensorrt-rtx"} & set(board.runs):
        raise Incompatible(f"{board.name} has no TensorRT, so nothing there could build the engine.{also}")
    if flavour == "rtx" and board.jetpack:
        raise Incompatible(f"TensorRT for RTX does not run on {board.name}, which has JetPack: leave flavour out.")
    if flavour != "rtx" and board.tensorrt is not None and board.tensorrt < OLDEST:
        raise Incompatible(
            f"{board.name} has TensorRT {board.tensorrt}, and bundles are built with {OLDEST} or later.{also}"
        )


def refuse(board: Board, exporter: TensorRT) -> None:
    """Refuse what the GPU and the DLA of ``board`` do not have.

    Raises:
        Incompatible: the GPU does not compute in the precision.
        UsageError: an option asks for what is not there.
    """
    if exporter.precision in board.lacks:
        raise Incompatible(f"The GPU of {board.name} does not compute in {exporter.precision}; export in fp16 or fp32.")
    _refuse_options(board, exporter)


def _refuse_options(board: Board, exporter: TensorRT) -> None:
    cores = board.dla_cores
    if exporter.dla_core is not None and cores is not None and exporter.dla_core >= cores:
        has = f"{cores} DLA cores (0 to {cores - 1})" if cores else "no DLA"
        raise UsageError(f"dla_core={exporter.dla_core}: {board.name} has {has}. Leave the option out for the GPU.")
    if board.jetpack and exporter.hardware != "none":
        raise UsageError(
            f"hardware={exporter.hardware}: TensorRT of JetPack, on {board.name}, builds for its own GPU only. "
            "Leave the option out; the bundle is built on each device anyway."
        )
    for name, asked in (("sparsity", exporter.sparsity), ("hardware", exporter.hardware == "ampere_plus")):
        if asked and board.sm is not None and board.sm < AMPERE:
            raise UsageError(
                f"{name} needs a GPU since Ampere (sm {AMPERE}), and that of {board.name} has sm {board.sm}."
            )


def refuse_version(exporter: TensorRT, installed: Version | None) -> None:
    """Refuse options that this TensorRT does not have, whatever the board.

    Raises:
        UsageError: naming the option and the version.
    """
    if exporter.dla_core is not None:
        if exporter.flavour == "rtx":
            raise UsageError("TensorRT for RTX has no DLA: leave dla_core out, or take flavour=tensorrt.")
        if exporter.precision == "int8":
            raise UsageError(
                "The DLA takes no graph whose int8 is in Q/DQ nodes, which is the only kind written here. "
                "Export in fp16, or leave dla_core out for the GPU."
            )
        if exporter.precision == "fp32":
            raise UsageError("The DLA does not compute in fp32: export in fp16, or leave dla_core out for the GPU.")
        if installed is not None and NO_DLA[0] <= installed < NO_DLA[1]:
            raise UsageError(f"dla_core={exporter.dla_core}: TensorRT {installed} does not support the DLA.")
    if installed is None or exporter.flavour == "rtx":
        return
    most = OPSETS.get(installed.major, max(OPSETS.values()))
    if exporter.opset > most:
        raise UsageError(f"TensorRT {installed} reads opsets up to {most}, not {exporter.opset}: add opset={most}.")
    if exporter.hardware == "same_sm" and installed < Version("10.7"):
        raise UsageError(f"hardware=same_sm: TensorRT {installed} does not have it; it knows ampere_plus.")


def fails_on_nms(installed: Version | None, operators: frozenset[str]) -> bool:
    """Whether this TensorRT is one that fails on int8 together with NMS, and the graph has it."""
    return (
        installed is not None and installed.release[:2] == (10, 3) and bool(operators & {"NonMaxSuppression", "TopK"})
    )


def typed(installed: Version | None, dla: bool) -> bool:
    """Whether a TensorRT takes the types in a graph as binding; unknown ones are taken to be recent."""
    return installed is None or (installed >= TYPED and (not dla or installed.major >= 11))


def requires(exporter: TensorRT) -> tuple[str, ...]:
    """What a device must have to build the bundle: TensorRT of the board's version or later, and its GPU."""
    installed = version(exporter.tensorrt)
    if exporter.flavour == "rtx":
        found = ["tensorrt-rtx>=1"]
    elif installed is not None:
        found = [f"tensorrt>={installed.major}.{installed.minor},<{installed.major + 1}"]
    else:
        found = ["tensorrt>=10,<12"]
    return tuple([*found, f"sm={exporter.sm}"] if exporter.sm is not None else found)
