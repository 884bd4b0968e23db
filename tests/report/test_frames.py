"""What is said of frames of a stream: in one line, in tables, in Markdown and in CSV."""

from __future__ import annotations

import csv
import io

import pytest

from edgedeploy.bench.frames import Frames
from edgedeploy.bench.measurement import Measurement, Passes
from edgedeploy.bench.outcome import outcome
from edgedeploy.bench.scenario import Scenario
from edgedeploy.report.entry import Entry
from edgedeploy.report.frames import facts, sentence
from edgedeploy.report.markdown import markdown
from edgedeploy.report.measurement import fact_rows, headline, summary
from edgedeploy.report.tables import table
from edgedeploy.testing import fake_measurement, fake_process

MS = 1_000_000
FRAMES = Frames(16000, 0.01, 0.025, 5)
PASSES = Passes((0,) * 600, (MS // 2,) * 600, (0,) * 600)


def streamed(scenario: Scenario | None = None) -> Measurement:
    processes = (fake_process([], samples=PASSES) for _ in range(3))
    return fake_measurement(*processes, scenario=scenario or Scenario(), graph="stream", frames=FRAMES)


def test_back_to_back() -> None:
    made = streamed()
    assert headline(made).startswith("net (stream) on fake: ")
    assert headline(made).endswith("median of 1800 frames; real-time factor 0.05 (0.05 to 0.05)")
    rows = dict(fact_rows(made))
    assert rows["graph"] == "stream"
    assert rows["a pass is"].startswith("a frame of 25.0 ms, one each 10.0 ms (of samples strung together")
    assert rows["real-time factor"] == "0.05 (0.05 to 0.05; above 1 it cannot keep up)"
    assert rows["an answer waits for"].startswith("75.0 ms (frame 25.0 ms, look-ahead 5 x 10.0 ms")
    assert "--scenario paced --rate 100Hz" in rows["note"]
    found = summary(made)
    assert found["graph"] == "stream"
    told = {"sample_rate": 16000, "period": 0.01, "length": 0.025, "lookahead": 5}
    assert found["frames"] == {**told, "wait": FRAMES.wait}
    assert found["outcome"]["real_time_factor"]["value"] == made.real_time_factor


def test_paced() -> None:
    made = streamed(Scenario("paced", rate=50.0))
    assert "paced at 50 Hz: " in headline(made)
    assert headline(made).endswith("queries; real-time factor 0.05 (0.05 to 0.05)")
    said = {name: (value, more) for name, value, more in facts(made, outcome(made))}
    assert said["load at this rate"] == ("0.025", "above 1 it cannot keep up with it")
    same = streamed(Scenario("paced", rate=100.0))
    assert "load at this rate" not in {name for name, *_ in facts(same, outcome(same))}


def test_a_camera_has_no_frames() -> None:
    made = fake_measurement(scenario=Scenario("paced", rate=10.0))
    assert [name for name, *_ in facts(made, outcome(made))] == ["real-time factor"]
    assert sentence(made, outcome(made)) == ""
    server = fake_measurement(scenario=Scenario("server", rate=10.0))
    assert [name for name, *_ in facts(server, outcome(server))] == ["load at this rate"]


def test_documents() -> None:
    entries = [Entry(streamed())]
    text = markdown(entries, "today")
    assert "## 1. net (stream) on " in text
    assert "A pass is a frame of 25.0 ms, one each 10.0 ms; real-time factor 0.05" in text
    (line,) = csv.DictReader(io.StringIO(table(entries)))
    assert (line["graph"], line["frame_period_s"], line["frame_length_s"]) == ("stream", "0.01", "0.025")
    assert line["lookahead_frames"] == "5"
    assert float(line["real_time_factor"]) == pytest.approx(0.05)
