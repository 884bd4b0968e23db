"""The import rule: a module imports only what stands above it, and the core is light."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

#: Each line may import the lines above it, and a package its own modules.
LAYERS = [
    ["errors", "fate", "inherit"],
    ["tensors", "units", "records", "strictyaml"],
    ["plugins", "facts"],
    ["parts"],
    ["machine"],
    ["tasks"],
    ["model", "device"],
    ["artifact", "runtime", "probe"],
    ["archive", "capture", "compare"],
    ["golden", "opening", "accuracy"],
    ["stream"],
    ["listening"],
    ["exporter"],
    ["precision", "bench", "verify", "isolate", "trial", "cost"],
    ["roofline"],
    ["predict", "history", "targets"],
    ["comparison", "verdict", "rungs", "drift", "regress", "recognition"],
    ["causes"],
    ["ladder"],
    ["fix"],
    ["report", "fastest"],
    ["pipeline", "plan", "testing"],
    ["models"],
    ["train"],
    ["compress"],
    ["demo"],
    ["cli"],
    ["__main__"],
]
RANK = {room: rank for rank, rooms in enumerate(LAYERS) for room in rooms}
LIGHT = {
    "torch",
    "onnx",
    "onnxruntime",
    "ultralytics",
    "yaml",
    "PIL",
    "cv2",
    "faster_coco_eval",
    "pycocotools",
    "scipy",
}


def _modules() -> list[Path]:
    return sorted(p for p in (ROOT / "edgedeploy").rglob("*.py"))


def _room(module: str) -> str:
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else "__init__"


def _imports(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            assert node.level == 0, f"{path}: relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


@pytest.mark.parametrize("path", _modules(), ids=lambda p: p.relative_to(ROOT).as_posix())
def test_a_module_imports_only_what_stands_above_it(path: Path) -> None:
    relative = path.relative_to(ROOT / "edgedeploy")
    here = relative.parts[0].removesuffix(".py")
    if here == "__init__":
        return
    assert here in RANK, f"{relative} is in no layer: give it one in LAYERS"
    for name in _imports(path):
        assert not name.startswith(("exporters", "edgedeploy_")), f"{relative} names an exporter: {name}"
        if not name.startswith("edgedeploy."):
            continue
        there = _room(name)
        allowed = there == here or RANK[there] < RANK[here]
        assert allowed, f"{relative} ({here}) imports {name}, which does not stand above it"


@pytest.mark.parametrize(
    "path",
    [
        p
        for p in _modules()
        if p.relative_to(ROOT / "edgedeploy").parts[0] not in ("models", "train", "compress", "demo", "precision")
    ],
    ids=lambda p: p.relative_to(ROOT).as_posix(),
)
def test_the_core_imports_nothing_heavy_at_module_level(path: Path) -> None:
    for node in ast.parse(path.read_text("utf-8")).body:
        names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
        names += [node.module] if isinstance(node, ast.ImportFrom) and node.module else []
        heavy = {name.partition(".")[0] for name in names} & LIGHT
        assert not heavy, f"{path.name} imports {heavy} at module level"


def test_an_exporter_never_imports_another() -> None:
    for folder in (ROOT / "exporters").iterdir():
        for path in folder.rglob("*.py"):
            others = {name for name in _imports(path) if name.startswith("edgedeploy_")}
            assert all(name.split(".")[0] == folder.name for name in others), f"{path} imports {others}"


@pytest.mark.parametrize("module", ["edgedeploy", "edgedeploy.cli.app", "edgedeploy.bench.worker"])
def test_importing_loads_no_framework(module: str) -> None:
    code = f"import sys, {module}; print(sorted({LIGHT!r} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
