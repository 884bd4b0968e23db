"""``edgedeploy regress``: has it become slower, in the middle or in the tail?"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgedeploy.cli.terminal import Json, print_json, print_notes, print_table, writable
from edgedeploy.errors import UsageError

if TYPE_CHECKING:
    from edgedeploy.bench.measurement import Measurement
    from edgedeploy.history import History
    from edgedeploy.regress import Regression


def regress(
    against: Annotated[str, typer.Option(help="What it was: a .jsonl file, an id of the history, or a baseline.")],
    now: Annotated[
        str | None,
        typer.Argument(help="What it is: the same, or a bundle; else the newest of its kind."),
    ] = None,
    margin: Annotated[str, typer.Option(help="How much slower does not matter, as 5%.")] = "5%",
    force: Annotated[bool, typer.Option("--force", help="Compare even where the conditions differ.")] = False,
    allow_unknown: Annotated[
        bool, typer.Option("--allow-unknown", help="Let 'not enough data' be the status 0, too.")
    ] = False,
    markdown: Annotated[Path | None, typer.Option(help="Write the answer to this file as Markdown, too.")] = None,
    as_json: Json = False,
) -> None:
    """Compare the distribution of a measurement with that of an earlier one; 4 is the status of 'slower'."""
    from edgedeploy.history import History
    from edgedeploy.regress import Rules, regressions
    from edgedeploy.units import parse_share

    share = parse_share(margin)
    if share > 1 and "%" not in margin:
        raise UsageError(f"A margin of {share:g} is {share:.0%}: write {share:g}%, or {share:.0%} where that is meant.")
    rules = Rules(share, force=force)
    history = History()
    before = _measurements(history, against)
    after = _newest(history, before) if now is None else _measurements(history, now)
    found = regressions(before, after, rules)
    if markdown is not None:
        from edgedeploy.report import regress as report

        with writable(markdown):
            markdown.write_text(report.markdown(found), "utf-8")
    if as_json:
        print_json({"against": against, "regressions": found})
    else:
        for one in found:
            _print(one)
    refused = {"fail"} if allow_unknown else {"fail", "not enough data"}
    if any(one.outcome in refused for one in found):
        raise typer.Exit(4)


def _measurements(history: History, text: str) -> list[Measurement]:
    from edgedeploy.history import read_lines

    if re.fullmatch("[0-9]{1,18}", text):
        return [history.load(int(text))]
    if text.endswith(".jsonl"):
        return list(read_lines(Path(text)))
    if Path(text).exists():
        from edgedeploy.archive import open_artifact

        rows = history.find(artifact=open_artifact(text).digest, limit=1)
        if not rows:
            raise UsageError(f"{text} was not measured yet: {history.path} has nothing of it. Run edgedeploy bench.")
        return [history.load(rows[0].id)]
    return [history.load(history.baseline(text))]


def _newest(history: History, before: list[Measurement]) -> list[Measurement]:
    """Of each subject the newest measurement in the history that is later than ``before`` and was made in that way.

    A run by LoadGen, or in turn with another bundle, is no newer state of one that was neither.
    """
    from edgedeploy.regress import subject

    found: dict[str, Measurement] = {}
    for wanted in before:
        conditions = wanted.conditions
        if subject(wanted) in found:
            continue
        like = {"model": conditions.name, "backend": conditions.backend, "scenario": conditions.scenario.name}
        for row in reversed(history.find(**like)):  # type: ignore[arg-type]
            candidate = history.load(row.id)
            known = (candidate.conditions.in_turn, candidate.conditions.scenario.engine)
            if known != (conditions.in_turn, conditions.scenario.engine) or candidate.created < wanted.created:
                continue
            if subject(candidate) == subject(wanted) and candidate not in before:
                found[subject(wanted)] = candidate
                break
    if not found:
        names = "; ".join(dict.fromkeys(subject(measurement) for measurement in before))
        raise UsageError(f"{history.path} has no later measurement of {names}. Run edgedeploy bench first.")
    return list(found.values())


def _print(regression: Regression) -> None:
    from edgedeploy.report.regress import HEADER, change_rows, means, notes, ranks

    processes, samples = regression.processes, regression.samples
    several = "process" if processes[0] == 1 else "processes"
    title = (
        f"{regression.subject}: {samples[0]} samples of {processes[0]} {several} before, "
        f"{samples[1]} of {processes[1]} now"
    )
    print_table(title, HEADER, change_rows(regression))
    if means(regression):
        typer.echo(means(regression))
    typer.echo(ranks(regression))
    print_notes(notes(regression))
    typer.echo(f"{regression.outcome}: {regression.sentence}")
