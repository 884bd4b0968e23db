"""What an ExecuTorch program of this project says about itself: a method of its own that returns JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field

from edgedeploy.errors import UsageError
from edgedeploy.records import from_json, to_json

#: The method of a program that returns its `Contents` as JSON.
METHOD = "edgedeploy"


@dataclass(frozen=True)
class Entry:
    """How one graph is called.

    Args:
        methods: by batch size, as text; by ``""`` the one that takes every shape.
        largest: of each dynamic dimension.
        state: names of the mutable buffers of its methods.
    """

    methods: Mapping[str, str]
    largest: Mapping[str, int] = field(default_factory=dict)
    state: tuple[str, ...] = ()


@dataclass(frozen=True)
class Contents:
    """The graphs of a program by name, the backends it delegates to, and the precision that it computes in."""

    graphs: Mapping[str, Entry]
    backends: tuple[str, ...] = ()
    computes_in: str = "fp32"

    def dumps(self) -> str:
        """As JSON."""
        return json.dumps(to_json(self), sort_keys=True)

    @classmethod
    def loads(cls, text: str, where: str) -> Contents:
        """From JSON.

        Raises:
            UsageError: it is none of ours.
        """
        try:
            plain = json.loads(text)
        except ValueError as error:
            raise UsageError(f"{where}: its method '{METHOD}' does not return what this project writes.") from error
        return from_json(cls, plain, where)
