"""Where the files of a run are. Imports no torch, for commands that may not need it."""

from pathlib import Path

from rs_lowconf.errors import ModelError
from rs_lowconf.settings import EmbeddedTarget, Settings, TrainedTarget

EMBEDDED = Path(__file__).parent / "embedded"
"""Models inside the package, laid out like a run folder."""

_STAGES = {"critic": "gate", "calibration": "gate", "distances": "encoder"}
"""The folder of a model if it has another name than the model."""


def model_path(settings: Settings, name: str) -> Path:
    """Return where a model is read from.

    Args:
        settings: of the run.
        name: `gan`, `critic`, `calibration`, `extractor`, `encoder`, `distances` or `target`.
    """
    stage = _STAGES.get(name, name)
    if name in ("gan", "critic", "calibration"):
        for number in reversed(range(1, update_of(settings) + 1)):
            path = update_folder(settings, number) / f"{name}.safetensors"
            if path.exists():
                return path
    if name == "target":
        return _target_path(settings)
    folder = EMBEDDED if settings.run.models == "embedded" else settings.run.dir
    return folder / stage / f"{name}.safetensors"


def _target_path(settings: Settings) -> Path:
    """Return the checkpoint of a target, or where `rslow train target` puts one."""
    target = settings.target
    if isinstance(target, EmbeddedTarget):
        return EMBEDDED / "target" / f"{target.model}.safetensors"
    if isinstance(target, TrainedTarget) and target.path is not None:
        return target.path
    return settings.run.dir / "target" / "target.safetensors"


def catalog_path(settings: Settings) -> Path:
    """Return where the catalog is that the settings mean."""
    return settings.catalog.path or settings.run.dir / "catalog.parquet"


def job_folder(settings: Settings, kind: str) -> Path:
    """Return where a batch job of a kind, `score` or `generate`, is worked on."""
    return settings.run.dir / "batch" / kind


def scores_path(settings: Settings) -> Path:
    """Return the table of what `rslow batch score` found."""
    return job_folder(settings, "score") / "scores.parquet"


def settling_folder(settings: Settings) -> Path:
    """Return where the next package of what reviewers disagree on goes."""
    number, folder = 1, settings.run.dir / "settle"
    while folder.exists():
        number += 1
        folder = folder.with_name(f"settle-{number}")
    return folder


def update_folder(settings: Settings, number: int) -> Path:
    """Return the folder of the models updated from reviews, numbered from 1."""
    return settings.run.dir / f"update-{number}"


def newest_update(settings: Settings) -> int:
    """Return the number of the newest update, 0 without any."""
    newest = 0
    while update_folder(settings, newest + 1).exists():
        newest += 1
    return newest


def update_of(settings: Settings) -> int:
    """Return the number of the update to use, 0 for none.

    Raises:
        ModelError: there is no such update.
    """
    newest = newest_update(settings)
    wanted = settings.search.update
    if wanted is not None and wanted > newest:
        raise ModelError(
            f"there is no {update_folder(settings, wanted)}",
            expected=f"search.update from 0 to {newest}",
        )
    return newest if wanted is None else wanted
