"""Writing the program: with shapes that vary where the delegate can do it, and that is found out by running it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from edgedeploy.errors import ExportFailed
from edgedeploy_executorch.contents import Contents, Entry
from edgedeploy_executorch.delegates import Delegate
from edgedeploy_executorch.lower import Lowered, Plan, lower
from edgedeploy_executorch.methods import Part, stuck
from edgedeploy_executorch.runtime import ExecuTorchRuntime

#: The file of all graphs, and what a profile of it is read with.
FILE, RECORD = "model.pte", "etrecord.bin"


@dataclass(frozen=True)
class Writer:
    """Where to, for whom, and how.

    Args:
        directory: gets the file.
        delegate: takes what it can.
        precision: of the artifact.
        computes_in: the precisions in it, in words.
        shares_state: state of the same name in several graphs is one.
        etrecord: keep what a profile is read with.
    """

    directory: Path
    delegate: Delegate
    precision: str
    computes_in: str
    shares_state: bool = False
    etrecord: bool = False

    def write(self, parts: Sequence[Part], here: bool) -> tuple[Lowered, dict[str, Entry], list[str]]:
        """Write the program of these graphs; ``here`` says whether it can be run on this machine.

        Returns:
            What was lowered, how each graph is called, and what the user should know.

        Raises:
            ExportFailed, UsageError: see `lower` and `Part.programs`.
        """
        varies = {part.name: here for part in parts}
        reasons = {} if here else {part.name: "it cannot be tried on this machine" for part in parts if part.largest}
        while True:
            try:
                lowered, entries = self._lower(parts, varies)
                failed = self._stuck(parts, varies) if here else {}
            except ExportFailed as error:
                failed = {p.name: str(error) for p in parts if p.largest and varies[p.name]}
                if not failed:
                    raise
            if not failed:
                return lowered, entries, [_note(part, reasons[part.name]) for part in parts if part.name in reasons]
            reasons |= failed
            varies |= dict.fromkeys(failed, False)

    def _lower(self, parts: Sequence[Part], varies: Mapping[str, bool]) -> tuple[Lowered, dict[str, Entry]]:
        programs = {method: p for part in parts for method, p in part.programs(varies[part.name]).items()}
        entries = {part.name: part.entry(varies[part.name]) for part in parts}
        backends = (self.delegate.backend,) if self.delegate.backend else ()
        contents = Contents(entries, backends, self.computes_in)
        plan = Plan(programs, contents, self.delegate, self.precision, self.shares_state)
        lowered = lower(plan, self.directory / RECORD if self.etrecord else None)
        (self.directory / FILE).write_bytes(lowered.data)
        return lowered, entries

    def _stuck(self, parts: Sequence[Part], varies: Mapping[str, bool]) -> dict[str, str]:
        moving = [part for part in parts if part.largest and varies[part.name]]
        if not moving:
            return {}
        file = self.directory / FILE
        session = ExecuTorchRuntime().open(
            dict.fromkeys((p.name for p in moving), file), {p.name: p.signature for p in moving}
        )
        found = {part.name: stuck(part, session) for part in moving}
        session.close()
        return {name: reason for name, reason in found.items() if reason}


def _note(part: Part, reason: str) -> str:
    return (
        f"graph '{part.name}' has one method per batch size, 1 to {part.largest['batch']}: "
        f"one for all of them does not work ({reason})"
    )
