"""Compiles an ONNX graph for the HTP, in a process of its own: ``python -m edgedeploy_qnn.compiler SOURCE TARGET HTP``.

The vendor's compiler prints to both streams, says only there why it refused, and may take its process with it. What it
makes of a graph also depends on what it has compiled before in the same process.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from edgedeploy.errors import ExportFailed
from edgedeploy_qnn.runtime import devices, provider

#: Snapdragon model by version of its Hexagon tensor processor; checked against what QNN writes into the binary.
SOC_MODELS = {68: 30, 69: 36, 73: 43, 75: 57, 79: 69, 81: 87}
_ERRORS = 3


def compile_graph(source: Path, target: Path, htp: int) -> None:
    """Write ``target``, an ONNX graph whose EPContext nodes hold what runs on the HTP; other nodes are for the CPU.

    Raises:
        ExportFailed: QNN takes nothing of the graph, or gave up; with its own words.
    """
    target.unlink(missing_ok=True)  # it would not be written over
    command = [sys.executable, "-m", "edgedeploy_qnn.compiler", str(source), str(target), str(htp)]
    done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
    if done.returncode == 0 and target.is_file():
        return
    said = _said(done.stdout + done.stderr)
    if done.returncode < 0:
        raise ExportFailed(f"QNN's compiler crashed (signal {-done.returncode}){said}.")
    raise ExportFailed(f"QNN compiles nothing of this graph for HTP {htp}{said}.")


def _said(text: str) -> str:
    """The last error that the vendor logged, or the last line of a Python traceback."""
    plain = re.sub(r"\x1b\[[0-9;]*m", "", text)
    lines = [line.strip() for line in plain.splitlines() if line.strip() and "LIBNATIVE" not in line]
    errors = [line for line in lines if "[E:" in line] or lines
    return f": {re.sub(r'^.*? ([A-Za-z]+Impl|[A-Za-z]+)] ', '', errors[-1])[:300].rstrip('.')}" if errors else ""


def main(source: str, target: str, htp: str) -> None:
    """Compile in this process."""
    ort, qnn = provider()
    options = ort.SessionOptions()
    options.log_severity_level = _ERRORS
    options.intra_op_num_threads = 1
    for key, value in (("enable", "1"), ("file_path", target), ("embed_mode", "1")):
        options.add_session_config_entry(f"ep.context_{key}", value)
    choice = {"htp_arch": htp, "soc_model": str(SOC_MODELS[int(htp)]), "backend_path": qnn.get_qnn_htp_path()}
    options.add_provider_for_devices(devices(ort), choice)
    ort.InferenceSession(source, options)


if __name__ == "__main__":
    main(*sys.argv[1:])
