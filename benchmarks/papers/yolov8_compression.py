"""What a compression of YOLOv8 came to, beside the published figures: table, plot and a file with all of it.

    edgedeploy compress yolov8n.pt --recipe slim-prune-distill --data data.yaml --prune 0.5 -o RUN
    python -m benchmarks.papers.yolov8_compression RUN --deploy
    python -m benchmarks.papers.yolov8_compression RUN

With ``--deploy`` the first and the last network are exported, judged, and timed in turn on this machine, which needs
torch; what is there already is not made again, and only the timing is new. Without it the table that is kept in RUN is
shown again, which needs none. Everything goes to ``benchmarks/results/yolov8_compression.*``.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import NoReturn

from benchmarks.record import RESULTS, Row, finish
from edgedeploy.accuracy import Difference, paired_difference
from edgedeploy.errors import EdgeDeployError, UsageError
from edgedeploy.report.compression import text
from edgedeploy.report.compression.files import COMMAS, PICTURE, TABLE, kept, publish
from edgedeploy.report.compression.records import CompressionTable, Rung

NAME = "yolov8_compression"
#: AP50 that the compressed network may lose; how many times as fast as the baseline in fp32 it has to be, by precision.
LOSS, FASTER = 0.03, {"fp32": 1.7, "int8": 2.6}


def results(table: CompressionTable) -> list[Row]:
    """Sizes, differences and ratios, with the limits that they were meant to keep; names say what they depend on."""
    networks = [rung for rung in table.rungs if rung.form.startswith("PyTorch")]
    first, last = networks[0], networks[-1]
    return [*_sizes(first, last), *_accuracies(table, networks), *_speeds(table, last)]


def _sizes(first: Rung, last: Rung) -> Iterator[Row]:
    for rung in (first, last):
        size = f"{rung.size[0]}x{rung.size[1]}"
        yield Row(f"parameters in millions, {rung.name}", rung.params / 1e6)
        yield Row(f"GMACs, {rung.name}, {size}", rung.macs / 1e9)
        yield Row(f"GFLOPs (2 per MAC), {rung.name}, {size}", rung.flops / 1e9)


def _accuracies(table: CompressionTable, networks: Sequence[Rung]) -> Iterator[Row]:
    for rung in networks:
        if rung.accuracy is None:
            continue
        metric, size = rung.accuracy.metric, f"{rung.size[0]}x{rung.size[1]}"
        judged = f"{metric.protocol}, {size}, {metric.images} images"
        for name, value in (("AP50", metric.ap50), ("AP50-95", metric.ap50_95)):
            if value is not None:
                yield Row(f"{name}, {rung.name} ({judged})", value, "AP")
    last, baseline = networks[-1], table.rungs[0].name
    for rung in table.rungs:
        if rung.difference is not None:
            yield _difference(f"AP50, {rung.name} - {baseline}", rung.difference.ap50, -LOSS if rung is last else None)
    for rung in networks:
        if rung.against_previous is not None and rung.previous != baseline:
            yield _difference(f"AP50, {rung.name} - {rung.previous}", rung.against_previous.ap50, None)


def _difference(name: str, found: Difference, limit: float | None) -> Row:
    return Row(name, found.estimate, "AP", "" if limit is None else "at least", limit, found.low, found.high)


def _speeds(table: CompressionTable, last: Rung) -> Iterator[Row]:
    for rung in table.rungs:
        for speed in rung.speed:
            timing = next(one for one in table.timings if one.threads == speed.threads)
            if speed.ratio is None or rung.name == timing.reference:
                continue
            limit = None
            if rung.stage == last.stage and rung.form.startswith("ONNX Runtime"):
                limit = FASTER.get(rung.form.rpartition(" ")[2])
            name = f"speed over {timing.reference}, {rung.name}, {text.counted(speed.threads)}"
            sense = "" if limit is None else "at least"
            yield Row(name, speed.ratio, "", sense, limit, speed.low, speed.high)  # type: ignore[arg-type]


def _table(arguments: argparse.Namespace) -> CompressionTable:
    """The table of the run, made anew if asked for."""
    if not arguments.deploy:
        if not (arguments.run / TABLE).is_file():
            raise UsageError(f"There is no table in {arguments.run} yet: add --deploy, which makes it.")
        return kept(arguments.run)
    from edgedeploy.compress.deploy import FORMS, Deployment, Form, deploy

    forms = tuple(map(Form.parse, arguments.forms)) or FORMS
    options = Deployment(
        forms,
        arguments.images,
        tuple(arguments.threads),
        arguments.duration,
        arguments.scope,
        arguments.data,
        arguments.val,
    )
    return deploy(arguments.run, options, lambda said: print(said, file=sys.stderr, flush=True))


def _against(run: Path, control: Path) -> Iterator[Row]:
    """The last network of one run minus that of another, paired: what a teacher adds to as much training."""
    from edgedeploy.compress.judgements import Judged, Judgements
    from edgedeploy.compress.result import judge_key, read_run

    def last(folder: Path) -> tuple[str, Judged]:
        found = read_run(folder)
        rung, used = found.rungs[-1], found.used
        key = judge_key(rung.sha256, used.val, used.protocol, used.size)
        return rung.name, Judgements(folder / "judged").judge(key, lambda: _missing(folder))

    (name, ours), (other, theirs) = last(run), last(control)
    for metric, found in asdict(paired_difference(theirs.matches, ours.matches)).items():
        yield _difference(f"{'AP50' if metric == 'ap50' else 'AP50-95'}, {name} - {other}", Difference(**found), None)


def _missing(folder: Path) -> NoReturn:
    raise UsageError(f"The last network of {folder} was not judged: let its run end first.")


def _write(table: CompressionTable, arguments: argparse.Namespace) -> None:
    """The forms of the report, under the name of this benchmark; the page only where the run is."""
    for note in publish(table, arguments.run).notes:
        print(note, file=sys.stderr)
    target = arguments.json or RESULTS / f"{NAME}.json"
    target.parent.mkdir(parents=True, exist_ok=True)
    drawn = target.with_suffix(".png")
    for name, suffix in ((COMMAS, ".csv"), (PICTURE, ".png")):
        if (arguments.run / name).is_file():
            target.with_suffix(suffix).write_bytes((arguments.run / name).read_bytes())
    target.with_suffix(".md").write_text(text.markdown(table, drawn.name if drawn.is_file() else ""), "utf-8")


def main() -> int:
    """Print the table and the rows, write everything; 1 if a target was missed."""
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("run", type=Path, help="folder of a compression")
    made.add_argument("--control", type=Path, help="folder of the same compression with distillation.weight = 0")
    made.add_argument("--deploy", action="store_true", help="export, judge and time on this machine")
    made.add_argument("--data", type=Path, help="where the data set of the run is now")
    made.add_argument("--val", type=Path, help="the same of the one to judge on, where it is one of its own")
    made.add_argument("--forms", nargs="*", default=[], help="BACKEND:PRECISION, the first in fp32")
    made.add_argument("--images", type=int, default=200, help="training images that calibrate (200)")
    made.add_argument("--threads", type=int, nargs="*", default=[], help="numbers of threads (1 and all cores)")
    made.add_argument("--duration", type=float, default=60.0, help="seconds of timing per number of threads (60)")
    made.add_argument("--scope", choices=["network", "image to boxes"], default="network", help="what a timed call is")
    made.add_argument("--json", type=Path, help=f"where the result goes (benchmarks/results/{NAME}.json)")
    arguments = made.parse_args()
    try:
        table = _table(arguments)
        control = [*_against(arguments.run, arguments.control)] if arguments.control else []
    except EdgeDeployError as error:
        print(error, file=sys.stderr)
        return error.exit_status
    _write(table, arguments)
    print(text.markdown(table))
    inputs = {"data": table.digest, **{f"{r.name} {Path(r.file).name}": r.sha256 for r in table.rungs if r.sha256}}
    return finish(
        arguments,
        [*results(table), *control],
        inputs=inputs,
        details=table.to_json(),
        open_questions=text.missing(table),
    )


if __name__ == "__main__":
    sys.exit(main())
