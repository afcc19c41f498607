"""Run folders and files that survive a crash: written under a temporary name, then renamed."""

import errno
import hashlib
import json
import math
import os
import platform
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rs_lowconf import strict_yaml
from rs_lowconf.boundary import reading
from rs_lowconf.errors import DataError, ModelError, OutputError
from rs_lowconf.settings import Settings

if TYPE_CHECKING:
    import torch
    from matplotlib.figure import Figure

CHECKPOINT_FORMAT = 1
_REPORTED_PACKAGES = (
    "rs-lowconf",
    "torch",
    "torchgeo",
    "kornia",
    "rasterio",
    "numpy",
    "geopandas",
    "timm",
)


DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""Error codes of the system when a file does not fit."""

_UNWRITABLE = (
    errno.EACCES,
    errno.EPERM,
    errno.EROFS,
    errno.ENOTDIR,
    errno.EEXIST,
    errno.ENOENT,
)


@contextmanager
def output_errors(path: Path) -> Iterator[None]:
    """Turn an unwritable folder or a full disk into an `OutputError` that names `path`."""
    try:
        yield
    except OSError as error:
        if error.errno in DISK_FULL:
            raise OutputError(
                f"the disk is full while writing {path}",
                remedy="free some space and run the same command again, it resumes",
            ) from error
        if error.errno in _UNWRITABLE:
            raise OutputError(
                f"cannot write {path}: {error.strerror}",
                remedy="choose another folder with --set run.dir=FOLDER",
            ) from error
        raise


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; on success it replaces `path`.

    The bytes are on disk before the rename, so a crash leaves the old file or the new one, never
    half of it. On failure the temporary file is removed.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with output_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            temporary.touch()
            mode = temporary.stat().st_mode
            yield temporary
            # Some writers create files with private permissions; the umask decides instead.
            temporary.chmod(mode)
            with temporary.open("rb") as file:
                os.fsync(file.fileno())
            temporary.replace(path)
            fsync_folder(path.parent)
        finally:
            temporary.unlink(missing_ok=True)


def fsync_folder(folder: Path) -> None:
    """Make the renames in `folder` durable; nothing to do where folders cannot be opened."""
    if os.name == "posix":
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, values: Mapping[str, Any]) -> None:
    """Write a JSON file atomically; NaN and infinity are errors, because JSON has none."""
    write_text(path, json.dumps(values, indent=2, allow_nan=False, ensure_ascii=False) + "\n")


def finite(value: Any) -> Any:
    """Return JSON values with None instead of infinity and NaN, at any depth."""
    if isinstance(value, Mapping):
        return {name: finite(child) for name, child in value.items()}
    if isinstance(value, list | tuple):
        return [finite(child) for child in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def save_figures(folder: Path, figures: "Mapping[str, Figure]") -> list[Path]:
    """Write each matplotlib figure as NAME.png, atomically, and return the files."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    written = []
    for name, figure in figures.items():
        path = folder / f"{name}.png"
        FigureCanvasAgg(figure)
        with replacing(path) as temporary:
            figure.savefig(temporary, format="png", dpi=120)
        written.append(path)
    return written


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file as hexadecimal text."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class RunFolder:
    """A folder with the results of one stage, and the settings and versions that made them."""

    def __init__(self, path: Path, settings: Settings) -> None:
        """Create the folder if needed and record settings and versions in it.

        Raises:
            OutputError: the folder cannot be written.
        """
        self.path = path
        with output_errors(path):
            path.mkdir(parents=True, exist_ok=True)
        write_text(
            path / "settings.yaml",
            strict_yaml.write(settings.model_dump(mode="json")),
        )
        write_json(path / "versions.json", versions())

    def log(self, record: Mapping[str, Any]) -> None:
        """Append one line to `metrics.jsonl`."""
        line = json.dumps(record, allow_nan=False) + "\n"
        with (
            output_errors(self.path),
            (self.path / "metrics.jsonl").open("a", encoding="utf-8") as file,
        ):
            file.write(line)

    def read_log(self) -> list[dict[str, Any]]:
        """Return the records of `metrics.jsonl`, none when there is no such file."""
        path = self.path / "metrics.jsonl"
        if not path.exists():
            return []
        return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]

    def trim_log(self, key: str, last: int) -> None:
        """Drop the lines after `record[key] == last`, which a resumed run writes again."""
        path = self.path / "metrics.jsonl"
        if path.exists():
            lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
            kept = [line for line in lines if line.endswith("\n") and json.loads(line)[key] <= last]
            write_text(path, "".join(kept))


def versions() -> dict[str, Any]:
    """Return the versions of Python and of the installed packages that affect results."""
    found = {"python": platform.python_version()}
    for name in _REPORTED_PACKAGES:
        with suppress(PackageNotFoundError):  # an extra that is not installed
            found[name] = version(name)
    return found


def write_checkpoint(
    path: Path, kind: str, tensors: "Mapping[str, torch.Tensor]", header: Mapping[str, Any]
) -> None:
    """Write tensors and a JSON header as one safetensors file, atomically.

    Args:
        path: the file, by custom `*.safetensors`.
        kind: what the file is, checked by `read_checkpoint`.
        tensors: plain tensors by name.
        header: JSON values: settings, bands, classes, step.
    """
    from safetensors.torch import save

    # Cloned, because modules may share a buffer, which safetensors rejects.
    plain = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    values = {"format": CHECKPOINT_FORMAT, "kind": kind, "header": dict(header)}
    values["sha256"] = _content_hash(values, plain)
    # One entry, because safetensors writes several in random order.
    metadata = {"rs_lowconf": json.dumps(values, allow_nan=False)}
    with replacing(path) as temporary:
        # Not written by safetensors itself, which hides a full disk behind another error.
        temporary.write_bytes(save(plain, metadata=metadata))


def read_checkpoint(path: Path, kind: str) -> "tuple[dict[str, torch.Tensor], dict[str, Any]]":
    """Return the tensors and the header of what `write_checkpoint` wrote.

    Raises:
        ModelError: the file is missing, damaged, of another kind or of a newer format.
    """
    from safetensors import safe_open

    if not path.is_file():
        raise ModelError(f"there is no checkpoint {path}", remedy=f"train the {kind} first")
    with reading(path, problem="is damaged", remedy="restore it or train again", error=ModelError):
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        if "rs_lowconf" not in metadata:
            raise ModelError(f"{path} is not a checkpoint of rs_lowconf", expected=f"a {kind}")
        values = json.loads(metadata["rs_lowconf"])
        # Before the checksum, whose definition belongs to the format.
        if values.get("format", 0) > CHECKPOINT_FORMAT:
            raise ModelError(
                f"checkpoint {path} has format {values['format']}",
                expected=f"at most {CHECKPOINT_FORMAT}",
                remedy="upgrade rs_lowconf",
            )
        if values.pop("sha256", None) != _content_hash(values, tensors):
            raise ValueError("its checksum differs")
    if values["kind"] != kind:
        raise ModelError(f"checkpoint {path} contains a {values['kind']}", expected=f"a {kind}")
    return tensors, values["header"]


def kind_of(path: Path) -> str | None:
    """Return the kind of a checkpoint; None if `read_checkpoint` would reject it."""
    kind = _peek(path).get("kind")
    return kind if isinstance(kind, str) else None


def classes_of(path: Path) -> tuple[str, ...]:
    """Return the classes in a checkpoint's header; empty if `read_checkpoint` would reject it."""
    header = _peek(path).get("header")
    classes = header.get("classes") if isinstance(header, dict) else None
    return tuple(map(str, classes)) if isinstance(classes, list) else ()


def header_holds(path: Path, name: str) -> bool:
    """Return whether the header of a checkpoint has an entry; False if it cannot be read."""
    header = _peek(path).get("header")
    return isinstance(header, dict) and name in header


def _peek(path: Path) -> dict[str, Any]:
    """Return the header of a checkpoint, unchecked and without torch; empty if damaged."""
    from safetensors import safe_open

    try:
        with reading(path), safe_open(path, framework="numpy") as file:
            values = json.loads((file.metadata() or {})["rs_lowconf"])
    except DataError:
        return {}
    return values if isinstance(values, dict) else {}


def _content_hash(values: Mapping[str, Any], tensors: "Mapping[str, torch.Tensor]") -> str:
    digest = hashlib.sha256(json.dumps(values, allow_nan=False).encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.numpy().tobytes())
    return digest.hexdigest()
