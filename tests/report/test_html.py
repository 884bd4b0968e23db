"""The page: everything is in it, nothing is fetched, and what a stranger named does no harm."""

from __future__ import annotations

import base64
import hashlib
import re
import sys
from collections import Counter
from html.parser import HTMLParser
from typing import Any

import pytest

pytest.importorskip("matplotlib")
pytest.importorskip("jinja2")

from edgedeploy.bench.scenario import Scenario
from edgedeploy.errors import Unavailable
from edgedeploy.predict.observation import Setting
from edgedeploy.predict.prediction import Prediction
from edgedeploy.report.entry import Entry
from edgedeploy.report.html import Besides, page
from edgedeploy.testing.fakes import fake_measurement, fake_process
from edgedeploy.verdict import Verdict

CREATED = "2025-02-01T00:00:00+00:00"


class Seen(HTMLParser):
    """Tags, ids, links and visible text of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: Counter[str] = Counter()
        self.ids: list[str] = []
        self.links: list[str] = []
        self.attributes: list[tuple[str, str]] = []
        self.text = ""
        self._silent = 0
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] += 1
        self._silent += tag in ("style", "script")
        for key, value in attrs:
            self.attributes.append((key, value or ""))
            if key == "id":
                self.ids.append(value or "")
            if key in ("href", "src", "xlink:href"):
                self.links.append(value or "")

    def handle_endtag(self, tag: str) -> None:
        self._silent -= tag in ("style", "script")

    def handle_data(self, data: str) -> None:
        if not self._silent:
            self.text += data


@pytest.fixture(scope="module")
def entries(kit: Any) -> list[Entry]:
    return [
        Entry(kit.made(0), kit.accuracy(0.5), "fp32"),
        Entry(kit.made(1, drift=0.3), kit.accuracy(0.48), "int8"),
        Entry(kit.made(2, name=kit.nasty, backend="<b>|\x07", device=kit.nasty, options={"<b>": "</style><i>"})),
        Entry(kit.made(3, scenario=Scenario("paced", rate=20.0), device="raspberry-pi-5")),
        Entry(fake_measurement(fake_process([20_000_000] * 5))),
    ]


@pytest.fixture(scope="module")
def text(entries: list[Entry]) -> str:
    return page(entries, CREATED)


def test_the_same_records_give_the_same_bytes(entries: list[Entry], text: str) -> None:
    assert page(entries, CREATED) == text
    other = page(entries, "2026-01-01")
    assert other != text
    assert other.replace("2026-01-01", CREATED) == text


def test_ids_are_unique_and_links_stay_inside(text: str) -> None:
    seen = Seen(text)
    assert [one for one, count in Counter(seen.ids).items() if count > 1] == []
    assert len(seen.links) > 10
    assert {link for link in seen.links if link[:1] != "#" or link[1:] not in seen.ids} == set()


def test_nothing_can_be_fetched(text: str) -> None:
    for word in ("http:", "https:", "@import", "url(//", "src=", "//cdn", "<link", "<iframe", "<object", "<base"):
        assert word not in text.replace("url(#", "")
    seen = Seen(text)
    policy = next(value for key, value in seen.attributes if key == "content" and "default-src" in value)
    script = text.partition("<script>")[2].partition("</script>")[0]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert policy.startswith("default-src 'none'; ")
    assert f"script-src 'sha256-{digest}'" in policy
    assert "unsafe-eval" not in policy
    assert "script-src 'unsafe-inline'" not in policy


def test_a_strangers_name_is_text(kit: Any, text: str) -> None:
    seen = Seen(text)
    assert seen.tags["script"] == 1
    assert seen.tags["style"] == 1
    assert seen.tags["i"] == len(re.findall('<i class="piece', text))
    assert "<script>document.title='owned'</script>" in seen.text
    assert not [key for key, _ in seen.attributes if key.startswith("on")]
    text.encode("utf-8")
    assert "\x00" not in text
    assert "\ufffd" in text


def test_each_row_has_a_section_and_its_numbers(text: str) -> None:
    seen = Seen(text)
    said = " ".join(seen.text.split())
    assert [one for one in seen.ids if re.fullmatch(r"m\d+", one)] == ["m1", "m2", "m3", "m4", "m5"]
    assert "5 measurements of 2 models on 4 devices" in said
    assert "one stream back to back" in said
    assert "needs 44 samples" in said
    assert "p50 needs 7 samples, and there are 5." in said
    assert "190 mJ 0.4800 -0.0200 -0.0300 to -0.0100" in said
    assert "-0.0200 from FP32 (90%: -0.0300 to -0.0100)" in said
    assert "drifted" in said
    assert "missed the deadline" in said
    assert "no /sys/class/powercap here" in said
    assert "INA3221: VDD_IN" in said
    assert "190 mJ" in said
    assert "The accuracy of 3 measurements is not known" in said


def test_columns_that_nobody_knows_are_named_and_not_shown(kit: Any) -> None:
    said = " ".join(Seen(page([Entry(fake_measurement())], CREATED)).text.split())
    assert "Not known for any of these: the precision, energy per inference and accuracy." in said
    assert "per inference doubts" not in said


def test_means_of_passes_are_no_percentiles(kit: Any) -> None:
    said = " ".join(Seen(page([Entry(kit.made(0, mean_of=50))], CREATED)).text.split())
    assert "only means of 50" in said
    assert re.search(r"Mean 22\.\d ms; p50 of single passes is unknown", said)
    assert "percentiles are of such means" not in said


def test_a_verdict_that_was_given_comes_first(kit: Any) -> None:
    entry = Entry(kit.made(0), verdicts=(Verdict("pass", ("Fine.",)), Verdict("fail", ("Too slow by 2 ms.",))))
    assert "fail: Too slow by 2 ms." in page([entry], CREATED)


def test_predictions_are_apart_and_marked(kit: Any, text: str) -> None:
    assert "rediction" not in Seen(text).text
    setting = Setting("galaxy-s25", "aarch64", "npu", "qnn", "int8")
    one = Prediction("net <b>", setting, 0.003, 0.002, 0.004, 0.8, False, {}, {}, ("No NPU was measured.",))
    seen = Seen(page([Entry(kit.made(0))], CREATED, Besides([one])))
    said = " ".join(seen.text.split())
    assert "Nothing in this table was measured." in said
    assert "about 3.00 ms" in said
    assert "No NPU was measured." in said
    assert "1 measurement of 1 model on 1 device" in said
    assert seen.tags["b"] == page([Entry(kit.made(0))], CREATED).count("<b>")


def test_the_size_is_modest(kit: Any) -> None:
    many = [Entry(kit.made(i, count=1000 // 3, drift=0.1 * i)) for i in range(10)]
    assert len(page(many, CREATED).encode()) < 2_000_000
    long = fake_measurement(fake_process([2_000_000 + i % 1000 for i in range(200_000)]))
    assert len(page([Entry(long)], CREATED).encode()) < 200_000


@pytest.mark.parametrize("package", ["jinja2", "matplotlib"])
def test_what_is_missing_is_said(package: str, kit: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(Unavailable, match=r"pip install 'edgedeploy\[report\]'$"):
        page([Entry(kit.made(0))], CREATED)
