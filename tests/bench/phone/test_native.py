"""Measuring with native runners on a stand-in device, by the real adb client: from a bundle here to a record here."""

from __future__ import annotations

import os
import platform
import shutil
import signal
import struct
import subprocess
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgedeploy.artifact import SCHEMA, Artifact, ExporterRecord, GraphRecord, Manifest, seal, writing
from edgedeploy.bench.measurement import Measurement
from edgedeploy.bench.phone import adb, android, native, programs
from edgedeploy.bench.phone.adb import AdbDevice
from edgedeploy.bench.phone.native import bench_native, steady_from
from edgedeploy.bench.phone.native_output import KNOWN, Output
from edgedeploy.bench.phone.native_plan import NativeRunner, plan
from edgedeploy.bench.run import BenchOptions, Progress
from edgedeploy.bench.scenario import Scenario
from edgedeploy.bench.statistics.quantiles import needed
from edgedeploy.device import Device, parse
from edgedeploy.errors import Incompatible, RunFailed, Unavailable, UsageError
from edgedeploy.model import Source
from edgedeploy.records import canonical, to_json
from edgedeploy.tensors import Signature, TensorSpec
from tests.bench.phone.standin_adb import ABI, TEXTS, StandIn, gone

needs_adb = pytest.mark.skipif(shutil.which("adb") is None, reason="needs the adb client (apt-get install adb)")
needs_abi = pytest.mark.skipif(ABI == "unknown", reason=f"Android has no name for {platform.machine()}")
ARCH = {"x86_64": "x86_64", "arm64-v8a": "aarch64"}.get(ABI, "aarch64")
PROFILE = f"""
schema: 1
name: phone
title: A phone
chip: A chip
arch: {ARCH}
os: Android 14
cpu: {{}}
memory:
  size: {{kind: unknown}}
  bandwidth: {{kind: unknown}}
runtimes: [{{name: executorch}}, {{name: onnxruntime}}, {{name: litert}}, {{name: ncnn}}]
runners:
  - {{name: executor_runner, runtime: executorch}}
  - {{name: onnxruntime_perf_test, runtime: onnxruntime}}
  - {{name: benchmark_model, runtime: litert}}
  - name: ncnn_bench
    runtime: ncnn
    path: /data/local/tmp/ncnn_bench
    command: "{{runner}} {{model}} {{passes}}[ -t {{threads}}]"
    reads:
      total: {{pattern: "^(?P<count>[0-9]+) loops took (?P<value>[0-9.]+) us", unit: us}}
      first: {{pattern: "^cold (?P<value>[0-9.]+) us", unit: us}}
    source: a test
"""
#: What each runner prints, of passes of 20 ms.
SCRIPTS = {
    "executor_runner": """
for a in "$@"; do case $a in --num_executions=*) n=${a#*=};; --model_path=*) m=${a#*=};; esac; done
test -s "$m" || { echo "Failed to parse model file $m" >&2; exit 1; }
echo "Model loaded in 26.500000 ms." >&2
i=1; while [ $i -le $n ]; do t=20; [ $i -le 3 ] && t=4$i; echo "Iteration $i of $n: $t.500000 ms" >&2; i=$((i+1)); done
echo "Model executed successfully $n time(s) in 1.000000 ms."
""",
    "old/executor_runner": """
for a in "$@"; do case $a in --num_executions=*) n=${a#*=};; esac; done
echo "I 00:00:00.1 executorch:executor_runner.cpp:295] Model executed successfully $n time(s) in $((n * 20 + 10)).0 ms."
""",
    "onnxruntime_perf_test": """
while [ $# -gt 2 ]; do [ "$1" = -r ] && n=$2; shift; done
test -s "$1" || exit 1
echo "Session creation time cost: 0.25 s"; echo "First inference time cost: 31 ms"
echo "Peak working set size: 36696064 bytes"
i=0; while [ $i -lt $n ]; do echo "model,0.0200$i,36696064,96,$i" >>"$2"; i=$((i+1)); done
""",
    "benchmark_model": """
for a in "$@"; do case $a in --num_runs=*) n=${a#*=};; esac; done
echo "INFO: count=1 curr=45000"; echo
echo "INFO: count=$n first=20000 curr=20000 min=19000 max=21000 avg=20000 std=10"; echo
echo "INFO: Inference timings in us: Init: 17187, First inference: 45000, Warmup (avg): 45000, Inference (avg): 20000"
echo "INFO: Overall peak memory footprint (MB) via periodic monitoring: 50.5"
""",
    "ncnn_bench": 'echo "cold 45000 us"; echo "$2 loops took $(($2 * 20000)) us"\n',
    "dies/executor_runner": 'echo "Missing operator: aten::foo.out" >&2; kill -6 $$\n',
    "hangs/executor_runner": "exec sleep 303.25\n",
}


def bundle(folder: Path, runtime: str = "executorch", suffix: str = ".pte", **changed: Any) -> Path:
    """A bundle whose graph is no graph."""
    shape = changed.pop("shape", (1, 3, 8, 8))
    signature = Signature((TensorSpec("x", "float32", shape),), (TensorSpec("y", "float32", ("n",)),))
    names = changed.pop("graphs", ("main",))
    manifest = Manifest(
        schema=SCHEMA,
        name="net",
        created="2026-01-01T00:00:00+00:00",
        source=Source("net.pt", "ultralytics", "0" * 64),
        task=changed.pop("task", None),
        graphs={name: GraphRecord(f"graphs/model{suffix}", signature) for name in names},
        exporter=ExporterRecord(runtime, runtime, None, "fp32", {}, changed.pop("decisions", {})),
        tools={},
        calibration=None,
        golden=(),
        golden_origin="test",
        golden_by="test",
        requires=(),
        device=None,
        request="r",
        seconds=1.0,
        notes=(),
        files={},
    )
    with writing(folder, "net") as temporary:
        (temporary / "graphs").mkdir()
        (temporary / f"graphs/model{suffix}").write_bytes(changed.pop("content", b"graph" * 1000))
        seal(temporary, manifest)
    return folder / "net.edge"


def profile(text: str = PROFILE) -> Device:
    return parse(text, "phone.yaml")


def script(folder: Path, name: str) -> Path:
    """A runner that prints what the real one would."""
    path = folder / "programs" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("#!/bin/sh\n" + SCRIPTS[name])
    return path


def measure(device: AdbDevice, path: Path, asked: str, **options: Any) -> Measurement:
    runtime = Artifact.open(path).manifest.exporter.runtime
    cool_down = options.pop("cool_down", 0.0)
    chosen = NativeRunner.choose(asked, runtime, profile(), cool_down)
    return bench_native(path, BenchOptions(**{"duration": 1.0, "processes": 2, **options}), chosen, device, profile())


def since(measurement: Measurement, name: str) -> float | None:
    readings = measurement.processes[0].telemetry.readings
    return next(reading.value for reading in readings if reading.name == name)


# --- from a bundle to a record


@needs_adb
@needs_abi
def test_a_runner_that_tells_every_pass(device: AdbDevice, standin: StandIn, tmp_path: Path) -> None:
    path = bundle(tmp_path)
    seen: list[Progress] = []
    options = BenchOptions(duration=1.0, processes=2, threads=4)
    chosen = NativeRunner.choose(str(script(tmp_path, "executor_runner")), "executorch", profile())
    found = bench_native(path, options, chosen, device, profile(), seen.append)

    assert Measurement.from_json(to_json(found), "there and back") == found
    assert [len(process.samples) >= needed(0.5) for process in found.processes] == [True, True]
    assert found.median("compute") == found.latency == 0.0205
    assert found.processes[0].first.compute == (41_500_000,)
    assert found.processes[0].warmup.compute[:2] == (42_500_000, 43_500_000)
    assert found.processes[0].steady
    assert (found.processes[0].load, found.processes[0].start) == (0.0265, 0.0)
    assert found.peak_memory is None
    assert (found.place.device, found.place.on) == ("phone", device.on)

    conditions = found.conditions
    assert (conditions.includes, conditions.mean_of, conditions.threads) == (("compute",), 1, 4)
    assert (conditions.backend, conditions.inputs) == ("executorch", {"x": (1, 3, 8, 8)})
    assert (conditions.model_size, conditions.duration) == (5000, 1.0)
    assert found.environment.board == "Maker Stand-in 9"
    assert found.environment.cpu == "Chips C-1"
    assert found.environment.system == "Android 14 AP1A"
    assert (found.environment.python, found.environment.memory is None) == ("none", False)
    assert set(found.environment.packages) == {"executor_runner"}
    assert found.processes[0].facts["not told"] == "start, import"
    assert since(found, "thermal status before") == 0.0
    assert since(found, "temperature CPU0 after") == 41.5
    assert since(found, "charging before") == 1.0
    assert since(found, "battery level before") == 0.85
    assert since(found, "battery temperature after") == pytest.approx(31.2)
    assert since(found, "screen on before") == 0.0
    assert {one.phase for one in seen} >= {"sending", "calibrating"}
    assert any("--cpu_threads=4" in command for command in standin.ran)
    assert standin.left() == []

    pushed = list(standin.pushed)
    again = measure(device, path, str(tmp_path / "programs/executor_runner"), threads=4)
    assert standin.pushed == pushed == ["executor_runner", "model.pte"]
    assert again.differences(found) == ()
    assert again.fingerprint() == found.fingerprint()


@needs_adb
@needs_abi
def test_a_result_file_is_read_and_removed(device: AdbDevice, standin: StandIn, tmp_path: Path) -> None:
    path = bundle(tmp_path, "onnxruntime", ".onnx", shape=("batch", 3, 8, 8))
    found = measure(device, path, str(script(tmp_path, "onnxruntime_perf_test")), batch=2)
    assert found.conditions.inputs == {"x": (2, 3, 8, 8)}
    assert any("-f batch:2" in command for command in standin.ran)
    assert found.processes[0].first.compute == (31_000_000,)
    assert 0.02 <= found.latency < 0.0201
    assert found.peak_memory == 36696064
    assert found.processes[0].load == 0.25
    assert standin.left() == []


@needs_adb
@needs_abi
def test_a_runner_that_tells_means(device: AdbDevice, standin: StandIn, tmp_path: Path) -> None:
    found = measure(device, bundle(tmp_path, "litert", ".tflite"), str(script(tmp_path, "benchmark_model")))
    assert len(found.processes) == found.count == needed(0.5)
    assert found.conditions.mean_of == 8  # a second over seven starts of passes of 20 ms
    assert found.latency == 0.02
    assert found.processes[0].first.compute == (45_000_000,)
    assert found.processes[0].samples.compute == (20_000_000,)
    assert found.processes[0].facts["samples"] == "means of one start each"
    assert found.peak_memory == int(50.5 * 2**20)
    assert np.isclose(found.processes[0].telemetry.wall, 0.16)
    assert standin.left() == []


@needs_adb
@needs_abi
def test_a_runner_that_tells_means_with_the_first_pass_in_them(device: AdbDevice, tmp_path: Path) -> None:
    found = measure(device, bundle(tmp_path), str(script(tmp_path, "old/executor_runner")))
    assert found.conditions.mean_of > 1
    assert found.processes[0].first.compute == (30_000_000,)  # of a start with one pass
    assert found.processes[0].facts["samples"] == "means of one start each, its first pass included"
    assert found.processes[0].facts["not told"] == "start, import, load"


@needs_adb
@needs_abi
def test_a_runner_that_only_the_profile_knows(device: AdbDevice, standin: StandIn, tmp_path: Path) -> None:
    path = bundle(tmp_path, "ncnn", ".bin")
    with pytest.raises(UsageError, match="There is no program /data/local/tmp/ncnn_bench on adb://"):
        measure(device, path, "ncnn_bench")
    there = standin.tmp / "ncnn_bench"
    there.write_text("#!/bin/sh\n" + SCRIPTS["ncnn_bench"])
    there.chmod(0o755)
    found = measure(device, path, "ncnn_bench", threads=3)
    assert (found.latency, found.processes[0].first.compute) == (0.02, (45_000_000,))
    assert any("-t 3" in command for command in standin.ran)
    assert standin.pushed == ["model.bin"]


# --- what goes wrong


@needs_adb
@needs_abi
def test_a_runner_that_dies_leaves_its_words(device: AdbDevice, standin: StandIn, tmp_path: Path) -> None:
    with pytest.raises(RunFailed) as caught:
        measure(device, bundle(tmp_path), str(script(tmp_path, "dies/executor_runner")))
    assert "was killed by SIGABRT. Its last words:\n  Missing operator: aten::foo.out" in str(caught.value)
    assert standin.left() == []


@needs_adb
@needs_abi
def test_a_runner_that_hangs_is_killed(device: AdbDevice, standin: StandIn, tmp_path: Path) -> None:
    with pytest.raises(RunFailed, match="was killed there"):
        measure(device, bundle(tmp_path), str(script(tmp_path, "hangs/executor_runner")), silence=0.5)
    assert gone("sleep\x00303.25")
    assert standin.left() == []


@needs_adb
@needs_abi
def test_the_cable_is_pulled_in_the_middle(device: AdbDevice, standin: StandIn, tmp_path: Path) -> None:
    path, hanging = bundle(tmp_path), str(script(tmp_path, "hangs/executor_runner"))
    unplugging = threading.Thread(target=_when, args=(lambda: _runs(standin), standin.unplug))
    unplugging.start()
    with pytest.raises(RunFailed, match=r"The way to adb://.* broke \(.*\): plug it in again, and start again"):
        measure(device, path, hanging)
    unplugging.join()
    assert gone("sleep\x00303.25")
    _when(lambda: standin.left() == [], lambda: None)
    assert standin.left() == []
    with AdbDevice.find(device.on).held():  # nor is the device still locked
        pass


@needs_adb
@needs_abi
def test_an_interrupt_ends_the_runner_too(device: AdbDevice, standin: StandIn, tmp_path: Path) -> None:
    path, hanging = bundle(tmp_path), str(script(tmp_path, "hangs/executor_runner"))
    interrupt = threading.Thread(
        target=_when, args=(lambda: _runs(standin), lambda: os.kill(os.getpid(), signal.SIGINT))
    )
    interrupt.start()
    with pytest.raises(KeyboardInterrupt):
        measure(device, path, hanging)
    interrupt.join()
    assert gone("sleep\x00303.25")
    assert standin.left() == []


def _runs(standin: StandIn) -> bool:
    return any("exec" in command and "--num_executions" in command for command in standin.ran)


def _when(condition: Any, action: Any, seconds: float = 20.0) -> None:
    until = time.monotonic() + seconds
    while not condition() and time.monotonic() < until:
        time.sleep(0.02)
    time.sleep(0.1)
    action()


@needs_adb
@needs_abi
def test_a_device_without_room(device: AdbDevice, standin: StandIn, tmp_path: Path) -> None:
    standin.room = 3000
    with pytest.raises(Unavailable, match=r"has no room for model.pte \(4.88 KiB\)"):
        measure(device, bundle(tmp_path), str(script(tmp_path, "executor_runner")))
    assert standin.left() == []


@needs_adb
@needs_abi
def test_a_program_for_another_processor_is_not_even_sent(device: AdbDevice, standin: StandIn, tmp_path: Path) -> None:
    other = tmp_path / "executor_runner"
    other.write_bytes(elf(machine=243))
    with pytest.raises(Incompatible, match=f"is built for riscv64, and adb://.* runs {ABI}, armeabi: build it for"):
        measure(device, bundle(tmp_path), str(other))
    machine = {abi: number for number, abi in programs.ABIS.items()}[ABI]
    other.write_bytes(elf(machine, b"/system/bin/linker64"))
    with pytest.raises(Incompatible, match=r"needs /system/bin/linker64, which adb://.* does not have"):
        measure(device, bundle(tmp_path), str(other))
    other.write_bytes(b"MZ\x90")
    with pytest.raises(UsageError, match="is no program"):
        measure(device, bundle(tmp_path), str(other))
    assert standin.pushed == []


@needs_adb
@needs_abi
def test_a_profile_of_another_processor(device: AdbDevice, tmp_path: Path) -> None:
    wrong = replace(profile(), arch="armv7l" if ARCH == "aarch64" else "aarch64")
    chosen = NativeRunner.choose(str(script(tmp_path, "executor_runner")), "executorch", wrong)
    with pytest.raises(Incompatible, match="name the profile that it has"):
        bench_native(bundle(tmp_path), BenchOptions(), chosen, device, wrong)


@needs_adb
@needs_abi
def test_a_warm_device_is_waited_for(
    device: AdbDevice, standin: StandIn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(native, "LOOK", 0.05)
    warm = TEXTS["dumpsys.thermalservice"].replace("Status: 0", "Status: 2", 1)
    standin.set("dumpsys.thermalservice", warm)
    threading.Timer(1.0, standin.set, ["dumpsys.thermalservice", TEXTS["dumpsys.thermalservice"]]).start()
    path, runner = bundle(tmp_path), str(script(tmp_path, "executor_runner"))
    found = measure(device, path, runner, cool_down=30.0, processes=1)
    assert since(found, "thermal status before") == 0.0
    standin.set("dumpsys.thermalservice", warm)
    found = measure(device, path, runner, cool_down=0.1, processes=1)  # no longer than allowed, and told
    assert since(found, "thermal status before") == 2.0


# --- a real runner


@needs_adb
@needs_abi
@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="needs a C++ compiler")
def test_our_own_runner_on_a_real_program(device: AdbDevice, standin: StandIn, tmp_path: Path) -> None:
    pytest.importorskip("executorch.exir")
    runner = build_runner(tmp_path)
    path = bundle(tmp_path, content=program(), shape=(1, 3, 8, 8))
    found = measure(device, path, f"edgedeploy_runner={runner}", duration=0.05, threads=1)
    assert found.conditions.mean_of == 1
    assert found.count >= 2 * needed(0.5)
    assert found.latency > 0
    assert (found.peak_memory or 0) > 1 << 20
    assert found.processes[0].load > 0
    assert found.processes[0].telemetry.resolution == 1e-9
    assert standin.left() == []
    with pytest.raises(RunFailed, match="cannot load"):
        measure(device, bundle(tmp_path / "damaged"), f"edgedeploy_runner={runner}")


def build_runner(folder: Path) -> Path:
    """The program of exporters/edgedeploy_executorch/runner.cpp, built as README.md there says."""
    import executorch

    root = Path(__file__).resolve().parents[3] / "exporters" / "edgedeploy_executorch"
    readme = (root / "README.md").read_text()
    line = readme[readme.index("g++ ") : readme.index("```", readme.index("g++ "))].replace("\\\n", " ")
    package = next(iter(executorch.__path__))
    if not Path(package, "lib", "libexecutorch.so").is_file():
        pytest.skip("this executorch has no C++ libraries; 1.5 and newer do")
    command = line.replace("exporters/edgedeploy_executorch", str(root))
    subprocess.run(command, shell=True, check=True, cwd=folder, env={**os.environ, "ET": package}, timeout=300)
    return folder / "edgedeploy_runner"


def program() -> bytes:
    """A small convolutional network, lowered to ExecuTorch's own kernels."""
    import torch
    from executorch.exir import to_edge

    network = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.ReLU()).eval().requires_grad_(False)
    exported = torch.export.export(network, (torch.zeros(1, 3, 8, 8),))
    return bytes(to_edge(exported).to_executorch().buffer)


# --- what is decided beforehand


def test_the_runner_that_is_meant(tmp_path: Path) -> None:
    here = script(tmp_path, "executor_runner")
    for asked in (str(here), f"executor_runner={here}"):
        assert NativeRunner.choose(asked, "executorch", profile()).runner.reads == KNOWN["executor_runner"].reads
    ours = NativeRunner.choose(f"edgedeploy_runner={here}", "executorch", profile())
    assert ours.runner.name == "edgedeploy_runner"  # known, though the profile does not list it
    assert NativeRunner.choose(None, "ncnn", profile()).path is None


@pytest.mark.parametrize(
    ("asked", "runtime", "told"),
    [
        (None, "executorch", "The program of executor_runner is not on the device: build it, and write --runner"),
        ("executor_runner", "executorch", "write --runner executor_runner=PATH"),
        ("executor_runer", "executorch", "Did you mean 'executor_runner'"),
        ("here/something", "executorch", "There is no native runner 'something' for executorch"),
        ("benchmark_model=/bin/sh", "executorch", "benchmark_model runs litert, and the bundle is for executorch"),
        ("executor_runner=/nowhere/at/all", "executorch", "There is no program at /nowhere/at/all"),
        (None, "tensorrt", "There is no native runner '' for tensorrt"),
    ],
)
def test_no_runner_that_could_be_meant(asked: str | None, runtime: str, told: str) -> None:
    with pytest.raises(UsageError) as caught:
        NativeRunner.choose(asked, runtime, profile())
    assert told in str(caught.value)


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"samples": "images"}, "--samples does not go with a native runner: executor_runner makes its inputs"),
        ({"scenario": Scenario("offline")}, "--scenario does not go"),
        ({"precision": 0.02}, "--precision does not go"),
        ({"options": {"delegate": "x"}}, "--option does not go"),
        ({"batch": 2}, "takes batches of 1 only, not of 2"),
        ({"size": (16, 16)}, "has a fixed size, and cannot run at 16x16"),
        ({"graph": "other"}, "has no graph 'other'"),
        ({"backend": "onnxruntime"}, "executor_runner runs executorch, and net is to run on onnxruntime"),
    ],
)
def test_what_a_runner_cannot_do(tmp_path: Path, changed: dict[str, Any], told: str) -> None:
    artifact = Artifact.open(bundle(tmp_path))
    with pytest.raises(UsageError) as caught:
        plan(artifact, replace(BenchOptions(), **changed), KNOWN["executor_runner"])
    assert told in str(caught.value)


def test_dimensions_that_are_open(tmp_path: Path) -> None:
    task = {"kind": "detect", "size": [8, 16]}
    artifact = Artifact.open(bundle(tmp_path, shape=("batch", 3, "height", "width"), task=task))
    with pytest.raises(UsageError, match="executor_runner cannot be told a size for 'batch'"):
        plan(artifact, BenchOptions(), KNOWN["executor_runner"])
    work = plan(artifact, BenchOptions(batch=2), KNOWN["edgedeploy_runner"])
    assert work.places["shapes"] == "2x3x8x16"
    assert work.conditions.inputs == {"x": (2, 3, 8, 16)}
    work = plan(artifact, BenchOptions(size=(24, 32)), KNOWN["edgedeploy_runner"])
    assert work.places["shapes"] == "1x3x24x32"
    other = Artifact.open(bundle(tmp_path / "other", shape=("batch", "time")))
    with pytest.raises(UsageError, match="net leaves 'time' open, and nothing says its size"):
        plan(other, BenchOptions(), KNOWN["edgedeploy_runner"])


def test_a_name_from_a_bundle_is_no_command(tmp_path: Path) -> None:
    odd = Artifact.open(bundle(tmp_path, "onnxruntime", ".onnx", shape=("b;reboot", 3)))
    assert plan(odd, BenchOptions(), KNOWN["onnxruntime_perf_test"]).places["dims"] == "-f 'b;reboot:1'"


def test_a_suffix_from_a_bundle_is_no_command(device: AdbDevice, standin: StandIn, tmp_path: Path) -> None:
    found = measure(device, bundle(tmp_path, suffix=".a'b; exit 3 #"), str(script(tmp_path, "executor_runner")))
    assert found.count


def test_one_graph_of_several_in_a_file(tmp_path: Path) -> None:
    decisions = {"encode": {"methods": ["encode"]}, "decode": {"methods": ["decode_batch1", "decode_batch2"]}}
    artifact = Artifact.open(bundle(tmp_path, graphs=("encode", "decode"), decisions=decisions))
    assert plan(artifact, BenchOptions(graph="encode"), KNOWN["executor_runner"]).places["method"] == "encode"
    with pytest.raises(UsageError, match="has one method per batch size"):
        plan(artifact, BenchOptions(graph="decode"), KNOWN["executor_runner"])


# --- reading what was told


def test_the_begin_of_the_steady_state() -> None:
    assert steady_from([1.0] * 40) == (15, True)
    assert steady_from([4.0] * 5 + [2.0] * 5 + [1.0] * 30) == (20, False)
    assert steady_from([2.0] * 5 + [1.0] * 60) == (20, True)
    assert steady_from([1.0] * 30) == (15, True)
    assert steady_from([2.0**-i for i in range(30)]) == (20, False)
    assert steady_from([1.0]) == (0, False)


@given(st.lists(st.floats(1e-6, 10.0), min_size=2, max_size=300))
def test_every_pass_is_kept(times: list[float]) -> None:
    process = native.record(Output(tuple(times), sum(times) / len(times), len(times), None, None, None, 1e-9), None)
    kept = (*process.first.compute, *process.warmup.compute, *process.samples.compute)
    assert kept == tuple(round(time * 1e9) for time in times)
    assert len(process.samples) >= min(len(times) // 2, needed(0.5))


def elf(machine: int, loader: bytes = b"", wide: bool = True) -> bytes:
    """The begin of a program."""
    header = b"\x7fELF" + bytes([2 if wide else 1, 1, 1]) + bytes(9) + struct.pack("<HHI", 3, machine, 1)
    if wide:
        header += struct.pack("<QQQIHHHHHH", 0, 64, 0, 0, 64, 56, 1 if loader else 0, 0, 0, 0)
        header += struct.pack("<IIQQQQQQ", 3, 4, 120, 0, 0, len(loader) + 1, 0, 1)
    else:
        header += struct.pack("<IIIIHHHHHH", 0, 52, 0, 0, 52, 32, 1 if loader else 0, 0, 0, 0)
        header += struct.pack("<IIIIIIII", 3, 84, 0, 0, len(loader) + 1, 0, 4, 1)
    return header + loader + b"\0"


@pytest.mark.parametrize("wide", [True, False])
def test_a_program_says_what_it_is_for(wide: bool) -> None:
    assert programs.read_elf(elf(40, b"/system/bin/linker", wide)) == programs.Elf("armeabi-v7a", "/system/bin/linker")
    assert programs.read_elf(elf(183, b"", wide)) == programs.Elf("arm64-v8a", None)
    assert programs.read_elf(b"#!/bin/sh") is None


@pytest.mark.skipif(platform.system() != "Linux", reason="needs programs in ELF")
@needs_abi
def test_a_program_of_this_machine() -> None:
    found = programs.read_elf(Path("/proc/self/exe").read_bytes()[: programs.HEAD])
    assert found is not None
    assert found.abi == ABI


@given(st.binary(max_size=300), st.booleans(), st.integers(0, 120))
def test_damaged_programs_are_no_traceback(noise: bytes, wide: bool, keep: int) -> None:
    programs.read_elf(elf(183, b"/system/bin/linker64", wide)[:keep] + noise)


@given(st.text(max_size=200), st.text(max_size=200), st.text(max_size=200))
def test_a_device_may_say_anything(thermal: str, battery: str, power: str) -> None:
    state = android.parse_state({"thermal": thermal, "battery": battery, "power": power})
    assert all((one.value is None) == (one.trust == "absent") for one in state.readings("before"))


@pytest.mark.parametrize(
    "said",
    ["load\n1.2.3 ... .. 1/2 3", f"load\n{'9' * 400}.1 1.0 1.0 1/2 3", f"memory\nMemTotal: {'9' * 5000} kB"],
)
def test_numbers_that_are_none_are_unknown(said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    text = f"\n{android._MARK}{said}\n"
    monkeypatch.setattr(AdbDevice, "shell", lambda device, command: adb.Said(0, text))
    found = android.environment(AdbDevice("0A1B"), {})
    assert (found.load_average, found.memory) == (None, None)


def test_a_device_that_says_nothing_is_unknown_not_cold() -> None:
    state = android.parse_state({"thermal": "", "battery": "", "power": ""})
    assert state == android.State(None, {}, None, None, None, None)
    assert canonical(to_json(state.readings("after")))


def test_clocks_that_heat_holds_down_are_told() -> None:
    assert (
        android._clock_limits("300000 1700000\n500000 2910000\n300000 1700000\n") == "0.3 to 1.7 GHz, 0.5 to 2.91 GHz"
    )
    assert android._clock_limits("cat: No such file") is None
