"""Run folders, atomic files and checkpoints."""

import errno
import json
import os
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from rs_lowconf.errors import ModelError, OutputError
from rs_lowconf.runs import (
    CHECKPOINT_FORMAT,
    RunFolder,
    read_checkpoint,
    replacing,
    sha256_of,
    write_checkpoint,
    write_json,
    write_text,
)
from rs_lowconf.settings import Settings, load

TENSORS = {
    "weight": torch.arange(64.0).reshape(8, 8).t(),
    "steps": torch.tensor(5),
    "half": torch.ones(3, dtype=torch.bfloat16).float(),
}
HEADER = {"bands": ["B02", "B8A"], "step": 3, "name": "é"}


def test_replacing_takes_the_place(tmp_path: Path) -> None:
    """The new file appears whole under its name, in folders made for it, and nothing else does."""
    path = tmp_path / "a" / "b" / "file.txt"
    for text in ("one", "two"):
        write_text(path, text)
        assert path.read_text() == text
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize(
    "failure", [ValueError("bug"), KeyboardInterrupt(), OSError(errno.EIO, "io")]
)
def test_replacing_leaves_the_old_file_on_failure(tmp_path: Path, failure: BaseException) -> None:
    """A failure half-way leaves the old bytes and no temporary file, and is passed on."""
    path = tmp_path / "file.txt"
    write_text(path, "old")

    def fail() -> None:
        with replacing(path) as temporary:
            temporary.write_text("half of the ne")
            raise failure

    with pytest.raises(type(failure)):
        fail()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_killed_writer_leaves_the_old_file(tmp_path: Path) -> None:
    """A process that dies without cleaning up has not touched the file."""
    path = tmp_path / "file.txt"
    write_text(path, "old")
    program = (
        "import os, sys, pathlib; from rs_lowconf.runs import replacing\n"
        "with replacing(pathlib.Path(sys.argv[1])) as temporary:\n"
        "    temporary.write_text('half'); os._exit(9)"
    )
    result = subprocess.run([sys.executable, "-c", program, str(path)], check=False)
    assert result.returncode == 9
    assert path.read_text() == "old"


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_is_an_output_error(tmp_path: Path, number: int) -> None:
    """A full disk or quota says so, names the file, and leaves the old one."""
    path = tmp_path / "file.txt"
    write_text(path, "old")
    with pytest.raises(OutputError, match=r"full.*file\.txt"), replacing(path):
        raise OSError(number, os.strerror(number))
    assert path.read_text() == "old"


def test_a_checkpoint_that_does_not_fit_on_the_disk_is_an_output_error(tmp_path: Path) -> None:
    """The operating system refuses the bytes (a limit on file sizes stands in for the disk)."""
    code = (
        "import resource, sys, torch\n"
        "from pathlib import Path\n"
        "from rs_lowconf.errors import OutputError\n"
        "from rs_lowconf.runs import write_checkpoint\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))\n"
        "try:\n"
        "    write_checkpoint(Path(sys.argv[1]), 'gan', {'w': torch.zeros(9000)}, {})\n"
        "except OutputError as error:\n"
        "    print(error)\n"
    )
    path = tmp_path / "model.safetensors"
    words = [sys.executable, "-c", code, str(path)]
    told = subprocess.run(words, check=True, capture_output=True, text=True).stdout
    assert "full" in told
    assert path.name in told
    assert list(tmp_path.iterdir()) == []


def test_an_unwritable_folder_is_an_output_error(tmp_path: Path) -> None:
    """A folder that cannot be made, or where nobody may write, is refused with a remedy."""
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OutputError, match=r"cannot write.*run\.dir"):
        RunFolder(tmp_path / "file" / "run", Settings())
    with pytest.raises(OutputError, match="cannot write"):
        write_json(tmp_path / "file" / "x.json", {})
    for number in (errno.EACCES, errno.EROFS):  # permission bits do not stop root
        with pytest.raises(OutputError, match="cannot write"), replacing(tmp_path / "x"):
            raise OSError(number, os.strerror(number))


def test_json_refuses_what_json_lacks(tmp_path: Path) -> None:
    """NaN is refused before anything is written."""
    path = tmp_path / "x.json"
    with pytest.raises(ValueError, match="JSON"):
        write_json(path, {"loss": float("nan")})
    assert not path.exists()


def test_run_folder_keeps_settings_and_versions(tmp_path: Path) -> None:
    """The settings in a run folder load to those of the run, and the versions are named."""
    settings = load(None, ["run.seed=4", "data.kind=eurosat", "data.bands=[B04]"])
    RunFolder(tmp_path / "run", settings)
    assert load(tmp_path / "run" / "settings.yaml") == settings
    assert yaml.safe_load((tmp_path / "run" / "settings.yaml").read_text())["run"]["seed"] == 4
    versions = json.loads((tmp_path / "run" / "versions.json").read_text())
    assert {"python", "torch", "rs-lowconf"} <= set(versions)


def test_log_trims_to_what_a_resumed_run_has_seen(tmp_path: Path) -> None:
    """After a crash in the middle of a line the log goes on at the resumed step."""
    folder = RunFolder(tmp_path, Settings())
    folder.trim_log("images", 5)
    for images in (10, 20, 30):
        folder.log({"images": images})
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"images": 4')
    folder.trim_log("images", 20)
    folder.log({"images": 25})
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["images"] for line in lines] == [10, 20, 25]


def test_checkpoint_round_trip(tmp_path: Path) -> None:
    """Tensors and header come back equal, also views and tensors that share memory."""
    path = tmp_path / "model.safetensors"
    shared = TENSORS["weight"]
    write_checkpoint(path, "gan", {**TENSORS, "again": shared, "view": shared[0]}, HEADER)
    tensors, header = read_checkpoint(path, "gan")
    assert header == HEADER
    assert torch.equal(tensors["again"], shared)
    assert torch.equal(tensors["view"], shared[0])
    for name, tensor in TENSORS.items():
        assert torch.equal(tensors[name], tensor)
        assert tensors[name].dtype == tensor.dtype


def test_checkpoint_bytes_repeat(tmp_path: Path) -> None:
    """The same content gives the same bytes."""
    paths = [tmp_path / "a.safetensors", tmp_path / "b.safetensors"]
    for path in paths:
        write_checkpoint(path, "gan", TENSORS, HEADER)
    assert sha256_of(paths[0]) == sha256_of(paths[1])


def refused(path: Path, kind: str = "gan") -> str:
    """Return the one line with which a checkpoint is refused."""
    with pytest.raises(ModelError) as caught:
        read_checkpoint(path, kind)
    assert "\n" not in str(caught.value)
    assert path.name in str(caught.value)
    return str(caught.value)


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """Return the bytes of a sound checkpoint."""
    path = tmp_path_factory.mktemp("checkpoint") / "model.safetensors"
    write_checkpoint(path, "gan", TENSORS, HEADER)
    return path.read_bytes()


def test_missing_other_and_foreign_checkpoints(tmp_path: Path, written: bytes) -> None:
    """A file that is not there, holds another kind, or is not ours is refused in one line."""
    path = tmp_path / "model.safetensors"
    assert "no checkpoint" in refused(path)
    path.write_bytes(written)
    assert "contains a gan" in refused(path, "target")
    save_file({"weight": torch.ones(2)}, path)
    assert "not a checkpoint of rs_lowconf" in refused(path)
    path.write_bytes(b"PK\x03\x04 a pickle in a zip")
    assert "damaged" in refused(path)
    path.write_bytes(b"")
    assert "damaged" in refused(path)


def test_a_newer_format_is_refused(tmp_path: Path, written: bytes) -> None:
    """A checkpoint of a later release asks for an upgrade."""
    path = tmp_path / "model.safetensors"
    old = f'\\"format\\": {CHECKPOINT_FORMAT}'.encode()
    assert written.count(old) == 1
    path.write_bytes(written.replace(old, b'\\"format\\": 9'))
    assert "upgrade" in refused(path)


@settings(max_examples=60)
@given(st.data())
def test_truncated_checkpoints_are_refused(
    written: bytes, tmp_path_factory: pytest.TempPathFactory, data: Any
) -> None:
    """A checkpoint cut anywhere is refused in one line."""
    path = tmp_path_factory.mktemp("cut") / "model.safetensors"
    path.write_bytes(written[: data.draw(st.integers(0, len(written) - 1))])
    refused(path)


def flipped(written: bytes, position: int) -> bytes:
    """Return the bytes with one bit flipped."""
    changed = bytearray(written)
    changed[position // 8] ^= 1 << position % 8
    return bytes(changed)


@settings(max_examples=100)
@given(st.data())
def test_flipped_bits_of_tensors_are_refused(
    written: bytes, tmp_path_factory: pytest.TempPathFactory, data: Any
) -> None:
    """One flipped bit among the numbers is refused in one line."""
    first = 8 + int.from_bytes(written[:8], "little")
    position = data.draw(st.integers(first * 8, len(written) * 8 - 1))
    path = tmp_path_factory.mktemp("flip") / "model.safetensors"
    path.write_bytes(flipped(written, position))
    assert "damaged" in refused(path)


def test_flipped_bits_of_the_header_are_refused(tmp_path: Path, written: bytes) -> None:
    """One flipped bit in the header is refused in one line, or changes nothing that is read."""
    path = tmp_path / "model.safetensors"
    first = 8 + int.from_bytes(written[:8], "little")
    for position in range(0, first * 8, 7):
        path.write_bytes(flipped(written, position))
        with suppress(ModelError):
            tensors, header = read_checkpoint(path, "gan")
            assert header == HEADER
            assert all(torch.equal(tensors[name], TENSORS[name]) for name in TENSORS)
