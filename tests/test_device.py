"""Profiles: what is packaged, what a reader refuses, and what an artifact misses."""

from __future__ import annotations

import copy
import dataclasses
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgedeploy import device
from edgedeploy.device import Device, unmet
from edgedeploy.errors import UsageError
from edgedeploy.facts import Count, Fact, Features, Quantity, Version
from edgedeploy.parts import (
    PRECISIONS,
    Accelerator,
    Cluster,
    Cpu,
    Line,
    Memory,
    Peaks,
    PowerMode,
    Reads,
    Runner,
    Software,
)
from edgedeploy.records import to_json

NAMES = device.names()
MINIMAL = """
schema: 1
name: board
title: A board
chip: A chip
arch: aarch64
os: Linux
cpu: {}
memory:
  size: {value: 8 GiB, kind: official, source: maker}
  bandwidth: {kind: unknown}
"""


def read(text: str) -> Device:
    return device.parse(text, "board.yaml")


def refusal(text: str) -> str:
    """What the reader says against ``text``; the file's name where it takes it, and then gives it back unchanged."""
    try:
        found = read(text)
    except UsageError as error:
        return str(error)
    assert read(device.dump(found)) == found
    return "board.yaml"


# --- what is packaged


def test_the_devices_that_people_ask_for_are_there() -> None:
    asked = "jetson-nano jetson-orin-nano jetson-orin-nano-super jetson-orin-nx jetson-agx-orin jetson-thor"
    asked += " raspberry-pi-4 raspberry-pi-5 iphone-13 iphone-15 iphone-16 iphone-17 pixel-8 pixel-9 pixel-10"
    asked += " galaxy-s24 galaxy-s25 kirin-9000 intel-n100 x86-server"
    assert sorted(asked.split()) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_a_profile_has_a_source_for_every_known_value(name: str) -> None:
    found = device.load(name)
    assert found.name == name
    facts = list(found.facts())
    assert len({path for path, _ in facts}) == len(facts), "two facts have one name"
    for path, fact in facts:
        assert fact.kind != "measured", f"{path}: nobody measured this board here"
        assert (fact.kind == "unknown") or fact.source, path
        if isinstance(fact, Quantity) and fact.kind != "unknown":
            assert fact.si, path


@pytest.mark.parametrize("name", NAMES)
def test_a_profile_is_written_and_read_back_as_it_was(name: str) -> None:
    found = device.load(name)
    again = read(device.dump(found))
    assert again == found
    assert again.digest == found.digest


def test_the_readme_names_every_key() -> None:
    readme = (Path(__file__).parents[1] / "devices" / "README.md").read_text("utf-8")
    keys = set(re.findall(r"\w+", " ".join(re.findall(r"`[^`\n]+`", readme))))
    records: list[Any] = [Device, Peaks, Cluster, Cpu, Accelerator, Memory, PowerMode, Software, Quantity, Features]
    missing = {f"{record.__name__}.{f.name}" for record in records for f in dataclasses.fields(record)} - {
        f"{record.__name__}.{f.name}" for record in records for f in dataclasses.fields(record) if f.name in keys
    }
    assert not missing


def test_dense_is_half_of_sparse_at_most() -> None:
    for found in map(device.load, NAMES):
        for accelerator in found.accelerators:
            for precision in PRECISIONS:
                dense, sparse = accelerator.dense.get(precision).si, accelerator.sparse.get(precision).si
                if dense and sparse:
                    assert dense == pytest.approx(sparse / 2, rel=0.03), f"{found.name} {accelerator.name} {precision}"


def test_derived_cpu_peaks_are_the_arithmetic_that_they_claim() -> None:
    for found in map(device.load, NAMES):
        fact = found.cpu.dense.fp32
        if fact is None or fact.kind != "derived":
            continue
        (cluster,) = found.cpu.clusters
        assert cluster.count.value is not None
        assert cluster.clock.si is not None
        wide = found.cpu.isa.any("asimdhp", "avx2")  # two 128-bit multiply-adds, or one of 256 bits
        assert fact.si == pytest.approx(cluster.count.value * cluster.clock.si * (16 if wide else 8), rel=0.01)
        for precision, factor in (("fp16", 2), ("int8", 4)):
            rate = getattr(found.cpu.dense, precision)
            assert rate is None or rate.si == pytest.approx(factor * (fact.si or 0), rel=0.01), found.name


def test_a_sparse_number_on_the_box_is_no_peak() -> None:
    orin = device.load("jetson-orin-nano-super")
    assert orin.peak("gpu", "int8").si == pytest.approx(33.4e12)
    assert device.load("iphone-15").peak("npu", "int8").si is None


def test_a_peak_of_a_unit_that_is_not_there_names_the_nearest() -> None:
    with pytest.raises(UsageError, match="Did you mean 'gpu'"):
        device.load("raspberry-pi-5").peak("gppu", "fp32")


def test_an_old_gpu_lacks_int8() -> None:
    (gpu,) = device.load("jetson-nano").accelerators
    assert gpu.precisions.get("int8") is False
    assert gpu.precisions.get("fp16") is True


@pytest.mark.parametrize(
    ("name", "activations", "dot_product"),
    [
        ("raspberry-pi-5", "int8", True),
        ("raspberry-pi-4", "int8", False),
        ("galaxy-s25", "int8", None),
        ("intel-n100", "uint8", True),
        ("x86-server", "uint8", None),
    ],
)
def test_int8_follows_from_the_instruction_set(name: str, activations: str, dot_product: bool | None) -> None:
    found = device.load(name).int8
    assert (found.activations, found.dot_product) == (activations, dot_product)


# --- finding one


def test_an_unknown_device_names_the_nearest() -> None:
    with pytest.raises(UsageError, match=r"There is no device 'kirin-990'\. Did you mean 'kirin-9000'"):
        device.load("kirin-990")
    with pytest.raises(UsageError, match="Did you mean 'this-machine'"):
        device.load("this_machine")
    with pytest.raises(UsageError, match="There is no device"):
        device.load("../devices/raspberry-pi-5")


def test_a_path_serves_as_well_as_a_name(tmp_path: Path) -> None:
    path = tmp_path / "board.yaml"
    path.write_text(MINIMAL)
    assert device.load(path) == device.load(str(path)) == read(MINIMAL)
    with pytest.raises(UsageError, match="No such file"):
        device.load(tmp_path / "missing.yaml")
    with pytest.raises(UsageError, match="cannot be read"):
        device.load(tmp_path)
    path.write_bytes(b"\xff\xfe\xff")
    with pytest.raises(UsageError, match="UTF-8"):
        device.load(path)


def test_this_machine_is_read_and_can_be_written() -> None:
    found = device.load("this-machine")
    assert found.name == device.THIS_MACHINE
    assert found.cpu.dense.fp32 is None, "nothing is measured without being asked to"
    assert read(device.dump(found)) == found


def test_a_board_that_is_not_here_is_read_from_its_files(tmp_path: Path) -> None:
    (tmp_path / "proc").mkdir()
    core = "processor\t: {}\nFeatures\t: fp asimd asimdhp asimddp\nCPU implementer\t: 0x41\nCPU part\t: 0xd0b\n\n"
    (tmp_path / "proc/cpuinfo").write_text("".join(core.format(i) for i in range(4)))
    (tmp_path / "proc/meminfo").write_text("MemTotal: 8245248 kB\n")
    found = device.this_machine(tmp_path, "aarch64")
    assert (found.chip, found.cpu.cores, found.arch) == ("Cortex-A76", 4, "aarch64")
    assert found.memory.size.si == 8052 * 2**20
    assert found.int8.dot_product is True
    assert read(device.dump(found)) == found


# --- what a reader refuses


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("title:", "titel:", "board.yaml: unknown key 'titel'. Did you mean 'title'"),
        ("size: {value", "sise: {value", "board.yaml: memory: unknown key 'sise'. Did you mean 'size'"),
        ("title: A board\n", "", "board.yaml: the key 'title' is missing"),
        ("8 GiB", "8 GB/s", "board.yaml: memory.size: .*unit 'GB/s'"),
        ("8 GiB", "8", "board.yaml: memory: size: value: expected text"),
        ("source: maker", "source: ''", "board.yaml: memory.size: .*no source"),
        ("kind: official", "kind: offical", "'offical' is not one of official"),
        ("kind: unknown", "value: 1 GB/s, kind: unknown", "board.yaml: memory.bandwidth: .*kind unknown"),
        ("schema: 1", "schema: 2", "schema: 2 is not one of 1"),
        ("arch: aarch64", "arch: arm", "'arm' is not one of aarch64"),
        ("name: board", "name: My Board", "name: 'My Board'"),
        ("cpu: {}", "cpu: {isa: {has: [asimdd], kind: official, source: x}}", "Did you mean 'asimddp'"),
        ("cpu: {}", "cpu: {isa: {has: [avx2], kind: official, source: x}}", "cpu.isa: there is no feature 'avx2'"),
        ("cpu: {}", "cpu: {}\nruntimes: [{name: onnxruntme}]", "Did you mean 'onnxruntime'"),
        ("cpu: {}", "cpu: {}\nbackend: onnxruntime", "'onnxruntime' is not in runtimes"),
        ("cpu: {}", "cpu: {}\nprecision: fp8000", "'fp8000' is not one of fp32"),
        ("cpu: {}", "cpu: {}\ncpu: {}", "the key 'cpu' repeats"),
        ("cpu: {}", "cpu: {}\nnotes: [0x" + "f" * 5000 + "]", "number that cannot be read"),
        ("cpu: {}", "cpu: {}\naccelerators: [{name: cpu, kind: gpu}]", "have to differ"),
        (
            "cpu: {}",
            "cpu: {}\naccelerators: [{name: gpu, kind: gpu}]\npower_modes:\n"
            "  - {name: x, power: {kind: unknown}, sparse_int8: {gpuu: {kind: unknown}}}",
            "Did you mean 'gpu'",
        ),
    ],
)
def test_a_profile_that_cannot_be_is_refused_by_file_and_key(old: str, new: str, says: str) -> None:
    assert old in MINIMAL
    with pytest.raises(UsageError, match=says) as caught:
        read(MINIMAL.replace(old, new, 1))
    assert "board.yaml" in str(caught.value)


def test_what_is_written_leaves_out_what_says_nothing() -> None:
    text = device.dump(read(MINIMAL))
    assert "notes" not in text
    assert "accelerators" not in text
    assert "bandwidth:\n    kind: unknown\n" in text


def test_what_could_not_be_read_back_is_not_written(tmp_path: Path) -> None:
    broken = dataclasses.replace(read(MINIMAL), name="My Board")
    with pytest.raises(UsageError, match="My Board"):
        device.dump(broken, tmp_path / "board.yaml")
    assert list(tmp_path.iterdir()) == []


@given(st.text() | st.text(alphabet="schema: 1nmo-[]{}?!&*|>'\"%@,\n\t"))
def test_any_text_is_a_device_or_a_usage_error(text: str) -> None:
    assert "board.yaml" in refusal(text)


_SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.dates()
_VALUES = st.recursive(
    _SCALARS | st.sampled_from(["8 GiB", "1 GB/s", "official", "unknown"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.text(max_size=4) | st.sampled_from(["value", "kind", "source", "has"]), inner, max_size=3)
    ),
    max_leaves=6,
)


def _paths(value: Any) -> list[tuple[Any, ...]]:
    keys = value if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
    return [()] + [(key, *rest) for key in keys for rest in _paths(value[key])]


_WHOLE = to_json(device.load("jetson-nano"))


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(path=st.sampled_from(_paths(_WHOLE)[1:]), value=_VALUES)
def test_a_profile_with_anything_anywhere_is_a_device_or_a_usage_error(path: tuple[Any, ...], value: Any) -> None:
    import yaml

    whole = copy.deepcopy(_WHOLE)
    place = whole
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    text = yaml.safe_dump(whole)
    assert "board.yaml" in refusal(text)


# --- what an artifact misses


def test_requirements_that_are_met_leave_nothing() -> None:
    orin = device.load("jetson-orin-nano")
    assert (
        unmet(["tensorrt>=10.3,<11", "arch=aarch64", "isa=asimddp", "sm=87", "onnxruntime", "cuda~=12.0"], orin) == ()
    )


@pytest.mark.parametrize(
    ("name", "requirement", "says"),
    [
        ("jetson-orin-nano", "tensorrt>=10.5", "has tensorrt 10.3.0"),
        ("jetson-nano", "sm=87", "has sm=53"),
        ("raspberry-pi-5", "sm=87", "has no accelerator with sm"),
        ("raspberry-pi-5", "arch=x86_64", "has arch=aarch64"),
        ("raspberry-pi-4", "isa=asimddp", "has a processor without asimddp"),
        ("raspberry-pi-4", "isa=avx2", "has a processor of aarch64"),
        ("raspberry-pi-5", "tensorrt>=10", "has no tensorrt"),
        ("galaxy-s24", "htp=79", "has htp=75"),
    ],
)
def test_a_requirement_that_is_not_met_says_what_is_there(name: str, requirement: str, says: str) -> None:
    (missing,) = unmet([requirement], device.load(name))
    assert missing.known
    assert str(missing) == f"{requirement} is needed, but {name} {says}."


@pytest.mark.parametrize(
    ("name", "requirement"),
    [
        ("raspberry-pi-5", "onnxruntime>=1.18,<2"),
        ("x86-server", "isa=avx2"),
        ("x86-server", "sm=89"),
        ("galaxy-s25", "isa=asimddp"),
        ("raspberry-pi-5", "somebodys-runtime>=2"),
        ("raspberry-pi-5", "isa=newfeature"),
        ("raspberry-pi-5", "colour=green"),
        ("jetson-thor", "tensorrt>=10"),
    ],
)
def test_what_is_unknown_never_passes(name: str, requirement: str) -> None:
    (missing,) = unmet([requirement], device.load(name))
    assert not missing.known
    assert requirement in str(missing)


def test_a_version_that_is_no_version_is_unknown() -> None:
    found = dataclasses.replace(read(MINIMAL), runtimes=(Software("onnxruntime", Version("1.x", "official", "maker")),))
    (missing,) = unmet(["onnxruntime>=1"], found)
    assert not missing.known


def test_a_gpu_of_unknown_capability_is_not_one_without() -> None:
    found = dataclasses.replace(read(MINIMAL), accelerators=(Accelerator("gpu", "gpu", sm=Count()),))
    (missing,) = unmet(["sm=87"], found)
    assert not missing.known


@pytest.mark.parametrize("requirement", ["", ">=1", "onnxruntime 1.18", "onnxruntime>=x", "onnxruntime>", "arch="])
def test_what_is_no_requirement_is_a_usage_error(requirement: str) -> None:
    with pytest.raises(UsageError, match=r"requirement|specifier"):
        unmet([requirement], read(MINIMAL))


@given(st.text(max_size=20) | st.from_regex(r"[a-z]{2,6}[=<>~!]{1,3}[a-z0-9.,*]{0,6}", fullmatch=True))
def test_any_requirement_is_judged_or_refused(requirement: str) -> None:
    try:
        missing = unmet([requirement], read(MINIMAL))
    except UsageError:
        return
    assert missing == () or str(missing[0]).endswith((".", "?"))


def test_every_fact_of_a_device_is_walked() -> None:
    found = device.load("jetson-agx-orin")
    paths = dict(found.facts())
    assert isinstance(paths["cpu.isa"], Features)
    assert isinstance(paths["power_modes[MAXN].sparse_int8[dla]"], Fact)
    assert str(paths["power_modes[MAXN].power"]) == "unknown"


# --- native runners

RUNNER = """
runtimes: [{name: litert}]
runners:
  - name: own
    runtime: litert
    command: "{runner} {model} {passes}[ -t {threads}]"
    reads:
      mean: {pattern: '(?P<count>[0-9]+) passes, (?P<value>[0-9]+) us', unit: us}
      memory: {pattern: 'peak (?P<value>[0-9]+) kB', unit: kB}
    source: a page
"""


def test_a_native_runner_of_ones_own() -> None:
    found = read(MINIMAL + RUNNER).runners[0]
    assert found.path == "given"
    assert found.reads is not None
    assert found.reads.mean is not None
    assert found.reads.mean.unit == "us"
    assert refusal(MINIMAL + RUNNER) == "board.yaml"


def test_profiles_of_before_have_no_runners() -> None:
    assert read(MINIMAL).runners == ()
    assert "runners" not in device.dump(read(MINIMAL))


def test_android_phones_name_runners_of_what_they_have() -> None:
    for name in ("pixel-8", "pixel-9", "pixel-10", "galaxy-s24", "galaxy-s25", "kirin-9000"):
        assert any(runner.runtime == "litert" for runner in device.load(name).runners)


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("runtime: litert", "runtime: ncnn", "runners[0].runtime: 'ncnn' is not in runtimes. Known: litert."),
        ("name: own", "name: own\n    path: bin/own", "runners[0].path: 'bin/own' is neither 'given' nor an absolute"),
        ("    source: a page\n", "", "runners[0]: a command without a source."),
        ("{passes}", "10", "runners[0].command: '{passes}' is not in it."),
        ("{threads}", "{cores}", "runners[0].command: there is no '{cores}'."),
        ("{threads}]", "{threads}", "the brackets of '"),
        ("{threads}]", "{threads", "is no command"),
        ("{passes}", "{passes:>10}", "has a format in its braces"),
        ("{passes}", "{passes} [ -x ]", "name nothing that could be left out"),
        ("(?P<count>[0-9]+)", "[0-9]+", "(?P<value>[0-9]+) us' has no group (?P<count>"),
        ("[0-9]+) us", "[0-9+) us", "is no regular expression"),
        ("unit: us", "unit: kB", "runners[0].reads.mean: 'kB' is none of the units s, ms, us, ns."),
        ("unit: kB", "unit: ms", "runners[0].reads.memory: 'ms' is none of the units B,"),
        ("      mean: {", "      load: {", "runners[0].reads: one of each, total and mean is needed"),
        ("runners:", "runners:\n  - {name: executor_runer, runtime: litert}", "Did you mean 'executor_runner'?"),
        ("runners:", "runners:\n  - {name: own2, runtime: litert, command: x}", "command and reads belong together"),
        (
            "runners:",
            "runners:\n  - {name: benchmark_model, runtime: litert}\n  - {name: benchmark_model, runtime: litert}",
            "runners: their names have to differ",
        ),
    ],
)  # fmt: skip
def test_a_native_runner_that_cannot_be(old: str, new: str, told: str) -> None:
    assert old in RUNNER
    found = refusal(MINIMAL + RUNNER.replace(old, new, 1))
    assert found.startswith("board.yaml")
    assert told in found


@given(st.text(max_size=40), st.text(max_size=40))
def test_no_command_and_no_pattern_is_a_traceback(command: str, pattern: str) -> None:
    reads = Reads(each=Line(pattern, "ms"))
    try:
        Runner("own", "litert", command=command, reads=reads, source="a page").check("board.yaml")
    except UsageError as error:
        assert str(error).startswith("board.yaml")
