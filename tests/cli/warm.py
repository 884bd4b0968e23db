"""Commands in processes of their own that need not import again what every one of them imports.

They are forked from a server that has imported it once; nothing that is asked of one command can reach another.
"""

from __future__ import annotations

import multiprocessing
import os
import sys
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path

#: What most of the time of a short command goes into.
HEAVY = ["torch.export", "torch.onnx", "onnx", "onnxscript.optimizer", "onnxruntime", "PIL.Image", "edgedeploy.cli.app"]


def run(
    arguments: Sequence[str], cwd: Path, environment: Mapping[str, str], out: tuple[Path, Path], limit: float
) -> int | None:
    """Exit status of ``edgedeploy`` with these arguments, or ``None`` if it took more than ``limit`` seconds.

    Its standard output and error are written to the two files of ``out``.
    """
    server = multiprocessing.get_context("forkserver")
    server.set_forkserver_preload(HEAVY)
    process = server.Process(target=_command, args=(list(arguments), cwd, dict(environment), out))
    process.start()
    process.join(limit)
    if process.is_alive():
        process.kill()
        return None
    return process.exitcode


def _command(arguments: list[str], cwd: Path, environment: dict[str, str], out: tuple[Path, Path]) -> None:
    from edgedeploy.cli.app import main
    from edgedeploy.cli.child import CHILD

    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND
    for at, path in enumerate((Path(os.devnull), *out)):
        opened = os.open(path, flags if at else os.O_RDONLY, 0o600)
        os.dup2(opened, at)
        os.close(opened)
    sys.stdin, sys.stdout, sys.stderr = (os.fdopen(at, "w" if at else "r", encoding="utf-8") for at in range(3))
    os.environ.clear()
    os.environ.update(environment, **{CHILD: "1"})  # it is guarded here: `export` need not start another for its work
    if torch := sys.modules.get("torch"):  # imported where this was not said
        torch.set_num_threads(int(environment["OMP_NUM_THREADS"]))
    os.chdir(cwd)
    sys.argv = ["edgedeploy", *arguments]
    try:
        main()
    except SystemExit:
        raise
    except BaseException:
        traceback.print_exc()
        sys.exit(1)
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
