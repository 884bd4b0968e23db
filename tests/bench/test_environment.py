"""The environment record, read from made-up /proc and /sys trees."""

from __future__ import annotations

import json
import socket
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgedeploy.bench.environment import Environment, changes, collect, imported_packages
from edgedeploy.records import canonical, from_json, to_json

X86 = """processor\t: 0
model name\t: Some Xeon
flags\t\t: fpu sse4_2 avx2 fma hypervisor avx512_vnni

processor\t: 1
model name\t: Some Xeon
"""
ARM = "processor\t: 0\nFeatures\t: fp asimd asimddp i8mm\nCPU part\t: 0xd0b\n"


def tree(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def test_this_machine_gives_a_record_that_survives_json() -> None:
    found = collect(runtime="1.0", packages={"numpy": "2"}, image_engine="opencv 4")
    assert from_json(Environment, json.loads(canonical(to_json(found))), "here") == found
    assert found.image_engine == "opencv 4"
    assert socket.gethostname() not in canonical(to_json(found)).decode()


def test_what_cannot_be_read_is_absent(tmp_path: Path) -> None:
    found = collect(root=tmp_path)
    unread = (found.board, found.cpu_limit, found.governor, found.turbo, found.memory, found.hosted)
    assert unread == (None,) * 6
    later = (found.clock_limits, found.power_mode, found.throttled, found.swap, found.huge_pages, found.autogroup)
    assert later == (None,) * 6
    assert (found.microcode, found.gpu) == (None, None)
    assert found.isa == ()


def test_an_x86_guest_in_a_container(tmp_path: Path) -> None:
    root = tree(
        tmp_path,
        {
            "proc/cpuinfo": X86,
            "proc/meminfo": "MemTotal:       1024 kB\nMemFree: 3 kB\n",
            ".dockerenv": "",
            "sys/class/dmi/id/sys_vendor": "Maker\n",
            "sys/class/dmi/id/product_name": "Box 1\n",
            "sys/devices/system/cpu/cpu0/cpufreq/scaling_governor": "performance\n",
            "sys/devices/system/cpu/cpu1/cpufreq/scaling_governor": "powersave\n",
            "sys/devices/system/cpu/intel_pstate/no_turbo": "1\n",
        },
    )
    found = collect(root=root)
    assert (found.cpu, found.isa) == ("Some Xeon", ("sse4_2", "fma", "avx2", "avx512_vnni"))
    assert (found.board, found.memory, found.hosted) == ("Maker Box 1", 1 << 20, "container, hypervisor")
    assert (found.governor, found.turbo) == ("performance,powersave", False)


def test_an_arm_board(tmp_path: Path) -> None:
    root = tree(
        tmp_path,
        {
            "proc/cpuinfo": ARM,
            "proc/device-tree/model": "Some Pi 5\0",
            "sys/devices/system/cpu/cpufreq/boost": "1",
        },
    )
    found = collect(root=root)
    assert (found.board, found.isa, found.turbo) == ("Some Pi 5", ("asimd", "asimddp", "i8mm"), True)
    assert found.hosted is None


def test_what_decides_the_speed_of_a_jetson(tmp_path: Path) -> None:
    policy = "sys/devices/system/cpu/cpufreq/policy"
    root = tree(
        tmp_path,
        {
            "var/lib/nvpmodel/status": "pmode:0002",
            "etc/nvpmodel.conf": "< POWER_MODEL ID=0 NAME=15W >\nCORE_0 1\n< POWER_MODEL ID=2 NAME=MAXN_SUPER >\n",
            "etc/nv_tegra_release": "# R36 (release), REVISION: 4.3, GCID: 38968081, BOARD: generic, EABI: aarch64",
            f"{policy}0/scaling_min_freq": "729600",
            f"{policy}0/scaling_max_freq": "1728000",
            f"{policy}4/scaling_min_freq": "1728000",
            f"{policy}4/scaling_max_freq": "1728000",
            "proc/meminfo": "MemTotal: 8 kB\nSwapTotal: 4 kB\n",
        },
    )
    found = collect(root=root)
    assert (found.power_mode, found.gpu, found.swap) == ("MAXN_SUPER (2)", "Tegra, L4T 36.4.3", 4096)
    assert found.clock_limits == "0.7296 to 1.728 GHz, 1.728 to 1.728 GHz"
    (root / "etc/nvpmodel.conf").unlink()
    assert collect(root=root).power_mode == "mode 2"


def test_what_decides_the_speed_of_a_machine_with_cards(tmp_path: Path) -> None:
    version = (
        "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  560.35.03  Release Build\nGCC version:  12.2.0\n"
    )
    root = tree(
        tmp_path,
        {
            "proc/driver/nvidia/version": version,
            "proc/driver/nvidia/gpus/0000:01:00.0/information": "Model: \t\t NVIDIA RTX A2000\nIRQ:   \t\t 1\n",
            "proc/cpuinfo": X86 + "microcode\t: 0x2b000571\n",
            "proc/sys/kernel/sched_autogroup_enabled": "1",
            "sys/kernel/mm/transparent_hugepage/enabled": "always [madvise] never\n",
            "sys/firmware/acpi/platform_profile": "balanced\n",
        },
    )
    found = collect(root=root)
    assert found.gpu == "NVIDIA RTX A2000, driver 560.35.03"
    assert (found.microcode, found.autogroup, found.huge_pages) == ("0x2b000571", True, "madvise")
    assert (found.power_mode, found.throttled) == ("balanced", None)


def test_a_pi_says_what_has_throttled_it_since_its_start(tmp_path: Path) -> None:
    files = {
        "proc/device-tree/model": "Raspberry Pi 4 Model B Rev 1.4\0",
        "sys/devices/platform/soc/soc:firmware/get_throttled": "50000\n",
    }
    found = collect(root=tree(tmp_path, files))
    assert found.throttled == ("under-voltage", "throttled")
    assert from_json(Environment, json.loads(canonical(to_json(found))), "here") == found


def test_what_changes_by_itself_is_no_condition() -> None:
    assert "load_average" not in collect().conditions()
    assert collect().conditions() == collect().conditions()


@pytest.mark.parametrize(
    ("files", "limit"),
    [
        ({"proc/self/cgroup": "0::/a/b\n", "sys/fs/cgroup/a/b/cpu.max": "150000 100000\n"}, 1.5),
        ({"proc/self/cgroup": "0::/a/b\n", "sys/fs/cgroup/a/cpu.max": "50000 100000\n"}, 0.5),
        ({"proc/self/cgroup": "0::/a\n", "sys/fs/cgroup/a/cpu.max": "max 100000\n"}, None),
        ({"proc/self/cgroup": "0::/../../x\n", "sys/fs/cgroup/x/cpu.max": "100000 100000\n"}, 1.0),
        (
            {
                "proc/self/cgroup": "4:memory:/m\n3:cpu,cpuacct:/c\n",
                "sys/fs/cgroup/cpu,cpuacct/c/cpu.cfs_quota_us": "200000",
                "sys/fs/cgroup/cpu,cpuacct/c/cpu.cfs_period_us": "100000",
            },
            2.0,
        ),
        (
            {
                "proc/self/cgroup": "3:cpu:/c\n",
                "sys/fs/cgroup/cpu/c/cpu.cfs_quota_us": "-1",
                "sys/fs/cgroup/cpu/c/cpu.cfs_period_us": "100000",
            },
            None,
        ),
    ],
)
def test_the_limit_of_the_control_group(tmp_path: Path, files: dict[str, str], limit: float | None) -> None:
    assert collect(root=tree(tmp_path, files)).cpu_limit == limit


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=50)
@given(st.binary(max_size=80), st.binary(max_size=40))
def test_no_content_of_these_files_stops_a_run(tmp_path: Path, first: bytes, second: bytes) -> None:
    names = (
        *("proc/cpuinfo", "proc/meminfo", "proc/self/cgroup", "sys/devices/system/cpu/cpufreq/boost"),
        *("var/lib/nvpmodel/status", "etc/nvpmodel.conf", "proc/driver/nvidia/version"),
        *("sys/devices/system/cpu/cpufreq/policy0/scaling_min_freq", "sys/kernel/mm/transparent_hugepage/enabled"),
    )
    tree(tmp_path, dict.fromkeys(names, ""))
    for name in names:
        (tmp_path / name).write_bytes(first + b"\n" + second)
    collect(root=tmp_path)


def test_changes_are_named_with_both_values() -> None:
    assert changes({"a": 1, "b": None}, {"a": 2, "b": "x", "c": (1, 2)}) == (
        "a: 1 -> 2",
        "b: unknown -> x",
        "c: unknown -> 1, 2",
    )


def test_packages_are_those_that_were_imported() -> None:
    found = imported_packages()
    assert {"numpy", "pytest", "hypothesis"} <= set(found)
    assert "torch" not in found or "torch" in __import__("sys").modules
