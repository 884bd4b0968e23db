"""The documentation is executed, and says nothing that is not so.

Blocks of README.md, devices/README.md, docs/ and exporters/*/README.md, by the word behind their three backticks:

- ``console``: a line ``$ COMMAND`` (continued on lines that begin with ``> ``) is run by bash in a folder that the
  blocks of one page share, with its files, variables and working directory. Its exit status is 0; ``console exit=4``
  says that the last command of the block has another one. The lines below a command are its output.
- ``python``: run in the same folder. ``python file=NAME`` (also ``toml`` and ``yaml``) is saved there instead.
- ``sh``: not run, because it installs something or needs another machine; its make targets and extras have to exist.
- ``text``: for people.
- ``needs=NAME,...`` behind any of them: the block is left out where a package of that name is not installed, or no file
  of that name is in the folder with real checkpoints.

Shown output is compared line by line with standard output, followed by standard error without its progress (lines that
begin with two spaces). Blank lines and the amount of white space do not count; numbers, units' prefixes and digests are
all alike; ``...`` stands for any text, and on a line of its own for any number of lines. Everything else has to agree:
what is left out is marked.

``demo/`` with 40 scenes and ``out/aerial.edge`` are there from the start, made by the commands that the pages show:
making them again for each page would take most of the time.
"""

from __future__ import annotations

import functools
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import typer

from edgedeploy.cli.app import app

ROOT = Path(__file__).resolve().parents[1]
KINDS = {"console", "python", "toml", "yaml", "sh", "text"}
PATTERNS = ("README.md", "CHANGELOG.md", "devices/README.md", "docs/**/*.md", "exporters/*/README.md")
PAGES = sorted(page for pattern in PATTERNS for page in ROOT.glob(pattern))
#: Seconds that one command may take.
LIMIT = 300


@dataclass(frozen=True)
class Block:
    """One fenced block: its kind, what else its first line says, its text, and where it begins."""

    kind: str
    says: dict[str, str]
    text: str
    line: int


@dataclass(frozen=True)
class Command:
    """A command with the output that is shown below it."""

    text: str
    shown: tuple[str, ...]


def blocks(text: str) -> Iterator[Block]:
    """Every fenced block of a page."""
    opened: tuple[int, str] | None = None
    inside: list[str] = []
    for number, line in enumerate(text.splitlines(), 1):
        if not line.startswith("```"):
            inside.append(line)
        elif opened is None:
            opened, inside = (number, line[3:]), []
        else:
            kind, *rest = opened[1].split() or [""]
            says = dict(word.split("=", 1) for word in rest)
            yield Block(kind, says, "\n".join(inside) + "\n", opened[0])
            opened = None
    assert opened is None, f"the block that begins in line {opened and opened[0]} has no end"


def commands(block: Block) -> list[Command]:
    """The commands of a console block."""
    found: list[tuple[str, list[str]]] = []
    for line in block.text.splitlines():
        if line.startswith("$ "):
            found.append((line[2:], []))
        elif line.startswith("> ") and found and not found[-1][1]:
            found[-1] = (f"{found[-1][0]}\n{line[2:]}", [])
        else:
            assert found, f"line {block.line}: output before any command"
            found[-1][1].append(line)
    return [Command(text, tuple(shown)) for text, shown in found]


def plain(line: str) -> str:
    """A line without what differs from run to run: see the top of this file."""
    line = re.sub(r"\b(?=[0-9a-f]*\d)[0-9a-f]{8,}\b", "#", line)
    line = re.sub(r"[-+]?\d+(?:\.\d+)*(?:e[-+]?\d+)?", "#", line)
    line = re.sub(r"needs # samples", "# s", line)
    line = re.sub(r"# [numkMGT]?(s|Hz)\b", r"# \1", line)
    line = re.sub(r"# [KMGT]?i?(B|FLOP/s|OP/s)\b", r"# \1", line)
    return " ".join(re.sub(r"─+", "─", line).split())


def agree(shown: Sequence[str], got: Sequence[str]) -> bool:
    """Whether output is as shown."""
    wanted = [plain(line) for line in shown if line.strip()]
    found = [plain(line) for line in got if line.strip()]
    pattern = "".join(
        r"(?:[^\n]*\n)*?" if line == "..." else ".*".join(map(re.escape, re.split(r" ?\.\.\. ?", line))) + r"\n"
        for line in wanted
    )
    return re.fullmatch(pattern, "".join(f"{line}\n" for line in found)) is not None


def at_hand(name: str) -> bool:
    """Whether a package, or a file among the real checkpoints, is here."""
    return importlib.util.find_spec(name) is not None if "." not in name else (weights() / name).is_file()


def weights() -> Path:
    """Where real checkpoints are, if they are."""
    return Path(os.environ.get("EDGEDEPLOY_SHARED", ROOT.parent / "shared")) / "weights"


@dataclass(frozen=True)
class Shell:
    """Runs one command after another in ``folder``; variables and the working directory are kept between them."""

    folder: Path
    state: Path

    def run(self, command: str) -> tuple[int, list[str]]:
        """Exit status and the lines of the output."""
        script = (
            f'[ -f "{self.state}" ] && source "{self.state}"\n{command}\nstatus=$?\n'
            f'{{ export -p; printf "cd %q\\n" "$PWD"; }} > "{self.state}"\nexit $status'
        )
        done = subprocess.run(
            ["bash", "-c", script],
            cwd=self.folder,
            env=self._environment(),
            capture_output=True,
            text=True,
            timeout=LIMIT,
            check=False,
        )
        words = [line for line in done.stderr.splitlines() if not line.startswith("  ")]
        return done.returncode, [*done.stdout.splitlines(), *words]

    def _environment(self) -> dict[str, str]:
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        home = {"HOME": str(self.state.parent), "XDG_CACHE_HOME": str(self.state.parent / "cache")}
        home |= {f"XDG_{kind}_HOME": str(self.state.parent / kind.lower()) for kind in ("CONFIG", "DATA")}
        python = {"PATH": path, "PYTHONPATH": "", "PYTHONSAFEPATH": ""}
        return {**os.environ, **home, **python, "PIP_DISABLE_PIP_VERSION_CHECK": "1", "PIP_ROOT_USER_ACTION": "ignore"}


def run_page(text: str, shell: Shell) -> None:
    """Run every block of a page, and compare what is shown."""
    for block in blocks(text):
        assert block.kind in KINDS, f"line {block.line}: a block of kind '{block.kind}' is none of {sorted(KINDS)}"
        needs = [name for name in block.says.get("needs", "").split(",") if name]
        if not all(map(at_hand, needs)):
            continue
        for name in (name for name in needs if "." in name):
            shutil.copy(weights() / name, shell.folder / name)
        if "file" in block.says:
            target = shell.folder / block.says["file"]
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(block.text, "utf-8")
        elif block.kind == "python":
            (shell.folder / "block.py").write_text(block.text, "utf-8")
            status, got = shell.run("python block.py")
            assert status == 0, f"line {block.line}: status {status}\n" + "\n".join(got)
        elif block.kind == "console":
            run_console(block, shell)


def run_console(block: Block, shell: Shell) -> None:
    """Run the commands of one block."""
    found = commands(block)
    for number, command in enumerate(found, 1):
        wanted = int(block.says.get("exit", "0")) if number == len(found) else 0
        status, got = shell.run(command.text)
        where = f"line {block.line}: {command.text}\n"
        assert status == wanted, f"{where}status {status}, not {wanted}\n" + "\n".join(got)
        shown = "\n".join(command.shown)
        assert agree(command.shown, got), f"{where}--- shown\n{shown}\n--- got\n" + "\n".join(got)


def runs(page: Path) -> bool:
    """Whether there is something to run in a page."""
    return any(block.kind in ("console", "python") for block in blocks(page.read_text("utf-8")))


def name_of(page: Path) -> str:
    """A page's path in the project."""
    return page.relative_to(ROOT).as_posix()


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what most pages begin with."""
    folder = tmp_path_factory.mktemp("start")
    shell = Shell(folder, tmp_path_factory.mktemp("state") / "state")
    for command in ("edgedeploy demo --data-only --scenes 40 -o demo", "edgedeploy export demo/aerial.safetensors"):
        status, got = shell.run(command)
        assert status == 0, got
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("page", [page for page in PAGES if runs(page)], ids=name_of)
def test_what_a_page_shows_is_what_happens(page: Path, start: Path, tmp_path: Path) -> None:
    folder = tmp_path / "work"
    shutil.copytree(start, folder)
    run_page(page.read_text("utf-8"), Shell(folder, tmp_path / "state"))


# --- what can be told without running anything ---------------------------------------------------------------------

EVERY = pytest.mark.parametrize("page", PAGES, ids=name_of)


def prose(page: Path) -> str:
    """A page without its fenced blocks."""
    return re.sub(r"^```.*?^```$", "", page.read_text("utf-8"), flags=re.MULTILINE | re.DOTALL)


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as they are made from the text: lower case, hyphens, no punctuation."""
    headings = re.findall(r"^#+ (.*)$", prose(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading).strip().lower().replace(" ", "-") for heading in headings}


@EVERY
def test_links_lead_somewhere(page: Path) -> None:
    for link in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
        if re.match(r"[a-z]+:", link):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), f"{link} is not there"
        assert target.is_relative_to(ROOT), f"{link} leaves the project"
        assert not anchor or anchor in anchors(target), f"{link}: there is no such heading"


@functools.cache
def options() -> dict[str, set[str]]:
    """The options of every command; those of the program itself under an empty name."""
    found: dict[str, set[str]] = {}

    def collect(name: str, command: Any) -> None:
        found[name] = {"--help", "-h"} | {o for p in command.params for o in (*p.opts, *p.secondary_opts)}
        for child, below in getattr(command, "commands", {}).items():
            collect(f"{name} {child}".strip(), below)

    collect("", typer.main.get_command(app))
    return found


@EVERY
def test_options_exist(page: Path) -> None:
    known = options()
    everywhere = set().union(*known.values())
    for code in re.findall(r"`([^`\n]+)`", prose(page)):
        words = code.split()
        flags = {word.partition("=")[0] for word in words if re.fullmatch(r"--?[a-z][\w-]*(=.*)?", word)}
        if words[0].startswith("-"):
            assert flags <= everywhere, f"`{code}`: no command has {flags - everywhere}"
        elif words[0] == "edgedeploy":
            name = next((n for n in (" ".join(words[1:3]), " ".join(words[1:2])) if n in known), "")
            assert name or len(words) == 1 or words[1].startswith("-"), f"`{code}`: there is no such command"
            assert flags <= known[name], f"`{code}`: '{name}' has no {flags - known[name]}"


@EVERY
def test_make_targets_and_extras_exist(page: Path) -> None:
    extras = set(tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["optional-dependencies"])
    for named in re.findall(r"edgedeploy\[([\w,]+)\]", page.read_text("utf-8")):
        assert set(named.split(",")) <= extras, f"there is no extra among {named}"
    for block in blocks(page.read_text("utf-8")):
        for target in re.findall(r"^make +(\w+)", block.text, re.MULTILINE) if block.kind == "sh" else ():
            done = subprocess.run(["make", "-n", target], cwd=ROOT, capture_output=True, text=True, check=False)
            assert done.returncode == 0, done.stderr


@EVERY
def test_a_page_speaks_of_the_project_alone(page: Path) -> None:
    text = page.read_text("utf-8")
    foreign = {
        "an absolute path": r"(?<![\w.:/])/(?:home|root|work|workspace|tmp|usr|var|opt|mnt|Users)/\w",
        "a package host": r"pypi|pythonhosted|index-url|artifactory|nexus|(?:localhost|\d+\.\d+\.\d+\.\d+):\d+",
        "an issue": r"/issues/|/pull/|\b(?:issue|PR|ticket) ?#?\d|(?<![\w&])#\d+\b",
        "how it was written": r"\b(?:this|the last|another) session\b|\bsub-?agent|\bassistant\b",
    }
    for what, pattern in foreign.items():
        found = re.search(pattern, text)
        assert found is None, f"{what}: {found and found[0]}"


# --- the rules above, tested ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shown", "got"),
    [
        (["median 17.3 ms of 111"], ["median 950 us of 2400"]),
        (["size  779 KiB"], ["size 2.58 MiB"]),
        (["sha256 cbf04dd68b7a"], ["sha256 000000000001"]),
        (["first", "...", "last"], ["first", "a", "b", "last"]),
        (["first", "...", "last"], ["first", "last"]),
        (["needs ..., which"], ["needs x, y, which"]),
        (["one sentence. ..."], ["one sentence."]),
        (["p99 needs 459 samples"], ["p99 1.2 ms"]),
        ([], []),
    ],
)
def test_output_that_agrees(shown: list[str], got: list[str]) -> None:
    assert agree(shown, got)


@pytest.mark.parametrize(
    ("shown", "got"),
    [
        (["pass: 1"], ["fail: 1"]),
        (["first", "last"], ["first", "between", "last"]),
        (["first"], ["first", "more"]),
        (["first", "second"], ["first"]),
        (["size 1 KiB"], ["size 1 ms"]),
        ([], ["something"]),
        (["a bead"], ["a facade"]),
    ],
)
def test_output_that_does_not(shown: list[str], got: list[str]) -> None:
    assert not agree(shown, got)


PAGE = """
```console
$ export WORD=kept && mkdir below && cd below
$ echo $WORD && pwd | sed 's|.*/||'
kept
below
```

```python file=below/here.py
print("from a file")
```

```console exit=4
$ python here.py
from a file
$ echo "  progress" >&2; echo "error: no" >&2
> (exit 4)
error: no
```
"""


def test_a_page_is_run(tmp_path: Path) -> None:
    (tmp_path / "work").mkdir()
    run_page(PAGE, Shell(tmp_path / "work", tmp_path / "state"))


@pytest.mark.parametrize(
    ("old", "new"), [("kept\nbelow", "lost\nbelow"), ("exit=4", ""), ('print("from', 'print("not from'), ("> ", "")]
)
def test_a_page_that_is_wrong_is_found_out(tmp_path: Path, old: str, new: str) -> None:
    (tmp_path / "work").mkdir()
    wrong = PAGE.replace(old, new)
    with pytest.raises(AssertionError, match="line "):
        run_page(wrong, Shell(tmp_path / "work", tmp_path / "state"))


def test_a_page_without_an_end_is_found_out() -> None:
    with pytest.raises(AssertionError, match="no end"):
        list(blocks("```console\n$ true\n"))
