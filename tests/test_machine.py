"""What a machine says of itself, read from text of machines that are not here."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgedeploy import machine
from edgedeploy.errors import Unavailable


def arm_core(number: int, part: str, features: str) -> str:
    return (
        f"processor\t: {number}\nBogoMIPS\t: 108.00\nFeatures\t: {features}\nCPU implementer\t: 0x41\n"
        f"CPU architecture: 8\nCPU variant\t: 0x4\nCPU part\t: {part}\nCPU revision\t: 1\n\n"
    )


A76 = "fp asimd evtstrm aes pmull sha1 sha2 crc32 atomics fphp asimdhp cpuid asimdrdm lrcpc dcpop asimddp"
PI_5 = "".join(arm_core(i, "0xd0b", A76) for i in range(4)) + "Revision\t: d04170\nModel\t\t: Raspberry Pi 5 Model B\n"
PI_4 = "".join(arm_core(i, "0xd08", "fp asimd evtstrm crc32 cpuid") for i in range(4))
PHONE = "".join(arm_core(i, "0xd46", A76 + " i8mm bf16 sve") for i in range(4)) + "".join(
    arm_core(i, "0xd4d" if i < 8 else "0xd4e", A76 + " i8mm bf16") for i in range(4, 9)
)
OLD_ARM = (
    "Processor\t: AArch64 Processor rev 0 (aarch64)\nprocessor\t: 0\nprocessor\t: 1\nFeatures\t: fp asimd\n"
    "CPU implementer\t: 0x41\nCPU part\t: 0xd03\n\nHardware\t: A board\n"
)


def x86_thread(number: int, core: int) -> str:
    return (
        f"processor\t: {number}\nvendor_id\t: GenuineIntel\nmodel name\t: Intel(R) N100\nphysical id\t: 0\n"
        f"siblings\t: 8\ncore id\t\t: {core}\ncpu cores\t: 4\nflags\t\t: fpu sse4_1 sse4_2 avx avx2 fma avx_vnni\n\n"
    )


X86 = "".join(x86_thread(i, i % 4) for i in range(8))


def tree(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def test_a_raspberry_pi_5_has_a_dot_product() -> None:
    cores, flags = machine.read_cpuinfo(PI_5)
    assert cores == (machine.Cores("Cortex-A76", 4, (0, 1, 2, 3)),)
    assert {"asimd", "asimdhp", "asimddp"} <= flags
    assert "i8mm" not in flags


def test_a_phone_has_clusters_and_the_features_of_the_least_of_them() -> None:
    cores, flags = machine.read_cpuinfo(PHONE)
    assert [(kind.name, kind.count) for kind in cores] == [("Cortex-A510", 4), ("Cortex-A715", 4), ("Cortex-X3", 1)]
    assert "i8mm" in flags
    assert "sve" not in flags


def test_hardware_threads_of_one_core_are_one_core() -> None:
    cores, flags = machine.read_cpuinfo(X86)
    assert cores == (machine.Cores("Intel(R) N100", 4, tuple(range(8))),)
    assert "avx_vnni" in flags


def test_an_old_arm_kernel_says_features_once() -> None:
    _, flags = machine.read_cpuinfo(OLD_ARM)
    assert flags == {"fp", "asimd"}


def test_an_unknown_core_keeps_its_numbers() -> None:
    cores, _ = machine.read_cpuinfo(arm_core(0, "0xfff", "asimd"))
    assert cores[0].name == "implementer 0x41 part 0xfff"


def test_no_text_says_nothing() -> None:
    assert machine.read_cpuinfo("") == ((), frozenset())


@given(st.text() | st.lists(st.sampled_from([*PI_5.splitlines(), *X86.splitlines(), ""])).map("\n".join))
def test_any_cpuinfo_can_be_read(text: str) -> None:
    cores, _ = machine.read_cpuinfo(text)
    assert all(1 <= kind.count <= len(kind.threads) for kind in cores)


def test_memory_is_in_kib() -> None:
    assert machine.read_meminfo("MemTotal:        8245232 kB\nMemFree: 1 kB\n") == 8245232 * 1024
    assert machine.read_meminfo("MemFree: 1 kB\n") is None


def test_what_a_group_is_in_binds_it_too(tmp_path: Path) -> None:
    root = tree(
        tmp_path,
        {
            "proc/self/cgroup": "0::/pod/box\n",
            "sys/fs/cgroup/pod/memory.max": "1073741824\n",
            "sys/fs/cgroup/pod/box/memory.max": "max\n",
            "sys/fs/cgroup/pod/cpu.max": "max 100000\n",
            "sys/fs/cgroup/pod/box/cpu.max": "150000 100000\n",
        },
    )
    assert machine.read_limits(root) == machine.Limits(1 << 30, 1.5)


def test_groups_of_version_1_are_read_and_their_no_limit_is_none(tmp_path: Path) -> None:
    root = tree(
        tmp_path,
        {
            "proc/self/cgroup": "9:name=systemd:/\n4:memory:/box\n1:cpu,cpuacct:/\n0::/\n",
            "sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712\n",
            "sys/fs/cgroup/memory/box/memory.limit_in_bytes": "2147483648\n",
            "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1\n",
            "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n",
        },
    )
    assert machine.read_limits(root) == machine.Limits(2 << 30, None)


def test_a_machine_without_groups_has_no_limits(tmp_path: Path) -> None:
    assert machine.read_limits(tmp_path) == machine.Limits()


def test_a_quota_makes_fewer_cores_usable(tmp_path: Path) -> None:
    files = {"proc/cpuinfo": PI_5, "proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "50000 100000\n"}
    usable = machine.cpu(tree(tmp_path, files), "aarch64").usable
    assert usable is not None
    assert usable.value == 1
    assert "0.5 CPUs" in usable.source


def test_affinity_counts_where_there_is_no_quota(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {2, 3, 5}, raising=False)
    usable = machine.cpu(tree(tmp_path, {"proc/cpuinfo": PI_5}), "aarch64").usable
    assert usable is not None
    assert usable.value == 3


def test_clocks_are_read_where_they_are_and_unknown_where_not(tmp_path: Path) -> None:
    root = tree(tmp_path, {"proc/cpuinfo": PI_5})
    assert machine.cpu(root, "aarch64").clusters[0].clock.si is None
    tree(root, {f"sys/devices/system/cpu/cpu{i}/cpufreq/cpuinfo_max_freq": "2400000\n" for i in range(4)})
    assert machine.cpu(root, "aarch64").clusters[0].clock.si == pytest.approx(2.4e9)


def test_what_is_not_there_is_absent_or_unknown_and_never_zero(tmp_path: Path) -> None:
    cpu, memory = machine.cpu(tmp_path, "aarch64"), machine.memory(tmp_path)
    assert cpu.clusters == ()
    assert cpu.cores is None
    assert cpu.isa.get("asimddp") is None
    assert memory.size.si is None
    assert memory.limit is None


def test_a_limit_above_the_memory_is_none(tmp_path: Path) -> None:
    files = {"proc/meminfo": "MemTotal: 1048576 kB\n", "proc/self/cgroup": "0::/\n"}
    root = tree(tmp_path, files | {"sys/fs/cgroup/memory.max": str(2 << 30)})
    assert machine.memory(root).limit is None
    tree(root, {"sys/fs/cgroup/memory.max": str(1 << 29)})
    limit = machine.memory(root).limit
    assert limit is not None
    assert limit.si == 1 << 29


def test_a_board_says_its_name(tmp_path: Path) -> None:
    assert machine.title(tmp_path) == ""
    root = tree(tmp_path, {"proc/device-tree/model": "Raspberry Pi 5 Model B Rev 1.0\0"})
    assert machine.title(root) == "Raspberry Pi 5 Model B Rev 1.0"


def test_nvidia_smi_says_compute_capability_and_clock() -> None:
    first, second = machine.read_nvidia_smi("NVIDIA H200, 9.0, 1980 MHz\nOrin (nvgpu), [N/A], [N/A]\nnonsense\n")
    assert (first.name, first.chip) == ("gpu", "NVIDIA H200")
    assert first.sm is not None
    assert first.sm.value == 90
    assert first.clock is not None
    assert first.clock.si == pytest.approx(1.98e9)
    assert (second.name, second.clock) == ("gpu1", None)
    assert second.sm is not None
    assert second.sm.value is None


def test_architectures_have_several_names() -> None:
    assert machine.arch("arm64") == machine.arch("aarch64") == "aarch64"
    assert machine.arch("AMD64") == "x86_64"
    with pytest.raises(Unavailable, match="riscv64"):
        machine.arch("riscv64")
