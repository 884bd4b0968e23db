"""One environment per backend, for vendors whose packages do not go together: made once, kept, found again.

An environment holds this very edgedeploy with the backend's extra, under the versions of torch and ONNX that are here,
so that an export in it starts from the same graph. It lies in the user's cache under a name that all of this goes into:
what is there under that name is whole (it is made under another one and renamed) and is what would be made again.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import Distribution, PackageNotFoundError, distribution, entry_points, version
from pathlib import Path
from urllib.parse import unquote, urlparse

from edgedeploy import plugins, units
from edgedeploy.errors import EdgeDeployError, Unavailable, UsageError, did_you_mean
from edgedeploy.records import canonical, from_json, read_json, to_json

SCHEMA = 1
#: Packages whose versions here hold there, too.
HELD = ("torch", "onnx", "onnxruntime")
#: Extras that an environment has if this one has them: to read images, to measure accuracy, to read checkpoints.
ABILITIES = ("images", "accuracy", "ultralytics")
RECORD, LOCK = "environment.json", "lock.txt"

#: Runs a command and returns what it wrote to standard output; raises `subprocess.CalledProcessError`.
Runner = Callable[[Sequence[str]], str]
Progress = Callable[[str], None]


@dataclass(frozen=True)
class Recipe:
    """What an environment is made of; its `key` is over all of it.

    Args:
        backend: whose it is.
        python: implementation and version of the interpreter, and the machine's instruction set.
        edgedeploy: version of edgedeploy.
        project: sha256 of what edgedeploy says that it needs.
        requirements: what is installed, as arguments of pip.
        constraints: versions that hold, as lines of a constraints file.
    """

    backend: str
    python: str
    edgedeploy: str
    project: str
    requirements: tuple[str, ...]
    constraints: tuple[str, ...]

    @property
    def key(self) -> str:
        """16 hexadecimal digits."""
        return hashlib.sha256(canonical(to_json(self))).hexdigest()[:16]


@dataclass(frozen=True)
class Record:
    """``environment.json``: the recipe and what came out. ``size`` in bytes, ``seconds`` that making it took."""

    schema: int
    recipe: Recipe
    tool: str
    packages: int
    size: int
    seconds: float


@dataclass(frozen=True)
class Environment:
    """An environment on disk that is whole."""

    path: Path
    record: Record
    reused: bool

    @property
    def python(self) -> Path:
        """Its interpreter."""
        return _python(self.path)

    def __str__(self) -> str:
        record, size = self.record, units.show(self.record.size, "B")
        if self.reused:
            return f"{self.path} is there already: {record.packages} packages, {size}"
        took = units.show(record.seconds, "s")
        return f"made {self.path} with {record.tool}: {record.packages} packages, {size}, in {took}"


def folder() -> Path:
    """Where environments are kept: ``edgedeploy/environments`` in the user's cache (``XDG_CACHE_HOME``)."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "edgedeploy" / "environments"


def recipe(backend: str) -> Recipe:
    """What the environment of ``backend`` is made of.

    Raises:
        UsageError: no such backend, or no extra that brings it.
        Unavailable: it cannot be found out where edgedeploy was installed from.
    """
    ours = distribution("edgedeploy")
    return Recipe(
        backend=backend,
        python=f"{platform.python_implementation()} {platform.python_version()} {platform.machine()}",
        edgedeploy=ours.version,
        project=_needs(ours),
        requirements=_requirements(backend, ours),
        constraints=tuple(f"{name}=={version(name).partition('+')[0]}" for name in HELD if _installed(name)),
    )


def prepare(backend: str, say: Progress | None = None, run: Runner | None = None) -> Environment:
    """The environment of ``backend``, made if it is not there.

    Raises:
        UsageError: see `recipe`.
        Unavailable: it cannot be made; the reason is the installer's.
    """
    wanted, say = recipe(backend), say or (lambda _: None)
    target = folder() / f"{backend}-{wanted.key}"
    found = _open(target, wanted)
    if found is not None:
        say(str(found))
        return found
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        _sweep(target)
        temporary = Path(tempfile.mkdtemp(prefix=f".{target.name}.{os.getpid()}.", suffix=".tmp", dir=target.parent))
    except OSError as error:
        raise UsageError(f"{target.parent} cannot be written: {error.strerror}.") from error
    try:
        record = _make(wanted, temporary, target, say, run or execute)
        (temporary / RECORD).write_text(json.dumps(to_json(record), indent=2) + "\n", "utf-8")
        made = _put(temporary, target, wanted, record)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    say(str(made))
    return made


def execute(command: Sequence[str]) -> str:
    """Run ``command``; see `Runner`. The end of what it says on standard error travels with its exception."""
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=True)
    return done.stdout


def _make(wanted: Recipe, place: Path, final: Path, say: Progress, run: Runner) -> Record:
    """Fill ``place``, which will be renamed to ``final``."""
    started = time.monotonic()
    uv = shutil.which("uv")
    tool = "uv" if uv else "pip"
    constraints = place / "constraints.txt"
    constraints.write_text("".join(f"{line}\n" for line in wanted.constraints), "utf-8")
    python = str(_python(place))
    if uv:
        create = [uv, "venv", "--quiet", "--allow-existing", "--python", sys.executable, str(place)]
        install, freeze = (
            [uv, "pip", "install", "--quiet", "--python", python],
            [uv, "pip", "freeze", "--python", python],
        )
    else:
        create = [sys.executable, "-m", "venv", str(place)]
        install = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        freeze = [python, "-m", "pip", "freeze", "--disable-pip-version-check"]
    try:
        say(f"making an environment for {wanted.backend} with {tool}")
        run(create)
        say(f"installing {', '.join(r for r in wanted.requirements if not r.startswith('--'))} in it")
        run([*install, "--constraint", str(constraints), *wanted.requirements])
        lock = run(freeze)
    except (subprocess.CalledProcessError, OSError) as error:
        raise Unavailable(f"The environment for {wanted.backend} cannot be made: {_reason(error)}") from error
    (place / LOCK).write_text(lock, "utf-8")
    _relocate(place, final)
    place.chmod(0o755)
    packages = sum(1 for line in lock.splitlines() if line.strip() and not line.startswith("#"))
    return Record(SCHEMA, wanted, tool, packages, _size(place), round(time.monotonic() - started, 3))


def _put(temporary: Path, target: Path, wanted: Recipe, record: Record) -> Environment:
    """Rename it to its place; where another process was faster, take that one's."""
    if target.exists() and (other := _open(target, wanted)) is not None:
        return other
    if target.exists():  # damaged by hand
        shutil.rmtree(target, ignore_errors=True)
    try:
        temporary.rename(target)
    except OSError as error:
        other = _open(target, wanted)
        if other is None:
            raise EdgeDeployError(f"{target} cannot be put in its place: {error.strerror}.") from error
        return other
    return Environment(target, record, reused=False)


def _open(path: Path, wanted: Recipe) -> Environment | None:
    """The environment at ``path``, if it is one, and whole, and what is wanted."""
    try:
        record = from_json(Record, read_json(path / RECORD), str(path / RECORD))
    except (UsageError, OSError):
        return None
    whole = record.schema == SCHEMA and record.recipe == wanted and _python(path).exists()
    return Environment(path, record, reused=True) if whole else None


def _requirements(backend: str, ours: Distribution) -> tuple[str, ...]:
    """Our distribution with its extras from where it was installed, and that of a backend that is not ours."""
    groups = (plugins.EXPORTERS, plugins.RUNTIMES)
    points = [p for group in groups for p in entry_points(group=group) if p.name == backend]
    if not points:
        raise UsageError(f"There is no backend '{backend}'.{did_you_mean(backend, _names(groups))}")
    theirs = points[0].dist
    foreign = theirs is not None and theirs.name.lower().replace("_", "-") != ours.name
    known = ours.metadata.get_all("Provides-Extra") or []
    if not foreign and backend not in known:
        raise UsageError(f"This edgedeploy has no extra '{backend}' to install it by.{did_you_mean(backend, known)}")
    extras = list(dict.fromkeys([*([] if foreign else [backend]), "export", *_abilities(ours)]))
    more = _origin(theirs, []) if foreign and theirs is not None else ()
    return (*_origin(ours, extras), *more)


def _abilities(ours: Distribution) -> list[str]:
    """Extras for what an export may need besides, as far as this environment has them."""
    from packaging.requirements import Requirement

    needs: dict[str, list[str]] = {extra: [] for extra in ABILITIES}
    for requirement in map(Requirement, ours.requires or ()):
        for extra, packages in needs.items():
            if requirement.marker and requirement.marker.evaluate({"extra": extra}) and requirement.name != ours.name:
                packages.append(requirement.name)
    return [extra for extra, packages in needs.items() if packages and all(map(_installed, packages))]


def _names(groups: Sequence[str]) -> list[str]:
    return [name for group in groups for name in plugins.names(group)]


def _origin(found: Distribution, extras: Sequence[str]) -> tuple[str, ...]:
    """What installs a distribution again, from where it came (PEP 610), as arguments of pip."""
    wanted = f"[{','.join(extras)}]" if extras else ""
    told = found.read_text("direct_url.json")
    if told is None:
        return (f"{found.name}{wanted}=={found.version}",)
    try:
        origin = json.loads(told)
        address = urlparse(origin["url"])
        if "dir_info" in origin:
            place = unquote(address.path) + wanted
            return ("--editable", place) if origin["dir_info"].get("editable") else (place,)
        if "vcs_info" in origin:
            commit = origin["vcs_info"]
            return (f"{found.name}{wanted} @ {commit['vcs']}+{origin['url']}@{commit['commit_id']}",)
        return (f"{found.name}{wanted} @ {origin['url']}",)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise Unavailable(
            f"It cannot be read where {found.name} was installed from ({error}). Install it again with pip."
        ) from error


def _needs(found: Distribution) -> str:
    """sha256 of pyproject.toml in a checkout (what was installed of it may be older), else of the metadata."""
    told = found.read_text("direct_url.json")
    with contextlib.suppress(ValueError, KeyError, TypeError, OSError):
        origin = json.loads(told or "")
        return hashlib.sha256(Path(unquote(urlparse(origin["url"]).path), "pyproject.toml").read_bytes()).hexdigest()
    return hashlib.sha256("\n".join(found.requires or []).encode()).hexdigest()


def _installed(name: str) -> bool:
    try:
        version(name)
    except PackageNotFoundError:
        return False
    return True


def _python(path: Path) -> Path:
    return path / "bin" / "python"


def _relocate(place: Path, final: Path) -> None:
    """Let scripts name the folder that the environment will have: installers write the present one in them."""
    old, new = str(place).encode(), str(final).encode()
    for script in (*(place / "bin").iterdir(), place / "pyvenv.cfg"):
        if script.is_file() and not script.is_symlink() and old in (data := script.read_bytes()) and b"\0" not in data:
            script.write_bytes(data.replace(old, new))


def _size(path: Path) -> int:
    return sum(p.lstat().st_size for p in path.rglob("*") if p.is_file() and not p.is_symlink())


def _reason(error: Exception) -> str:
    """The installer's own words: its lines that begin with ERROR or error, else its last ones."""
    if not isinstance(error, subprocess.CalledProcessError):
        return f"{error}."
    lines = [line.strip() for line in (error.stderr or error.stdout or "").splitlines() if line.strip()]
    said = [line for line in lines if line.lower().startswith(("error", "×"))] or lines[-3:]
    words = " ".join(line.removeprefix("ERROR: ") for line in said)[:600]
    return words or f"{Path(error.cmd[0]).name} ended with status {error.returncode}."


def _sweep(target: Path) -> None:
    """Remove what processes that are gone have left half made."""
    for path in target.parent.glob(f".{target.name}.*.tmp"):
        number = path.name.removeprefix(f".{target.name}.").partition(".")[0]
        if not number.isdigit() or not _alive(int(number)):
            shutil.rmtree(path, ignore_errors=True)


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
