"""The page in a real browser, without a screen: no complaint, no request, and what can be clicked works."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("matplotlib")
pytest.importorskip("jinja2")

from edgedeploy.bench.scenario import Scenario
from edgedeploy.predict.observation import Setting
from edgedeploy.predict.prediction import Prediction
from edgedeploy.report.entry import Entry
from edgedeploy.report.html import Besides, page

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
DRIVER = shutil.which("chromedriver")

pytestmark = pytest.mark.skipif(not (CHROMIUM and DRIVER), reason="there is no chromium with its chromedriver here")

ARGUMENTS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--window-size=1280,900"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage"),
)


@dataclass(frozen=True)
class Browser:
    """A session of the W3C WebDriver protocol."""

    session: str

    def __call__(self, method: str, path: str, **body: Any) -> Any:
        """Send one command; its value."""
        return send(method, f"{self.session}{path}", body)

    def run(self, script: str) -> Any:
        """The value that ``script`` returns in the page."""
        return self("POST", "/execute/sync", script=script, args=[])

    def devtools(self, command: str, **parameters: Any) -> Any:
        """A command of the browser's own protocol."""
        return self("POST", "/goog/cdp/execute", cmd=command, params=parameters)

    def log(self, kind: str) -> list[dict[str, Any]]:
        """What was logged since the last call."""
        found: list[dict[str, Any]] = self("POST", "/se/log", type=kind)
        return found

    def click(self, selector: str) -> None:
        """As a person does, where it can be seen."""
        found = self("POST", "/element", using="css selector", value=selector)
        self("POST", f"/element/{next(iter(found.values()))}/click")

    def resize(self, width: int, scheme: str = "light") -> None:
        """Another screen."""
        self.devtools(
            "Emulation.setDeviceMetricsOverride", width=width, height=800, deviceScaleFactor=1, mobile=width < 600
        )
        self.devtools("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])


def send(method: str, url: str, body: dict[str, Any]) -> Any:
    data = json.dumps(body).encode() if method == "POST" else None
    request = urllib.request.Request(url, data, {"Content-Type": "application/json"}, method=method)
    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=60) as answer:
        return json.load(answer)["value"]


@pytest.fixture(scope="module")
def driver() -> Iterator[str]:
    assert DRIVER is not None
    with subprocess.Popen([DRIVER, "--port=0"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as run:
        assert run.stdout is not None
        try:
            for line in run.stdout:
                if found := re.search(r"started successfully on port (\d+)", line):
                    yield f"http://127.0.0.1:{found[1]}"
                    break
        finally:
            run.terminate()


@pytest.fixture(scope="module")
def browser(driver: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    options = {"binary": CHROMIUM, "args": [*ARGUMENTS, f"--user-data-dir={tmp_path_factory.mktemp('profile')}"]}
    wanted = {"goog:chromeOptions": options, "goog:loggingPrefs": {"browser": "ALL", "performance": "ALL"}}
    made = send("POST", f"{driver}/session", {"capabilities": {"alwaysMatch": wanted}})
    found = Browser(f"{driver}/session/{made['sessionId']}")
    yield found
    found("DELETE", "")


@pytest.fixture(scope="module")
def path(kit: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    entries = [
        Entry(kit.made(0, base=30e6), kit.accuracy(0.5), "fp32"),
        Entry(kit.made(1, drift=0.3), kit.accuracy(0.48), "int8"),
        Entry(kit.made(2, name=kit.nasty, count=50, base=2e6)),
        Entry(kit.made(3, scenario=Scenario("paced", rate=20.0), device="raspberry-pi-5")),
        Entry(kit.made(4, count=1500, scenario=Scenario("sustained"), backend="b" * 60, name="n" * 90)),
    ]
    setting = Setting("galaxy-s25", "aarch64", "npu", "qnn", "int8")
    guess = Prediction("net", setting, 0.003, 0.002, 0.004, 0.8, False, {}, {}, ("No NPU was measured.",))
    made = tmp_path_factory.mktemp("page") / "report.html"
    made.write_text(page(entries, "2025-02-01", Besides([guess])), "utf-8")
    return made


@pytest.fixture
def opened(browser: Browser, path: Path) -> Browser:
    browser.resize(1280)
    browser("POST", "/url", url=path.as_uri())
    return browser


def visible(browser: Browser) -> list[str]:
    """The anchors of the rows that can be seen, from top to bottom; their sections are those that can be seen."""
    rows: list[str] = browser.run(
        "return [...document.querySelectorAll('#table tbody tr')].filter(r => r.offsetHeight)"
        ".map(r => r.dataset.target)"
    )
    sections = browser.run(
        "return [...document.querySelectorAll('.measurement')].filter(s => s.offsetHeight).map(s => s.id)"
    )
    assert sorted(rows) == sorted(sections)
    return rows


def choose(browser: Browser, name: str, value: str) -> None:
    """Pick the option of a filter that has this value; "" is all."""
    values = browser.run(f"return [...document.querySelector('select[name={name}]').options].map(o => o.value)")
    browser.click(f"select[name={name}] option:nth-of-type({values.index(value) + 1})")


def test_no_complaint_and_no_request(opened: Browser, path: Path) -> None:
    for kind in ("browser", "performance"):
        opened.log(kind)
    opened("POST", "/url", url=path.as_uri())
    assert opened.log("browser") == []
    sent = [json.loads(entry["message"])["message"] for entry in opened.log("performance")]
    asked = [one["params"]["request"]["url"] for one in sent if one["method"] == "Network.requestWillBeSent"]
    assert asked == [path.as_uri()]
    assert opened.run("return document.title").startswith("Latency report: 5 measurements")


def test_a_script_that_slipped_in_would_not_run(opened: Browser) -> None:
    opened.run(
        "const s = document.createElement('div'); s.innerHTML = '<img src=x onerror=\"document.title=1\">';"
        "document.body.append(s); const t = document.createElement('script'); t.textContent = 'document.title = 2';"
        "document.body.append(t);"
    )
    assert opened.run("return document.title").startswith("Latency report")
    assert len(opened.log("browser")) >= 2  # both were refused


def test_every_link_leads_somewhere(opened: Browser) -> None:
    lost = opened.run(
        "return [...document.querySelectorAll('a')].map(a => a.getAttribute('href'))"
        ".filter(h => h[0] !== '#' || !document.getElementById(h.slice(1)))"
    )
    assert lost == []
    opened.click("#table tbody tr:nth-child(4) a")
    assert opened.run("return location.hash") == "#m4"
    assert abs(opened.run("return document.getElementById('m4').getBoundingClientRect().top")) < 40


def test_filters_hide_rows_and_their_sections(opened: Browser) -> None:
    assert visible(opened) == ["m1", "m2", "m3", "m4", "m5"]
    choose(opened, "device", "raspberry-pi-5")
    assert visible(opened) == ["m4"]
    assert opened.run("return document.getElementById('count').textContent") == "1 of 5 shown"
    choose(opened, "device", "")
    choose(opened, "scenario", "single-stream")
    assert visible(opened) == ["m1", "m2", "m3"]
    choose(opened, "model", "net")
    assert visible(opened) == ["m1", "m2"]
    opened.click("input[name=calm]")
    assert visible(opened) == ["m1"]
    choose(opened, "model", "")
    choose(opened, "scenario", "")
    assert "m2" not in visible(opened)
    opened.click("input[name=calm]")
    assert len(visible(opened)) == 5
    assert opened.run("return document.getElementById('count').textContent") == "all 5 shown"


def test_columns_sort_both_ways_and_the_unknown_comes_last(opened: Browser) -> None:
    header = "#table thead th:nth-child(5) button"  # p50
    opened.click(header)
    fast_first = visible(opened)
    assert fast_first[0] == "m3"
    assert fast_first[-1] in ("m1", "m4")
    opened.click(header)
    assert visible(opened)[-1] == "m3"
    assert opened.run("return document.querySelectorAll('th[aria-sort]').length") == 1
    opened.click("#table thead th:nth-child(12) button")  # accuracy, known for two
    assert visible(opened)[:2] == ["m2", "m1"]
    opened.click("#table thead th:nth-child(12) button")
    assert visible(opened)[:2] == ["m1", "m2"]


@pytest.mark.parametrize("width", [320, 360, 390, 768, 1280, 1920])
def test_the_page_never_scrolls_sideways(width: int, opened: Browser) -> None:
    opened.resize(width)
    wide = opened.run("return [document.scrollingElement.scrollWidth, window.innerWidth]")
    assert wide[0] <= wide[1] == width
    outside = opened.run(
        "return [...document.querySelectorAll('main *:not(.scroll *):not(svg *)')]"
        ".filter(e => e.getBoundingClientRect().right > innerWidth + 1).map(e => e.className + ' ' + e.tagName)"
    )
    assert outside == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_can_be_told_from_the_paper(scheme: str, opened: Browser) -> None:
    """Contrast of every text that is not in a picture is at least 4.5, as WCAG 2 has it for body text."""
    opened.resize(1280, scheme)
    found = opened.run("""
        const parse = c => c.match(/[\\d.]+/g).map(Number);
        const light = ([r, g, b]) => [r, g, b].map(v => v / 255)
            .map(v => v <= .04045 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4)
            .reduce((s, v, i) => s + v * [.2126, .7152, .0722][i], 0);
        const paper = e => { for (; e; e = e.parentElement) {
            const c = parse(getComputedStyle(e).backgroundColor); if (c.length === 3 || c[3] > 0) return c; }
            return [255, 255, 255]; };
        return [...document.querySelectorAll('body *:not(svg *)')]
            .filter(e => [...e.childNodes].some(n => n.nodeType === 3 && n.data.trim()) && e.offsetHeight)
            .map(e => { const [a, b] = [light(parse(getComputedStyle(e).color)), light(paper(e))];
                return [(Math.max(a, b) + .05) / (Math.min(a, b) + .05), e.tagName + '.' + e.className]; })
            .filter(([ratio]) => ratio < 4.5).map(([ratio, name]) => `${name} ${ratio.toFixed(2)}`);
    """)
    assert sorted(set(found)) == []
    assert opened.run("return getComputedStyle(document.body).backgroundColor") == (
        "rgb(255, 255, 255)" if scheme == "light" else "rgb(17, 22, 28)"
    )


def test_without_a_script_everything_is_there(opened: Browser, path: Path) -> None:
    opened.devtools("Emulation.setScriptExecutionDisabled", value=True)
    try:
        opened("POST", "/url", url=path.as_uri())
    finally:
        opened.devtools("Emulation.setScriptExecutionDisabled", value=False)
    assert visible(opened) == ["m1", "m2", "m3", "m4", "m5"]
    assert opened.run("return document.getElementById('filters').hidden")
    assert opened.run("return document.querySelectorAll('#table button').length") == 0
