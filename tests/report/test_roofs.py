"""Roofline and ratio in a page: the numbers that were saved, and no more than they say."""

from __future__ import annotations

import re
from typing import Any
from xml.etree import ElementTree

import pytest

pytest.importorskip("matplotlib")
pytest.importorskip("jinja2")

from edgedeploy.bench.versus import Versus
from edgedeploy.errors import UsageError
from edgedeploy.report.entry import Entry
from edgedeploy.report.html import Besides, page
from edgedeploy.report.ratios import chart as ratio_chart
from edgedeploy.report.ratios import names, sentence
from edgedeploy.report.roofs import Explained, Roof, chart


def node(name: str, kind: str, seconds: float, flops: int | None, size: int | None) -> dict[str, Any]:
    made = {"name": name, "kind": kind, "unit": "cpu", "dtype": "fp32", "seconds": seconds, "bound": "compute"}
    return made | {"flops": flops, "bytes": size}


def document(**changed: Any) -> dict[str, Any]:
    """As ``edgedeploy why --json`` prints it."""
    peak = {"value": "100 GFLOP/s", "kind": "measured", "source": "matmul", "low": None, "high": None}
    made = {
        "name": "net",
        "backend": "onnxruntime",
        "version": "1.0",
        "precision": "fp32",
        "threads": 1,
        "seconds": 0.01,
        "flops": 10**9,
        "bytes": 10**7,
        "of_peak": 0.8,
        "of_bandwidth": None,
        "device": "raspberry-pi-5",
        "unit": "cpu",
        "roofs": {"dense peak in fp32": peak, "bandwidth": peak | {"value": "10 GB/s"}},
        "causes": [
            {"kind": "compute", "share": 0.8, "sentence": "It <b>computes.", "remedy": "Compute less.", "nodes": []}
        ],
        "nodes": [
            node("a", "Conv", 0.008, 10**9, 10**7),
            node("b", "Add", 0.001, 10**5, 10**6),
            node("c", "Cast", 0.001, None, 9),
        ],
        "plot": None,
    }
    return made | changed


def test_each_node_with_both_numbers_is_a_dot_and_the_rest_is_said() -> None:
    found = chart(Explained.of(document(), "why.json"), "a")
    assert found is not None
    said = [element.text or "" for element in ElementTree.fromstring(found.svg).iter("text")]
    assert "Conv, 80 % of the pass" in said
    assert "fp32 100 GOP/s" in said
    assert "bandwidth 10.0 GB/s" in said
    assert "not drawn: 10 % of the pass" in found.caption


def test_unknown_roofs_are_no_lines_and_no_dots_are_no_chart() -> None:
    unknown = {"value": None, "kind": "unknown", "source": "", "low": None, "high": None}
    found = chart(Explained.of(document(roofs={"bandwidth": unknown}), "why.json"), "a")
    assert found is not None
    assert not [e for e in ElementTree.fromstring(found.svg).iter("text") if "bandwidth" in (e.text or "")]
    assert chart(Explained.of(document(nodes=[]), "why.json"), "a") is None


def test_a_roof_is_read_in_its_unit() -> None:
    assert Roof("4 TOP/s", "official").si("FLOP/s") == 4e12
    assert Roof("17.1 GB/s", "derived").si("B/s") == pytest.approx(17.1e9)
    assert Roof("fast", "official").si("B/s") is None
    assert Roof().si("B/s") is None


def test_a_document_that_is_none_is_refused() -> None:
    with pytest.raises(UsageError, match=r"why\.json: seconds"):
        Explained.of(document(seconds="soon"), "why.json")


def test_causes_are_text_on_the_page(kit: Any) -> None:
    text = page([Entry(kit.made(0))], "", Besides(explained=[Explained.of(document(), "why.json")]))
    assert "80 % compute: It &lt;b&gt;computes. Compute less." in text
    assert "80 % of the dense peak, share of the bandwidth unknown" in text
    assert 'id="why-1"' in text


def test_a_clear_ratio_names_the_faster_and_an_unclear_one_does_not(kit: Any) -> None:
    slow, fast = kit.made(0, name="slow"), kit.made(1, name="fast", base=16e6)
    clear = Versus(slow, fast, ((5, 5),) * 3)
    assert re.search(
        r"fast takes 0\.80\d \(0\.\d+ to 0\.\d+\) times as long as slow .* The second is faster\.", sentence(clear)
    )
    assert "rank test" not in sentence(clear)  # three processes are too few for one
    same = Versus(slow, kit.made(2, name="other"), ((5, 5),) * 3)
    assert "The interval contains 1: neither is shown to be faster." in sentence(same)
    said = [e.text or "" for e in ElementTree.fromstring(ratio_chart(clear, "a").svg).iter("text")]
    assert {"prepare", "compute", "finish", "end-to-end"} <= set(said)
    assert names(Versus(slow, slow, ((5, 5),) * 3)) == ("slow on fake (first)", "slow on fake (second)")


def test_doubts_about_a_ratio_stand_beside_it(kit: Any) -> None:
    doubtful = Versus(kit.made(0, name="a"), kit.made(1, name="b", threads=4), ((5, 5),) * 3)
    assert doubtful.doubts()
    text = page([Entry(kit.made(0))], "", Besides(versus=[doubtful]))
    assert text.index('id="versus-1"') < text.index("threads: 1 -&gt; 4") < text.index('id="m1"')
