"""Core ML Tools, imported when needed and kept quiet."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import sys
import tempfile
import warnings
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from edgedeploy.errors import Unavailable

#: Specification versions of the package format, by the first iOS that reads them, and the macOS of the same autumn.
SPECIFICATION = {"iOS16": 7, "iOS17": 8, "iOS18": 9, "iOS26": 10}
MACOS = {"iOS16": "macOS 13", "iOS17": "macOS 14", "iOS18": "macOS 15", "iOS26": "macOS 26"}


def coremltools_version() -> str:
    """Version of Core ML Tools, without importing it.

    Raises:
        Unavailable: it is not installed.
    """
    try:
        return version("coremltools")
    except PackageNotFoundError:
        raise Unavailable.extra("Core ML Tools", "coreml") from None


def coremltools() -> Any:
    """The module ``coremltools``, which takes seconds to import and talks about what it does not find.

    Raises:
        Unavailable: it is not installed.
    """
    if "coremltools" not in sys.modules:
        coremltools_version()
        with quiet():
            import coremltools
    import coremltools

    return coremltools


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep progress bars, advice and warnings of vendor libraries off standard error and output, C++ included.

    What was said is lost, except where an exception says it again. The descriptors belong to the process: other
    threads are silent for so long, too.
    """
    loggers = [logging.getLogger(name) for name in ("coremltools", "torch", "torchao")]
    levels = [logger.level for logger in loggers]
    sys.stdout.flush()
    sys.stderr.flush()
    saved = [os.dup(1), os.dup(2)]
    words = io.StringIO()  # standard streams need not be the descriptors: in a notebook they are not
    with (
        tempfile.TemporaryFile() as sink,
        warnings.catch_warnings(),
        contextlib.redirect_stdout(words),
        contextlib.redirect_stderr(words),
    ):
        warnings.simplefilter("ignore")
        os.dup2(sink.fileno(), 1)
        os.dup2(sink.fileno(), 2)
        for logger in loggers:
            logger.setLevel(logging.CRITICAL)
        try:
            yield
        finally:
            for descriptor, copy in zip((1, 2), saved, strict=True):
                os.dup2(copy, descriptor)
                os.close(copy)
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)
