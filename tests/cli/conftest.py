"""The command line as a user meets it: a process of its own, its exit status, and what it says on either stream."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.cli import warm

#: Seconds that a command may take.
LIMIT = 300.0
#: Runs at the start of every Python process that has its folder on the path, workers included.
_HIDE = """
import importlib.abc
import importlib.metadata
import os
import sys

hidden = os.environ["HIDDEN_PACKAGES"].split(",")
ask = importlib.metadata.Distribution.from_name


class Hide(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in hidden:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)


def from_name(name):
    if name in hidden:
        raise importlib.metadata.PackageNotFoundError(name)
    return ask(name)


sys.meta_path.insert(0, Hide())
importlib.metadata.Distribution.from_name = from_name
"""


@dataclass(frozen=True)
class Result:
    """What a command left: exit status, results and the rest."""

    status: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """The one document on standard output."""
        assert self.status in (0, 4), self.err
        return json.loads(self.out)

    def refused(self, status: int, *words: str) -> str:
        """The one sentence that the command ended with, after checking that it is one and has these words in it."""
        assert "Traceback" not in self.err, self.err
        assert self.status == status, f"status {self.status}: {self.err}"
        assert self.out == ""
        *before, last = self.err.splitlines()
        assert last.startswith("error: "), self.err
        assert all(line.startswith("  ") for line in before), self.err
        for word in words:
            assert word in last
        return last


@dataclass(frozen=True)
class Cli:
    """Runs ``edgedeploy`` in a folder that is empty at first, with cache, settings and history of its own."""

    place: Path

    def command(self, *arguments: object) -> list[str]:
        """What `subprocess` takes."""
        return [sys.executable, "-c", "from edgedeploy.cli.app import main; main()", *map(str, arguments)]

    def environment(self, without: Sequence[str] = ()) -> Mapping[str, str]:
        """One thread, no colours, and packages that are not to be found."""
        homes = {f"XDG_{kind}_HOME": str(self.place / kind.lower()) for kind in ("CACHE", "CONFIG", "DATA")}
        made = {**os.environ, **homes, "OMP_NUM_THREADS": "1", "NO_COLOR": "1"}
        made.pop("EDGEDEPLOY_HISTORY", None)
        if without:
            folder = self.place / "hide"
            folder.mkdir(exist_ok=True)
            (folder / "sitecustomize.py").write_text(_HIDE, "utf-8")
            made |= {"HIDDEN_PACKAGES": ",".join(without), "PYTHONPATH": str(folder)}
        return made

    def __call__(self, *arguments: object, without: Sequence[str] = (), cwd: Path | None = None) -> Result:
        """Run a command to its end; one that misses nothing is forked with its libraries in it."""
        if not without and sys.platform == "linux":
            with tempfile.TemporaryDirectory() as folder:
                out = Path(folder) / "out", Path(folder) / "err"
                status = warm.run([*map(str, arguments)], cwd or self.place, self.environment(), out, LIMIT)
                assert status is not None, f"edgedeploy {arguments}: more than {LIMIT:g} s"
                return Result(status, *(path.read_text("utf-8") for path in out))
        done = subprocess.run(
            self.command(*arguments),
            cwd=cwd or self.place,
            env=self.environment(without),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=LIMIT,
        )
        return Result(done.returncode, done.stdout, done.stderr)


@dataclass(frozen=True)
class Demo:
    """The packaged checkpoint, scenes, and bundles made of it by commands; read only, but for logs beside bundles."""

    checkpoint: Path
    data: Path
    prepared: Result
    fp32: Path
    fp32_made: Result
    int8: Path
    int8_made: Result


@pytest.fixture(scope="session")
def cli(tmp_path_factory: pytest.TempPathFactory) -> Cli:
    return Cli(tmp_path_factory.mktemp("cli"))


@pytest.fixture(scope="session")
def demo(cli: Cli) -> Demo:
    """Two exports, by the command line; int8 takes its ranges from the very images that the tests compare on."""
    for package in ("torch", "onnxscript", "onnxruntime", "PIL"):
        pytest.importorskip(package)
    prepared = cli("demo", "--data-only", "--scenes", 30, "-o", "demo", "--json")
    checkpoint, data = (cli.place / prepared.json[key] for key in ("checkpoint", "data"))
    fp32 = cli("export", checkpoint, "-o", "fp32", "--json")
    asked = ("--precision", "int8", "--calibrate", data, "--split", "val", "-o", "int8")
    int8 = cli("export", checkpoint, *asked, "--json")
    bundles = [cli.place / made.json["path"] for made in (fp32, int8)]
    return Demo(checkpoint, data, prepared, bundles[0], fp32, bundles[1], int8)


@pytest.fixture
def fp32(demo: Demo, tmp_path: Path) -> Path:
    """A copy to write beside, or to damage."""
    return Path(shutil.copytree(demo.fp32, tmp_path / "copy" / "aerial.edge"))


@pytest.fixture
def few(demo: Demo, tmp_path: Path) -> Path:
    """data.yaml of six of the scenes, to change."""
    root = tmp_path / "few"
    for kind, suffix in (("images", "png"), ("labels", "txt")):
        (root / kind / "val").mkdir(parents=True)
        for i in range(6):
            name = f"{kind}/val/{i:06d}.{suffix}"
            shutil.copyfile(demo.data.parent / name, root / name)
    (root / "data.yaml").write_text("val: images/val\nnames: [car, van, truck, bus]\n", "utf-8")
    return root / "data.yaml"
