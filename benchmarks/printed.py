"""Run a benchmark that prints its result, and keep what it printed together with the conditions.

python -m benchmarks.printed overhead --onnx model.onnx --threads 1
python -m benchmarks.printed repeatability out/NAME.edge --threads 1 --as repeatability-1
"""

from __future__ import annotations

import argparse
import importlib.util
import subprocess
import sys
from pathlib import Path

from benchmarks.record import RESULTS, conditions, load_since, write
from edgedeploy.bench.telemetry import read_counters


def main() -> int:
    """The exit status of the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", help="of a file in benchmarks/, without .py")
    parser.add_argument("--as", dest="result", help="name of the result file; that of the benchmark else")
    arguments, rest = parser.parse_known_args()
    script = Path(__file__).parent / f"{arguments.name}.py"
    if not script.is_file():
        raise SystemExit(f"There is no {script.name} in benchmarks.")
    importlib.import_module("edgedeploy_onnxruntime.runtime").OnnxRuntimeRuntime.preload()  # its version is recorded
    before = read_counters()
    done = subprocess.run([sys.executable, str(script), *rest], stdout=subprocess.PIPE, text=True, check=False)
    print(done.stdout, end="")
    words = [Path(word).name if "/" in word else word for word in rest]
    document = {
        **conditions(arguments.name),
        "command": " ".join([f"python benchmarks/{script.name}", *words]),
        "load": load_since(before, children=True),
        "status": done.returncode,
        "printed": done.stdout.splitlines(),
    }
    write(RESULTS / f"{arguments.result or arguments.name}.json", document)
    return done.returncode


if __name__ == "__main__":
    sys.exit(main())
