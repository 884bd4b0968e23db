"""What ssh has to say, in one sentence each."""

from __future__ import annotations

import re

from edgedeploy.bench.remote.address import Address

#: What ssh writes, and what that means; ``{by_hand}`` is what people type behind ``ssh``, ``{known}`` the host as the
#: list of known hosts has it.
_REASONS = (
    (
        "REMOTE HOST IDENTIFICATION HAS CHANGED",
        "has another host key than the one that is known: it was set up anew, or another machine answers in its place. "
        "If it was, remove the old key with: ssh-keygen -R '{known}'",
    ),
    (
        "Host key verification failed",
        "has a host key that is not known here: connect once by hand and compare it, with: ssh {by_hand}",
    ),
    (
        "Permission denied",
        "does not let you in with the keys that ssh has: put one there with: ssh-copy-id {by_hand}",
    ),
    ("Too many authentication failures", "does not let you in: ssh has too many keys; name one in ~/.ssh/config."),
    ("Could not resolve hostname", "cannot be reached: there is no host of that name."),
    ("Connection refused", "cannot be reached: no ssh server answers on that port."),
    (
        "timed out|No route to host|Network is unreachable|Host is down|not responding",
        "cannot be reached: nothing answers. Is it on, and in this network?",
    ),
)
#: Lines of ssh that say nothing about why.
_NOISE = re.compile(r"^(Warning: Permanently added|mux_client|Shared connection|debug\d|Killed by signal)")


def refusal(words: str, address: Address) -> str:
    """Why ssh ended with status 255, as what follows the address in a sentence."""
    known = f"[{address.host}]:{address.port}" if address.port not in (None, 22) else address.host
    for pattern, text in _REASONS:
        if re.search(pattern, words):
            return text.format(by_hand=address.by_hand, known=known)
    said = last_line(words)
    return f"cannot be reached: {said}" if said else "cannot be reached: the connection was closed."


def last_line(words: str) -> str:
    """The last line that says something; empty where there is none."""
    lines = [line.strip() for line in words.splitlines() if line.strip() and not _NOISE.match(line)]
    return lines[-1] if lines else ""


def requirements(extra: str) -> list[str]:
    """The packages that edgedeploy's optional dependencies named ``extra`` are, as arguments of pip."""
    from importlib.metadata import PackageNotFoundError, distribution

    from packaging.requirements import Requirement

    try:
        wanted = list(map(Requirement, distribution("edgedeploy").requires or ()))
    except PackageNotFoundError:
        return [extra]
    optional = [r for r in wanted if r.marker and not r.marker.evaluate({"extra": ""}) and r.name != "edgedeploy"]
    return [f"{r.name}{r.specifier}" for r in optional if r.marker and r.marker.evaluate({"extra": extra})] or [extra]
