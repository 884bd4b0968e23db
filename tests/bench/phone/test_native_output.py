"""What native runners print: real output is read as it stands, and anything else is refused with its last words."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgedeploy.bench.phone.native_output import KNOWN, Output, described, fill, read
from edgedeploy.errors import RunFailed, UsageError
from edgedeploy.parts import RUNNERS, Line, Reads, Runner

# As ExecuTorch's runner logs them: older ones only the sum of all passes, newer ones each of them and the load.
EXECUTOR_OLD = """\
I 00:00:00.000451 executorch:executor_runner.cpp:90] Resetting threadpool with num threads = 4
I 00:00:00.004611 executorch:executor_runner.cpp:152] Model file model.pte is loaded.
I 00:00:00.004620 executorch:executor_runner.cpp:161] Using method main
I 00:00:00.031236 executorch:executor_runner.cpp:262] Method loaded.
I 00:00:00.331236 executorch:executor_runner.cpp:295] Model executed successfully 4 time(s) in 92.500000 ms.
I 00:00:00.331240 executorch:executor_runner.cpp:301] 1 outputs:
OutputX 0: tensor(sizes=[1, 4], [0.5, 0.25, 12., 8.])
"""
EXECUTOR_NEW = """\
Model file model.pte is loaded.
Using method main
Model loaded in 26.616000 ms.
Iteration 1 of 3: 31.500000 ms
Iteration 2 of 3: 20.250000 ms
Iteration 3 of 3: 20.125000 ms
Model executed successfully 3 time(s) in 71.875000 ms.
"""
PERF_TEST = """\
Setting intra_op_num_threads to 1
Session creation time cost: 0.0102016 s
First inference time cost: 2 ms
Total inference time cost: 0.00556 s
Total inference requests: 3
Average inference time cost total: 1.853333 ms
Total inference run time: 0.0055714 s
Number of inferences per second: 538.184
Avg CPU usage: 96 %
Peak working set size: 36696064 bytes

run-1,0.00183404,36696064,96,0
run-1,0.00190312,36696064,96,1
run-1,0.0018228,36696064,96,2
"""
BENCHMARK_MODEL = """\
INFO: STARTING!
INFO: Log parameter values verbosely: [0]
INFO: Graph: [model.tflite]
INFO: The input model file size (MB): 16.9008
INFO: Initialized session in 17.187ms.
INFO: Running benchmark for at least 1 iterations and at least 0 seconds but terminate if exceeding 300 seconds.
INFO: count=1 curr=3512391 p5=3512391 median=3512391 p95=3512391

INFO: Running benchmark for at least 50 iterations and at least 0 seconds but terminate if exceeding 300 seconds.
INFO: count=50 first=2990275 curr=2913402 min=2727568 max=3189954 avg=2.95034e+06 std=109798

INFO: Inference timings in us: Init: 17187, First inference: 3512391, Warmup (avg): 3.51239e+06, @
INFO: Note: as the benchmark tool itself affects memory footprint, the following is only APPROXIMATE.
INFO: Memory footprint delta from the start of the tool (MB): init=4.21094 overall=46.0859
INFO: Overall peak memory footprint (MB) via periodic monitoring: 50.5
""".replace("@", "Inference (avg): 2.95034e+06")
OURS = """\
{"method": "main", "threads": 2, "load": 11000000}
{"pass": 1, "nanoseconds": 3000001}
{"pass": 2, "nanoseconds": 2000002}
{"peak memory": 72351744}
"""
EXAMPLES = {
    "executor_runner": EXECUTOR_NEW,
    "onnxruntime_perf_test": PERF_TEST,
    "benchmark_model": BENCHMARK_MODEL,
    "edgedeploy_runner": OURS,
}


def of(name: str) -> Reads:
    reads = KNOWN[name].reads
    assert reads is not None
    return reads


def test_every_runner_that_a_profile_may_just_name_is_described() -> None:
    assert set(KNOWN) == set(RUNNERS) == set(EXAMPLES)
    for name, runner in KNOWN.items():
        runner.check(name)
        assert described(Runner(name, runner.runtime)).reads == runner.reads


def test_executor_runner_of_today_tells_every_pass() -> None:
    found = read(EXECUTOR_NEW, of("executor_runner"), 3)
    assert found == Output((0.0315, 0.02025, 0.020125), found.mean, 3, 0.026616, None, None, 1e-9)
    assert found.mean == pytest.approx(0.071875 / 3)


def test_executor_runner_of_before_tells_the_sum() -> None:
    found = read(EXECUTOR_OLD, of("executor_runner"), 4)
    assert found.each == ()
    assert (found.mean, found.count, found.load, found.first) == (0.023125, 4, None, None)
    assert found.resolution == pytest.approx(1e-9 / 4)


def test_onnxruntime_perf_test_tells_every_pass_in_its_result_file() -> None:
    found = read(PERF_TEST, of("onnxruntime_perf_test"), 3)
    assert found.each == (0.00183404, 0.00190312, 0.0018228)
    assert (found.load, found.first, found.memory) == (0.0102016, 0.002, 36696064)
    assert found.resolution == 1e-8


def test_benchmark_model_tells_the_mean_of_the_passes_after_its_warm_up() -> None:
    found = read(BENCHMARK_MODEL, of("benchmark_model"), 50)
    assert found.each == ()
    assert [found.mean, found.load, found.first] == pytest.approx([2.95034, 0.017187, 3.512391])
    assert found.count == 50
    assert found.memory == int(50.5 * 2**20)
    assert found.resolution == pytest.approx(10e-6)  # 2.95034e+06 us has six digits


def test_benchmark_model_with_passes_that_are_all_alike() -> None:
    alike = re.sub(r"count=50 .*", "count=50 curr=2950340(all same)", BENCHMARK_MODEL)
    assert read(alike, of("benchmark_model"), 50).count == 50


def test_our_runner() -> None:
    found = read(OURS, of("edgedeploy_runner"), 2)
    assert found.each == pytest.approx((0.003000001, 0.002000002))
    assert found.load == pytest.approx(0.011)
    assert (found.memory, found.resolution) == (72351744, 1e-9)


@pytest.mark.parametrize("name", EXAMPLES)
def test_another_number_of_passes_than_asked_for_is_refused(name: str) -> None:
    with pytest.raises(RunFailed, match=r"tells of \d+ passes instead of 77"):
        read(EXAMPLES[name], of(name), 77)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "no time of a pass. It left no word"),
        ("error: cannot open model.pte\n", "no time of a pass. Its last words:\n  error: cannot open model.pte"),
        (EXECUTOR_NEW.replace("20.250000", "0.000000"), "took no time at all"),
        (EXECUTOR_NEW.replace("20.250000", "9" * 40), "where no such number can be"),
        (EXECUTOR_NEW.replace("Model loaded in 26.616000", "Model loaded in " + "9" * 400), "no such number"),
    ],
)
def test_output_that_cannot_be_read_is_refused_with_its_last_words(text: str, told: str) -> None:
    with pytest.raises(RunFailed) as caught:
        read(text, of("executor_runner"), 3)
    assert told in str(caught.value)


def test_a_runner_that_tells_its_first_pass_apart_has_to() -> None:
    with pytest.raises(RunFailed, match="nothing of its first pass"):
        read(PERF_TEST.replace("First inference", "Another thing"), of("onnxruntime_perf_test"), 3)


@pytest.mark.parametrize("value", ["nan", "inf", "-1.5", "1_000", "0x10", "٣", "1e5000", "", "1.2.3"])
def test_what_is_no_number_is_none(value: str) -> None:
    reads = Reads(total=Line(r"^(?P<count>\S+) passes in (?P<value>\S*) s$", "s"))
    with pytest.raises(RunFailed):
        read(f"3 passes in {value} s", reads, 3)
    with pytest.raises(RunFailed):
        read(f"{value} passes in 1.5 s", reads, 3)


words = st.sampled_from([line for text in (*EXAMPLES.values(), EXECUTOR_OLD) for line in text.splitlines()])


@pytest.mark.parametrize("name", EXAMPLES)
@given(
    lines=st.lists(st.one_of(words, st.text(max_size=30)), max_size=12),
    cut=st.integers(0, 2000),
    odd=st.text(max_size=5),
    passes=st.integers(1, 60),
)
def test_no_output_makes_a_number_that_is_not_in_it(
    name: str, lines: list[str], cut: int, odd: str, passes: int
) -> None:
    for text in ("\n".join(lines), EXAMPLES[name][:cut] + odd + EXAMPLES[name][cut:], EXAMPLES[name][:cut] + odd):
        try:
            found = read(text, of(name), passes)
        except RunFailed as error:
            assert str(error).startswith("The runner's output ")
            continue
        assert found.count == passes
        assert 0 < found.mean < 1e6
        assert len(found.each) in (0, passes)
        assert all(0 < time < 1e6 for time in found.each)


@given(st.lists(st.floats(1e-6, 1e3), min_size=1, max_size=40))
def test_every_pass_that_is_told_comes_back(times: list[float]) -> None:
    text = "".join(f"Iteration {i} of {len(times)}: {time:.6f} ms\n" for i, time in enumerate(times, 1))
    found = read(text, of("executor_runner"), len(times))
    assert found.each == tuple(float(f"{time:.6f}") * 1e-3 for time in times)


# --- commands


PLACES = {"runner": "./r", "model": "m.pte", "passes": "7", "limit": "300", "result": "o"}
NONE: dict[str, str | None] = {"threads": None, "method": None, "dims": None, "shapes": None}


def test_parts_in_brackets_are_left_out_where_nothing_is_asked_for() -> None:
    runner = KNOWN["executor_runner"]
    assert fill(runner, {**PLACES, **NONE}) == "./r --model_path=m.pte --num_executions=7"
    full = fill(runner, {**PLACES, **NONE, "threads": "2", "method": "encode"})
    assert full == "./r --model_path=m.pte --num_executions=7 --cpu_threads=2 --method_name=encode"


def test_the_commands_of_the_others() -> None:
    asked = {**PLACES, **NONE, "threads": "2", "dims": "-f batch:1"}
    assert fill(KNOWN["onnxruntime_perf_test"], asked) == "./r -I -S 1 -m times -r 7 -x 2 -f batch:1 m.pte o"
    litert = fill(KNOWN["benchmark_model"], {**PLACES, **NONE})
    assert "--graph=m.pte --warmup_runs=1" in litert
    assert "--num_runs=7 --min_secs=0 --max_secs=300 --report_peak_memory_footprint=true" in litert


def test_a_command_that_needs_what_is_not_given() -> None:
    runner = replace(KNOWN["executor_runner"], command="{runner} {model} {passes} {threads}")
    with pytest.raises(UsageError, match=r"needs '\{threads\}'"):
        fill(runner, {**PLACES, **NONE})
