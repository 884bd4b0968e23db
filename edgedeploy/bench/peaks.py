"""A quick probe of what a machine can do at most with some number of threads: a worker that runs there.

``python -m edgedeploy.bench.peaks`` is a worker as `edgedeploy.bench.worker` is one, and answers with the device. The
threads of numpy's BLAS are settled when it is loaded, so that it measures in another process, which is the same module
with THREADS and SECONDS behind it.
"""

from __future__ import annotations

import json
import subprocess
import sys

from edgedeploy import inherit
from edgedeploy.bench.target import Job
from edgedeploy.bench.worker import Tell, serve
from edgedeploy.device import Device, this_machine
from edgedeploy.errors import RunFailed
from edgedeploy.probe import THREAD_VARIABLES, probe
from edgedeploy.records import from_json, to_json

#: Side of the matrices on one or two threads and on more, and bytes of each array of the copy. Large enough for the
#: peaks, and small enough that some repeats are over before other work gets the processor.
SIZES, COPY = (512, 1024), 64 << 20


def measure(threads: int, seconds: float) -> Device:
    """What this machine is, with its peaks and copy bandwidth at ``threads`` threads; each is repeated for ``seconds``.

    Raises:
        RunFailed: the process died.
    """
    settled = inherit.environment(**dict.fromkeys(THREAD_VARIABLES, str(threads)))
    command = [sys.executable, "-P", "-m", "edgedeploy.bench.peaks", str(threads), str(seconds)]
    done = subprocess.run(command, env=settled, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        words = (done.stderr.strip().splitlines() or ["no word"])[-1]
        raise RunFailed(f"The probe of this machine ended with status {done.returncode}: {words}")
    return from_json(Device, json.loads(done.stdout.splitlines()[-1]), "the probe's answer")


def usable() -> int:
    """Threads that affinity and control group leave a process here; 1 where that is not known."""
    counted = this_machine().cpu.usable
    return (counted.value if counted is not None else None) or 1


def _answer(job: Job, tell: Tell) -> Device:
    tell("phase", {"phase": "measuring the peaks of this machine"})
    return measure(job.threads or usable(), job.duration)


if __name__ == "__main__":
    if len(sys.argv) == 1:
        sys.exit(serve(_answer))
    count = int(sys.argv[1])
    print(json.dumps(to_json(probe(SIZES[count > 2], float(sys.argv[2]), COPY, count))))
