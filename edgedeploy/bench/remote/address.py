"""The address of a device that is reached over ssh."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from urllib.parse import parse_qsl, quote, urlsplit

from edgedeploy import units
from edgedeploy.errors import UsageError, did_you_mean

#: What may follow the host, behind a question mark.
_SETTINGS = ("python", "wait")
# No dash in front, where ssh would take it for an option, and nothing that the shell of a ProxyCommand would read.
_HOST = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*|[0-9A-Fa-f:.]*:[0-9A-Fa-f:.]+(%[A-Za-z0-9_.]+)?")
_USER = re.compile(r"[A-Za-z0-9_.][A-Za-z0-9_.+-]*")
_PYTHON = re.compile(r"[A-Za-z0-9_.~/][^\x00-\x1f]*")


@dataclass(frozen=True)
class Address:
    """``ssh://[user@]host[:port][?python=PATH&wait=TIME]``; the host may be a name of ``~/.ssh/config``.

    Args:
        host: name or number.
        user: ``None`` leaves it to the configuration of ssh, as it does the ``port``.
        python: the interpreter there, such as ``~/venv/bin/python``; ``None`` is ``python3``.
        wait: seconds to wait for a device that somebody else measures on.
    """

    host: str
    user: str | None = None
    port: int | None = None
    python: str | None = None
    wait: float = 0.0

    def __post_init__(self) -> None:
        for what, value, pattern in (("host", self.host, _HOST), ("user", self.user, _USER)):
            if value is not None and not pattern.fullmatch(value):
                raise UsageError(f"'{value}' can be no {what} of an ssh address: write ssh://user@host:port.")
        if self.python is not None and not _PYTHON.fullmatch(self.python):
            raise UsageError(f"'{self.python}' can be no interpreter: give its path there, as ~/venv/bin/python.")
        if self.port is not None and not 0 < self.port < 1 << 16:
            raise UsageError(f"{self.port} is no port.")
        if self.wait < 0:
            raise UsageError(f"Nobody can wait for {self.wait:g} s.")

    @classmethod
    def parse(cls, text: str) -> Address:
        """The address that ``text`` is.

        Raises:
            UsageError: it is none, or holds what no host, user or path does.
        """
        try:
            parts = urlsplit(text)
            port = parts.port
            given = dict(parse_qsl(parts.query, keep_blank_values=True, strict_parsing=bool(parts.query)))
        except ValueError as error:
            raise UsageError(f"'{text}' is no address ({error}): write ssh://user@host:port.") from None
        if parts.scheme != "ssh" or parts.path not in ("", "/") or parts.fragment or parts.password is not None:
            raise UsageError(f"'{text}' is no address: write ssh://user@host:port, without password and path.")
        for key in given:
            if key not in _SETTINGS:
                raise UsageError(f"'{text}': an address has no '{key}'.{did_you_mean(key, _SETTINGS)}")
        wait = units.parse(given["wait"], "s") if "wait" in given else 0.0
        return cls(_host(parts.netloc), parts.username, port, given.get("python"), wait)

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"ssh://{self.user + '@' if self.user else ''}{host}{f':{self.port}' if self.port else ''}"

    @property
    def full(self) -> str:
        """The text that `parse` makes this address of."""
        settings = {"python": self.python, "wait": f"{self.wait:g}s" if self.wait else None}
        query = "&".join(f"{key}={quote(value, safe='/~')}" for key, value in settings.items() if value is not None)
        return f"{self}{'?' if query else ''}{query}"

    @property
    def arguments(self) -> list[str]:
        """As arguments of ssh."""
        port = ["-p", str(self.port)] if self.port else []
        return [*port, *(["-l", self.user] if self.user else []), "--", self.host]

    @property
    def by_hand(self) -> str:
        """What people type behind ``ssh``."""
        port = f"-p {self.port} " if self.port else ""
        return f"{port}{self.user + '@' if self.user else ''}{self.host}"

    @property
    def interpreter(self) -> str:
        """The interpreter as a word for a shell there, which knows where ``~`` is."""
        python = self.python or "python3"
        return f"~/{shlex.quote(python[2:])}" if python.startswith("~/") else shlex.quote(python)


def _host(netloc: str) -> str:
    """As it was written: `urlsplit` gives it in lower case, and names of a configuration have both."""
    place = netloc.rpartition("@")[2]
    return place[1:].partition("]")[0] if place.startswith("[") else place.partition(":")[0]
