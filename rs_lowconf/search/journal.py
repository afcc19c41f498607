"""The progress of a search on disk, so that an interrupted search can be resumed."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from rs_lowconf.errors import ModelError, SettingsError
from rs_lowconf.runs import output_errors, read_checkpoint, write_checkpoint, write_json, write_text
from rs_lowconf.search.loop import Found, Outcome, Tile, Trajectory

KIND = "found tile"


@dataclass(frozen=True, kw_only=True)
class JournalState:
    """The state that an earlier run left."""

    trajectories: dict[int, Trajectory]
    """By seed: all seeds from 0 up to their number."""
    seconds: float
    """Time spent by that run when it wrote its last trajectory."""


class Journal:
    """A folder with one line per trajectory and one file per found tile."""

    def __init__(self, folder: Path, fingerprint: Mapping[str, Any]) -> None:
        """Open or create the journal of a search with these settings and models.

        Raises:
            SettingsError: the folder holds a search with other settings or models.
        """
        self._folder = folder
        self._lines = folder / "journal.jsonl"
        about = folder / "journal.json"
        if about.exists():
            before = json.loads(about.read_text(encoding="utf-8"))
            now = json.loads(json.dumps(dict(fingerprint)))
            changed = sorted(k for k in before.keys() | now.keys() if before.get(k) != now.get(k))
            if changed:
                raise SettingsError(
                    f"{folder} contains an unfinished search with other {', '.join(changed)}",
                    remedy="restore them, give this run another --name, or delete the folder",
                )
        else:
            write_json(about, fingerprint)

    def read(self) -> JournalState:
        """Return the trajectories written so far; a torn last line is dropped."""
        trajectories: dict[int, Trajectory] = {}
        seconds = 0.0
        if self._lines.exists():
            for line in self._lines.read_text(encoding="utf-8").splitlines(keepends=True):
                if not line.endswith("\n"):
                    break
                values = json.loads(line)
                spent = values.pop("seconds")
                try:
                    trajectory = self._trajectory(values)
                except ModelError:
                    # Its tile was not written before the crash: searched again.
                    break
                trajectories[trajectory.seed_id] = trajectory
                seconds = spent
            self._rewrite(len(trajectories))
        return JournalState(trajectories=trajectories, seconds=seconds)

    def write(self, trajectory: Trajectory, seconds: float) -> None:
        """Append a trajectory, its tile first.

        Args:
            trajectory: the next one in seed order, with its tile if it found one.
            seconds: time spent by the whole search so far.
        """
        for kind, kept in (("found", trajectory.found), ("audit", trajectory.audit)):
            if kept is not None and kept.tile is not None:
                write_checkpoint(
                    self._path(kind, trajectory.seed_id),
                    KIND,
                    {
                        "z": kept.tile.z,
                        "pixels": kept.tile.pixels,
                        "log_probability": kept.log_probability,
                        "features": kept.features,
                    },
                    {
                        "parts": kept.parts,
                        "confidence": kept.confidence,
                        "p_value": kept.p_value,
                        "passes": kept.passes,
                        "dropped_by": kept.dropped_by,
                        "confidence_before": kept.confidence_before,
                    },
                )
        values = {
            "seed_id": trajectory.seed_id,
            "label": trajectory.label,
            "outcome": trajectory.outcome.value,
            "steps": trajectory.steps,
            "evaluations": trajectory.evaluations,
            "flips": trajectory.flips,
            "gate_rejections": trajectory.gate_rejections,
            "dropped_by": dict(trajectory.dropped_by),
            "confidence": trajectory.confidence,
            "audit": trajectory.audit is not None,
            "population_probability": trajectory.population_probability,
            "unanswered": dict(trajectory.unanswered),
            "seconds": seconds,
        }
        with output_errors(self._lines), self._lines.open("a", encoding="utf-8") as file:
            file.write(json.dumps(values) + "\n")

    def tile(self, seed_id: int, kind: Literal["found", "audit"] = "found") -> Tile:
        """Return the tile that a seed found, or the one that was kept for audit.

        Raises:
            ModelError: its file is missing or damaged.
        """
        tensors, _ = read_checkpoint(self._path(kind, seed_id), KIND)
        return Tile(z=tensors["z"], pixels=tensors["pixels"])

    def _trajectory(self, values: dict[str, Any]) -> Trajectory:
        outcome, audited = Outcome(values.pop("outcome")), values.pop("audit")
        seed_id = values["seed_id"]
        return Trajectory(
            outcome=outcome,
            found=self._kept("found", seed_id) if outcome is Outcome.FOUND else None,
            audit=self._kept("audit", seed_id) if audited else None,
            **values,
        )

    def _kept(self, kind: str, seed_id: int) -> Found:
        tensors, header = read_checkpoint(self._path(kind, seed_id), KIND)
        return Found(
            log_probability=tensors["log_probability"],
            features=tensors["features"],
            tile=None,
            **header,
        )

    def _path(self, kind: str, seed_id: int) -> Path:
        return self._folder / kind / f"{seed_id:08d}.safetensors"

    def _rewrite(self, count: int) -> None:
        """Keep the first `count` lines, so that the next one starts on a new line."""
        lines = self._lines.read_text(encoding="utf-8").splitlines(keepends=True)
        if len(lines) > count:
            write_text(self._lines, "".join(lines[:count]))
