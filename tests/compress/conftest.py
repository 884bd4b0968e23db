"""Ultralytics is imported once, held to manners, before a test of this folder imports it.

Otherwise the tests that run after these in the same process would have its Pillow and its OpenCV.
"""

from __future__ import annotations

from contextlib import suppress

with suppress(ImportError):
    from edgedeploy.models.yolo import quietly

    with quietly():
        import ultralytics.nn.tasks  # noqa: F401
