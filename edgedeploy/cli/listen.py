"""``edgedeploy listen``: what is said in a file or before a microphone, and after how much of it that is known?"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgedeploy.cli.hearing import Done, File, Hearing, Kept, Microphone, Voice, line
from edgedeploy.cli.running import Bundle, Threads
from edgedeploy.cli.terminal import print_notes, print_table, writable
from edgedeploy.errors import UsageError

if TYPE_CHECKING:
    from edgedeploy.listening import Policy

#: Exit status after Ctrl-C, as shells have it.
INTERRUPTED = 130

_WHAT, _WHEN, _KEEP = "What to listen to", "When a word is decided on", "What to keep"


def _list_microphones(wanted: bool) -> None:
    if wanted:
        from edgedeploy.tasks.microphone import inputs

        rows = [
            (str(one.index), one.name, str(one.channels), f"{one.rate:g} Hz", "default" if one.default else "")
            for one in inputs()
        ]
        print_table("inputs that record sound here", ("number", "name", "channels", "its own rate", ""), rows)
        raise typer.Exit


def listen(
    bundle: Bundle,
    wav: Annotated[
        list[Path] | None, typer.Option(help="A file of sound; may be given several times.", rich_help_panel=_WHAT)
    ] = None,
    microphone: Annotated[
        bool, typer.Option("--microphone", help="Listen until Ctrl-C.", rich_help_panel=_WHAT)
    ] = False,
    source: Annotated[
        str | None, typer.Option("--input", help="Microphone by number or name.", rich_help_panel=_WHAT)
    ] = None,
    microphones: Annotated[
        bool,
        typer.Option(
            "--microphones", callback=_list_microphones, is_eager=True, help="List them.", rich_help_panel=_WHAT
        ),
    ] = False,
    duration: Annotated[
        str | None, typer.Option(help="Of listening to the microphone, as 10s.", rich_help_panel=_WHAT)
    ] = None,
    continuous: Annotated[
        bool,
        typer.Option("--continuous", help="A file holds words one after the other, not one.", rich_help_panel=_WHAT),
    ] = False,
    resample: Annotated[
        bool, typer.Option("--resample", help="Take files of another sample rate.", rich_help_panel=_WHAT)
    ] = False,
    threads: Threads = None,
    threshold: Annotated[
        float | None, typer.Option(help="Score that a word has to reach, 0 to 1.", rich_help_panel=_WHEN)
    ] = None,
    patience: Annotated[
        int | None, typer.Option(help="Answers in a row in which it has to.", rich_help_panel=_WHEN)
    ] = None,
    least: Annotated[
        int | None,
        typer.Option(help="Frames it rests on at least; else half of what the network takes.", rich_help_panel=_WHEN),
    ] = None,
    smoothing: Annotated[
        int | None, typer.Option(help="Answers that a score is averaged over.", rich_help_panel=_WHEN)
    ] = None,
    refractory: Annotated[
        str | None, typer.Option(help="Time after a decision that is not listened to.", rich_help_panel=_WHEN)
    ] = None,
    onset: Annotated[
        float | None, typer.Option(help="Loudness that begins an utterance, 0 to 1.", rich_help_panel=_WHEN)
    ] = None,
    save_state: Annotated[
        Path | None, typer.Option(help="Keep the state of the stream here as it goes.", rich_help_panel=_KEEP)
    ] = None,
    resume: Annotated[
        Path | None, typer.Option(help="Go on from a kept state; in the same file behind it.", rich_help_panel=_KEEP)
    ] = None,
    plot: Annotated[
        Path | None, typer.Option(help="A picture of scores over time: .png, .svg or .pdf.", rich_help_panel=_KEEP)
    ] = None,
    every: Annotated[str, typer.Option(help="Sound between two answers shown; 0s shows each.")] = "0s",
    as_json: Annotated[bool, typer.Option("--json", help="Print a line of JSON for each event, then for all.")] = False,
) -> None:
    """Listen for words: in files, one word to each, or continuously, in long ones or before a microphone."""
    from edgedeploy.listening import Listener
    from edgedeploy.stream import StreamState, open_stream
    from edgedeploy.units import parse

    files = wav or []
    _refuse(files, microphone, {"--input": source, "--duration": duration}, (save_state, resume, plot))
    _refuse_loss(bundle, save_state, resume, plot)
    shown, limit = _time("--every", every), None if duration is None else _time("--duration", duration)
    rest = None if refractory is None else parse(refractory, "s")
    how = {"threshold": threshold, "patience": patience, "least": least, "smoothing": smoothing}
    policy = _policy(**how, refractory=rest, onset=onset)
    state = None if resume is None else StreamState.read(resume)
    stream = open_stream(bundle, threads)
    try:
        listener = Listener(stream, policy, continuous or microphone)
        kept = None if plot is None else Kept(listener)
        hearing = Hearing(listener, Voice(listener, shown, as_json), save_state, kept)
        done = hearing.all([Microphone(source, limit)] if microphone else [File(f, resample) for f in files], state)
        _tell(done, as_json)
        if plot is not None and kept is not None and done.accounts:
            from edgedeploy.report.listening import picture

            with writable(plot):
                picture(kept.scene(done.accounts[0].source), listener.task, plot)
    finally:
        stream.close()
    if done.error is not None:
        raise done.error
    if done.stopped and not microphone:
        raise typer.Exit(INTERRUPTED)


def _refuse(
    files: list[Path],
    microphone: bool,
    of_microphone: dict[str, str | None],
    of_one: tuple[Path | None, Path | None, Path | None],
) -> None:
    """Refuse what does not go together, before anything is opened."""
    if bool(files) == microphone:
        raise UsageError("Say what to listen to: --wav FILE, or --microphone.")
    for flag, value in of_microphone.items():
        if value is not None and not microphone:
            raise UsageError(f"{flag} is about a microphone: add --microphone.")
    for flag, path in zip(("--save-state", "--resume", "--plot"), of_one, strict=True):
        if path is not None and len(files) > 1:
            raise UsageError(f"{flag} is about one stream: give one file, not {len(files)}.")
    _, resume, plot = of_one
    if resume is not None and plot is not None:
        raise UsageError("A picture begins with the beginning: leave out --plot, or --resume.")
    if plot is not None:
        from edgedeploy.report.listening import refuse_suffix

        refuse_suffix(plot)


def _refuse_loss(bundle: Path, save: Path | None, resume: Path | None, plot: Path | None) -> None:
    """Refuse what could not be written after all has been heard, and what would be written over something else."""
    if plot is not None and not plot.absolute().parent.is_dir():
        raise UsageError(f"{plot} cannot be written: there is no folder {plot.parent}.")
    if save is None:
        return
    if save.exists() and (resume is None or not save.samefile(resume)):
        raise UsageError(
            f"{save} is there already. If it is the state of a stream, go on from it with --resume {save}; else give "
            "--save-state another name, or remove it."
        )
    if bundle.is_dir() and save.resolve().is_relative_to(bundle.resolve()):
        raise UsageError(f"{save} is inside the bundle, which holds nothing but what was exported: give another place.")


def _time(flag: str, text: str) -> float:
    from edgedeploy.units import parse

    seconds = parse(text, "s")
    if seconds < 0:
        raise UsageError(f"{flag} {text}: a time from 0 up is needed.")
    return seconds


def _policy(**asked: float | int | None) -> Policy:
    from edgedeploy.listening import Policy

    return Policy(**{key: value for key, value in asked.items() if value is not None})  # type: ignore[arg-type]


def _tell(done: Done, as_json: bool) -> None:
    from edgedeploy.report.listening import HEADER, notes, rows

    if as_json:
        for one in done.accounts:
            said = {key: getattr(one, key) for key in ("source", "seconds", "computing", "undecided", "doubts")}
            factor = one.real_time_factor if one.seconds else None
            line({"event": "summary", **said, "utterances": len(one.utterances), "real_time_factor": factor})
        return
    found = rows(done.accounts)
    if found:
        print_table("heard", HEADER, found)
    elif done.accounts:
        typer.echo("no word was decided on")
    print_notes(notes(done.accounts))
