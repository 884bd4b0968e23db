"""The built wheel is complete: exporters import, profiles are found, the command starts."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with nothing but the unpacked wheel."""
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder / "dist"), str(ROOT)]
    subprocess.run(command, check=True, capture_output=True)
    (wheel,) = (folder / "dist").glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder / "site")
    return folder / "site"


def _run(installed: Path, code: str, cwd: Path) -> str:
    """Run ``code`` with the wheel in front of everything; an editable install must not answer for it."""
    start = f"import sys; sys.path.insert(0, {str(installed)!r}); "
    done = subprocess.run([sys.executable, "-c", start + code], capture_output=True, text=True, cwd=cwd, check=True)
    return done.stdout.strip()


def test_modules_come_from_the_wheel(installed: Path, tmp_path: Path) -> None:
    code = "import edgedeploy, edgedeploy_onnxruntime as e; print(edgedeploy.__file__); print(e.__file__)"
    assert all(line.startswith(str(installed)) for line in _run(installed, code, tmp_path).splitlines())


def test_profiles_come_from_the_wheel(installed: Path, tmp_path: Path) -> None:
    code = "from edgedeploy import device; print(len(device.names()), device.load('raspberry-pi-5').arch)"
    count, arch = _run(installed, code, tmp_path).split()
    assert int(count) == len(list((ROOT / "devices").glob("*.yaml")))
    assert arch == "aarch64"


def test_only_what_is_meant_is_shipped(installed: Path) -> None:
    tops = {p.name for p in installed.iterdir() if not p.name.endswith(".dist-info")}
    backends = {p.name for p in (ROOT / "exporters").iterdir() if p.name.startswith("edgedeploy_")}
    assert tops == {"edgedeploy", *backends}
    assert (installed / "edgedeploy" / "py.typed").is_file()
    assert all((installed / backend / "py.typed").is_file() for backend in backends)
    assert (installed / "edgedeploy" / "demo" / "aerial.safetensors").is_file()
    assert not list(installed.rglob("__pycache__"))
    (metadata,) = installed.glob("*.dist-info/METADATA")
    assert "License-Expression: Apache-2.0" in metadata.read_text()
