"""Which worker computes where."""

from pathlib import Path

import pytest
import torch

from rs_lowconf.batch import Processes, open_results
from rs_lowconf.device import choose_device
from rs_lowconf.settings import WORKER, RunSettings
from tests.batch_works import Numbered, job, run


def test_workers_are_numbered_from_zero_on(tmp_path: Path) -> None:
    """Two have the numbers 0 and 1, and what replaces one that ended takes its number."""
    work = Numbered(mark=tmp_path / "mark")
    run(job(tmp_path / "job", work), Processes(workers=2))
    assert work.mark.exists()
    workers = open_results(tmp_path / "job").to_table()["worker"]
    assert set(workers.to_pylist()) == {0, 1}


def test_workers_take_turns_at_the_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a machine with two, every other worker has the same, unless the CPU is wanted."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert str(choose_device(RunSettings())) == "cuda:0"
    for number, device in ((0, "cuda:0"), (1, "cuda:1"), (2, "cuda:0")):
        monkeypatch.setenv(WORKER, str(number))
        assert str(choose_device(RunSettings())) == device
        assert str(choose_device(RunSettings(device="cpu"))) == "cpu"
