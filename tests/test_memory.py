from __future__ import annotations

import os

import pytest
import torch

from ntps_lightning import NextTokenPerceptionScore, available
from ntps_lightning.memory import MemoryEstimate, state_bytes


@pytest.mark.parametrize("controls", [False, True])
@pytest.mark.parametrize(("hidden_size", "num_classes"), [(16, 3), (64, 1000)])
def test_every_state_of_the_metric_is_counted(hidden_size, num_classes, controls):
    metric = NextTokenPerceptionScore(hidden_size, num_classes, kept=100, controls=controls)
    states = [getattr(metric, name) for name in metric._defaults if not name.startswith(("pooling", "kept_limit"))]
    each = sum(state.numel() * state.itemsize for state in states)
    assert state_bytes(2, hidden_size, num_classes, kept=100, controls=controls) == 2 * (each + 8)


def test_controls_are_part_of_the_estimate():
    plain, with_them = (MemoryEstimate(3, 512, 4, torch.device("cpu"), controls=controls) for controls in (False, True))
    assert "(3 d² + d C + ...)" in str(plain)
    assert "(4 d² + d C + ...)" in str(with_them)
    assert with_them._states() - plain._states() == 3 * 8 * 513 * 512


def test_what_there_is_no_room_for_is_refused(monkeypatch):
    estimate = MemoryEstimate(num_layers=3, hidden_size=16, num_outputs=0, device=torch.device("cpu"))
    assert "at d = 16, C = ?" in str(estimate)
    estimate.check()
    monkeypatch.setattr("ntps_lightning.memory.available_bytes", lambda device: 2**20)
    with pytest.raises(ValueError, match="not even one layer fits"):
        estimate.check()
    monkeypatch.setattr("ntps_lightning.memory.available_bytes", lambda device: None)
    estimate.check()


GIB = 2**30


def cgroup(root, path, **files):
    folder = root / path
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name.replace("_", ".", 1)).write_text(f"{text}\n")


@pytest.fixture
def host(tmp_path, monkeypatch):
    """A host of 64 GiB with control groups in a folder of our own."""
    (tmp_path / "meminfo").write_text(f"MemTotal: 9 kB\nMemAvailable:   {64 * GIB // 1024} kB\nHugePages_Total: 0\n")
    monkeypatch.setattr(available, "_MEMINFO", tmp_path / "meminfo")
    monkeypatch.setattr(available, "_CGROUPS", tmp_path)
    own = tmp_path / "own"
    monkeypatch.setattr(available, "_OWN_CGROUPS", own)
    for name in ("LOCAL_WORLD_SIZE", "SLURM_NTASKS_PER_NODE"):
        monkeypatch.delenv(name, raising=False)
    own.write_text("0::/job/step\n")
    return tmp_path


def free_bytes():
    return available.available_bytes(torch.device("cpu"))


def test_this_host_has_what_its_system_says():
    everything = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    assert everything / 1000 < available._host() <= everything
    assert 0 < free_bytes() <= available._host() * 1.5  # of two moments


def test_where_only_the_size_of_the_host_is_known(host, monkeypatch):
    pages = {"SC_PHYS_PAGES": 3, "SC_PAGE_SIZE": GIB}
    monkeypatch.setattr(os, "sysconf", pages.__getitem__)
    for text in ("MemTotal: 9 kB\n", "MemAvailable: ? kB\n", ""):
        (host / "meminfo").write_text(text)
        assert free_bytes() == 3 * GIB
    (host / "meminfo").unlink()
    assert free_bytes() == 3 * GIB
    cgroup(host, "job", memory_max=2 * GIB, memory_current=0, memory_stat="inactive_file 0")
    assert free_bytes() == 2 * GIB


def test_where_nothing_is_known_nothing_is_refused(host, monkeypatch):
    (host / "meminfo").unlink()
    monkeypatch.setattr(os, "sysconf", lambda name: -1)
    assert free_bytes() is None
    monkeypatch.delattr(os, "sysconf")
    assert free_bytes() is None
    estimate = MemoryEstimate(num_layers=10**9, hidden_size=10**4, num_outputs=2, device=torch.device("cpu"))
    estimate.check()
    assert "free" not in str(estimate)
    cgroup(host, "job", memory_max=2 * GIB, memory_current=0, memory_stat="inactive_file 0")
    with pytest.raises(ValueError, match="not even one layer fits"):
        estimate.check()


def test_a_container_may_use_less_than_its_host_has(host):
    assert free_bytes() == 64 * GIB
    cgroup(host, "job/step", memory_max="max", memory_current=2 * GIB, memory_stat="inactive_file 5")
    assert free_bytes() == 64 * GIB
    cgroup(host, "job", memory_max=8 * GIB, memory_current=3 * GIB, memory_stat=f"anon 1\ninactive_file {GIB}")
    assert free_bytes() == 6 * GIB, "files that are only cached give way"
    cgroup(host, "job/step", memory_max=4 * GIB, memory_current=3 * GIB, memory_stat="inactive_file 0")
    assert free_bytes() == GIB, "the narrowest limit of those around"


def test_the_first_version_of_control_groups(host):
    (host / "own").write_text("3:cpuset:/\n4:memory:/job\n0::/\n")
    folder = host / "memory" / "job"
    folder.mkdir(parents=True)
    for name, text in (("limit_in_bytes", 4 * GIB), ("usage_in_bytes", GIB), ("stat", "total_inactive_file 0")):
        (folder / f"memory.{name}").write_text(str(text))
    assert free_bytes() == 3 * GIB


def test_where_there_are_no_control_groups(host):
    (host / "own").unlink()
    assert free_bytes() == 64 * GIB


def test_neighbours_on_the_same_host_share_its_memory(host, monkeypatch):
    options = {"num_layers": 1, "hidden_size": 16, "num_outputs": 2, "device": torch.device("cpu")}
    assert str(MemoryEstimate(**options)).endswith("; at most 64.0 GiB are free")
    assert str(MemoryEstimate(**options, processes=4)).endswith("; at most 16.0 GiB for each of 4 processes are free")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "8")
    assert str(MemoryEstimate(**options)).endswith("; at most 8.0 GiB for each of 8 processes are free")
