#!/usr/bin/env python3
"""Does reviewing help? Rounds with updates of the gate beside rounds without, scripted.

Usage: scripts/research/loop_experiment.py OUT [--samples 200] [--rounds 3] [--seeds 0 1 2]

Needs EuroSAT's tiles below RSLOW_DATA/eurosat; searches the embedded models. No person is
asked. The reviewer is a program with written rules, and the report says so:

1. It rejects a tile whose realism, to a judge, is below the 2.5 % quantile of the validation
   tiles. The judge is a discriminator that was trained on the test split, which no gate ever
   saw, against fresh tiles of the generator, from a seed of its own.
2. It rejects a tile whose texture is below their 5 % quantile: the power of every band by
   frequency, up to the finest that its own pixels can show, as a linear discriminant sees it
   that was fitted to the test split and to fresh tiles. The generator's tiles are no longer
   told from real ones by a network that learns from so few; by their power they are.
3. It rejects a tile whose spectra break the relations between bands that the test split has
   more than 99 % of the validation tiles do.
4. Everything else it accepts, with the class that a classifier of another architecture than
   the target's says, which was trained on the training split.

Both arms have the same first round, tau, seeds and number of samples. Every command is the
one that an operator types; decisions are written into the packages as QGIS writes them. An
interrupted run goes on where it stopped.
"""

import argparse
import os
import shutil
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rs_lowconf.bands import BandSpec
from rs_lowconf.data.augment import augmentation, augmentations_at
from rs_lowconf.data.memory import MemorySource
from rs_lowconf.data.source import open_split
from rs_lowconf.gan.condition import TileClasses
from rs_lowconf.gan.critic import RealismCritic, fit_realism
from rs_lowconf.gan.figures import sample
from rs_lowconf.gan.judge import train_judge
from rs_lowconf.gan.model import load_critic, load_model, save_critic
from rs_lowconf.measures import radial_power
from rs_lowconf.places import model_path
from rs_lowconf.review.geotiff import read_tile
from rs_lowconf.review.reading import read_package
from rs_lowconf.review.rounds import round_reports
from rs_lowconf.review.store import STORE, ReviewStore
from rs_lowconf.runs import write_json, write_text
from rs_lowconf.search.parts import fit_spectra
from rs_lowconf.seeds import seed_of
from rs_lowconf.settings import ClassifierSettings, GateSettings, Settings, load
from rs_lowconf.stored import as_stored, reflectance_of
from rs_lowconf.target.tasks import ClassificationTask
from rs_lowconf.target.train import Training
from rs_lowconf.target.trained import TrainedNetwork, load_trained, save_trained

CPU = torch.device("cpu")
JUDGE = GateSettings(images=8_000)
FRESH = 400
"""Generated tiles that the texture is told from."""
RINGS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 33)
"""Edges of rings of frequencies, in cycles per tile."""
FINEST = dict.fromkeys(("B02", "B03", "B04", "B08"), 32) | dict.fromkeys(("B01", "B09", "B10"), 5)
"""Cycles a tile of 64 pixels that a band's own pixels can show; 16 for the others, of 20 m."""
NAMER = ClassifierSettings(architecture="residual_cnn", width=32)


class Reviewer:
    """The written rules."""

    def __init__(self, folder: Path, settings: Settings, seed: int) -> None:
        """Train the judge and the namer, or load what an earlier run trained."""
        self._val, test = open_split(settings.data, "val"), open_split(settings.data, "test")
        self._judge = self._trained_judge(folder / "judge.safetensors", settings, seed)
        self._namer = self._trained_namer(folder.parent / "namer.safetensors", settings)
        self._spectra = fit_spectra(test, tuple(range(len(test.bands))), seed)
        self._texture = fit_texture(settings, test, seed)
        every = self._val.batch(range(len(self._val)))
        scores = self._scores(every.image, self._val.labels)
        self._least = [
            float(s.quantile(q)) for s, q in zip(scores, (0.025, 0.05, 0.01), strict=True)
        ]

    def review(self, folder: Path) -> None:
        """Decide on every sample of a package as QGIS does: by an UPDATE of its layer."""
        reviewed = read_package(folder)
        with closing(sqlite3.connect(folder / "review.gpkg")) as database, database:
            for answer in reviewed.answers:
                pixels = read_tile(folder / "tiles" / f"{answer.sample_id}.tif").pixels
                image = reflectance_of(pixels)[None]
                name = self._namer.predict(image)[0].argmax()
                scores = self._scores(image, name[None])
                real = all(
                    float(s[0]) >= least for s, least in zip(scores, self._least, strict=True)
                )
                database.execute(
                    "UPDATE review SET decision = ?, true_class = ?, reviewer = 'script',"
                    " reviewed_ms = ? WHERE sample_id = ?",
                    (
                        "accept" if real else "reject",
                        self._namer.classes[int(name)] if real else None,
                        time.time_ns() // 1_000_000,
                        answer.sample_id,
                    ),
                )

    @torch.no_grad()
    def _scores(self, image: Tensor, label: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        texture = texture_of(image, self._val.bands) @ self._texture
        return self._judge.realism(image, label), texture, self._spectra(image, label)

    def _trained_judge(self, path: Path, settings: Settings, seed: int) -> RealismCritic:
        generator = load_model(model_path(settings, "gan"), CPU).class_generator
        if not path.exists():
            test = open_split(settings.data, "test")
            own, judge = seed_of(seed, "judge"), None
            augment = augmentations_at(settings.augment)(settings.augment.probability)
            for record in train_judge(generator, test, JUDGE, augment, own, CPU):
                judge = record.average
            assert judge is not None  # noqa: S101  # JUDGE.images is positive
            save_critic(path, fit_realism(judge, generator, test, own))
        return load_critic(path, TileClasses(names=generator.classes), CPU)

    def _trained_namer(self, path: Path, settings: Settings) -> TrainedNetwork:
        if not path.exists():
            train, augment = open_split(settings.data, "train"), augmentation(settings.augment)
            training = Training(ClassificationTask(train, self._val, NAMER, augment), 77, CPU)
            for _ in training.epochs():
                pass
            save_trained(path, training.best)
        return load_trained(path, CPU)


def texture_of(image: Tensor, bands: BandSpec) -> Tensor:
    """Return the logarithm of each band's power in rings of frequencies, n f."""
    power = radial_power(as_stored(image))  # n c r, from 1 cycle a tile on
    rings = [
        power[:, c, low - 1 : high - 1].mean(1)
        for c, name in enumerate(bands.names)
        for low, high in pairwise(RINGS)
        if low < FINEST.get(name, 16)
    ]
    return torch.stack(rings, 1).clamp_min(1e-12).log()


def fit_texture(settings: Settings, test: MemorySource, seed: int) -> Tensor:
    """Return the direction in which real tiles' texture differs most from generated ones'.

    Fisher's discriminant (1936) of features scaled to unit deviation, with a ridge of 1, because
    there are hardly more real tiles than features.
    """
    generator = load_model(model_path(settings, "gan"), CPU).class_generator
    label = torch.arange(FRESH) % len(generator.classes)
    fresh = sample(generator, label, seed_of(seed, "judge", "texture"))
    real = test.batch(range(len(test))).image
    a, b = (texture_of(image, test.bands) for image in (real, fresh))
    scale = torch.cat([a, b]).std(0)
    a, b = a / scale, b / scale
    within = (torch.cov(a.T) + torch.cov(b.T)) / 2 + torch.eye(len(scale), dtype=a.dtype)
    direction: Tensor = torch.linalg.solve(within, a.mean(0) - b.mean(0)) / scale
    return direction


def rslow(run: Path, seed: int, *words: str) -> None:
    """Run a command as an operator would."""
    data = Path(os.environ["RSLOW_DATA"]) / "eurosat"
    common = ("data.kind=eurosat", f"data.root={data}", f"run.dir={run}", f"run.seed={seed}")
    command = [*words, *(word for setting in common for word in ("-s", setting))]
    subprocess.run([sys.executable, "-m", "rs_lowconf", *command], check=True)


def play_round(run: Path, seed: int, number: int, samples: int, reviewer: Reviewer) -> None:
    """Generate, review and import one round, unless that is done."""
    name = f"round-{number}"
    if not (run / name / "review").exists():
        found = round(samples * 0.6)  # beside 30 % real tiles and 10 % for audit
        words = ("review.mode=blind", f"review.max_samples={samples}", f"review.round={number}")
        limits = (f"search.count={found}", "search.baseline_evaluations=0")
        settings = [w for setting in (*words, *limits) for w in ("-s", setting)]
        rslow(run, seed, "generate", "--name", name, *settings)
    if read_package(run / name / "review").decided == 0:
        reviewer.review(run / name / "review")
    rslow(run, seed, "review", "import", str(run / name / "review"))


def play(out: Path, seed: int, rounds: int, samples: int) -> dict[str, Any]:
    """Play both arms and return their reports by round."""
    folder = out / f"seed-{seed}"
    folder.mkdir(parents=True, exist_ok=True)
    data = Path(os.environ["RSLOW_DATA"]) / "eurosat"
    settings = load(None, ("data.kind=eurosat", f"data.root={data}", f"run.dir={folder}"))
    reviewer = Reviewer(folder, settings, seed)
    arms = {"updated": folder / "updated", "control": folder / "control"}
    play_round(arms["updated"], seed, 1, samples, reviewer)
    if not arms["control"].exists():
        shutil.copytree(arms["updated"], folder / "control.tmp")
        (folder / "control.tmp").rename(arms["control"])
    for number in range(2, rounds + 1):
        if not (arms["updated"] / f"update-{number - 1}").exists():
            rslow(arms["updated"], seed, "update")
        for run in arms.values():
            play_round(run, seed, number, samples, reviewer)
    return {name: round_reports(ReviewStore(run / STORE)) for name, run in arms.items()}


def ratio(played: dict[int, dict[str, Any]], number: int) -> dict[str, float]:
    """Return rejections with updates over rejections without, pooled over the seeds.

    The interval is that of the logarithm of a ratio of shares (Katz et al., 1978).
    """
    shares = [
        [played[seed][arm][number]["rejected"] for seed in played] for arm in ("updated", "control")
    ]
    (a, n), (b, m) = (
        (sum(one["count"] for one in own), sum(one["n"] for one in own)) for own in shares
    )
    spread = 1.96 * float(np.sqrt(1 / max(a, 1) - 1 / n + 1 / max(b, 1) - 1 / m))
    value = (a / n) / (b / m)
    return {
        "ratio": value,
        "low": value * float(np.exp(-spread)),
        "high": value * float(np.exp(spread)),
    }


def table(played: dict[int, dict[str, Any]], last: int) -> str:
    """Return all rounds of all seeds as Markdown."""
    lines = [
        "The reviewer was a program with written rules, no person: "
        "scripts/research/loop_experiment.py.",
        "",
        "| seed | arm | round | rejected | audit rejected | gate AUC | real rejected | kept |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for seed, arms in played.items():
        for arm, rounds in arms.items():
            for number, report in rounds.items():
                auc = report["gate_auc"]
                told = [
                    _share(report["rejected"]),
                    _share(report["audit_rejected"]),
                    ""
                    if auc is None
                    else "{:.2f} ({:.2f} .. {:.2f})".format(auc["value"], *auc["interval_95"]),
                    _share(report["real_rejected"]),
                    _share(report["label_kept"]),
                ]
                lines.append(f"| {seed} | {arm} | {number} | " + " | ".join(told) + " |")
    pooled = ratio(played, last)
    lines += [
        "",
        f"Rejected in round {last} with updates over without: {pooled['ratio']:.2f} "
        f"({pooled['low']:.2f} .. {pooled['high']:.2f}).",
    ]
    return "\n".join(lines) + "\n"


def _share(share: dict[str, Any]) -> str:
    if not share["n"]:
        return ""
    low, high = share["interval_95"]
    return f"{share['value']:.1%} ({low:.1%} .. {high:.1%}) of {share['n']}"


def main() -> None:
    """Play all seeds and write report.json and report.md."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("out", type=Path)
    parser.add_argument("--samples", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    words = parser.parse_args()
    played = {seed: play(words.out, seed, words.rounds, words.samples) for seed in words.seeds}
    pooled = ratio(played, words.rounds)
    write_json(words.out / "report.json", {"played": played, "ratio": pooled})
    write_text(words.out / "report.md", table(played, words.rounds))
    print((words.out / "report.md").read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
