"""A quick probe of what a machine can do at most with some number of threads: a worker that runs there.

``python -m edgedeploy.bench.peaks`` is a worker as `edgedeploy.bench.worker` is one, and answers with the device. The
threads of numpy's BLAS are settled when it is loaded, so that it measures in another process, which is the same module
with THREADS and SECONDS behind it.
"""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
import time
from pathlib import Path

from edgedeploy import errors
from edgedeploy.bench.target import Job
from edgedeploy.bench.worker import Tell, serve
from edgedeploy.device import Device, this_machine
from edgedeploy.errors import RunFailed
from edgedeploy.parts import Peaks
from edgedeploy.probe import copy_bandwidth, gemm_fp32, gemm_int8
from edgedeploy.records import from_json, to_json

#: Side of the matrices on one or two threads and on more, and bytes of each array of the copy. Large enough for the
#: peaks, and small enough that some repeats are over before other work gets the processor.
SIZES, COPY = (512, 1024), 64 << 20
#: Share of its threads that the process has to have kept busy.
ENOUGH = 0.8
_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "VECLIB_MAXIMUM_THREADS")


def measure(threads: int, seconds: float) -> Device:
    """What this machine is, with its peaks and copy bandwidth at ``threads`` threads; each is repeated for ``seconds``.

    Raises:
        RunFailed: the process died.
    """
    root = str(Path(errors.__file__).resolve().parents[1])
    path = os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH"))))
    environment = {**os.environ, **dict.fromkeys(_VARIABLES, str(threads)), "PYTHONPATH": path}
    command = [sys.executable, "-P", "-m", "edgedeploy.bench.peaks", str(threads), str(seconds)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        words = (done.stderr.strip().splitlines() or ["no word"])[-1]
        raise RunFailed(f"The probe of this machine ended with status {done.returncode}: {words}")
    return from_json(Device, json.loads(done.stdout.splitlines()[-1]), "the probe's answer")


def usable() -> int:
    """Threads that affinity and control group leave a process here; 1 where that is not known."""
    counted = this_machine().cpu.usable
    return (counted.value if counted is not None else None) or 1


def _here(threads: int, seconds: float) -> Device:
    device = this_machine()
    begin, used = time.perf_counter(), time.process_time()
    size = SIZES[threads > 2]
    peaks = Peaks(fp32=gemm_fp32(size, seconds), int8=gemm_int8(size, seconds, threads, device.int8.activations))
    copied = copy_bandwidth(COPY, seconds, threads)
    busy = (time.process_time() - used) / (time.perf_counter() - begin)
    crowded = f"Other work ran while peaks were measured ({busy:.1f} of {threads} CPUs were left): they may be too low."
    return dataclasses.replace(
        device,
        cpu=dataclasses.replace(device.cpu, dense=peaks),
        memory=dataclasses.replace(device.memory, copy=copied),
        notes=(crowded,) if busy < ENOUGH * threads else (),
    )


def _answer(job: Job, tell: Tell) -> Device:
    tell("phase", {"phase": "measuring the peaks of this machine"})
    return measure(job.threads or usable(), job.duration)


if __name__ == "__main__":
    if len(sys.argv) == 1:
        sys.exit(serve(_answer))
    print(json.dumps(to_json(_here(int(sys.argv[1]), float(sys.argv[2])))))
