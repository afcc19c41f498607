"""What the commands do with tiles that have masks. Imports torch: import it late."""

from pathlib import Path
from typing import cast

from rs_lowconf.cli.progress import progress
from rs_lowconf.data.augment import mask_augmentation
from rs_lowconf.data.masks import open_masks
from rs_lowconf.device import choose_device
from rs_lowconf.runs import RunFolder, write_json
from rs_lowconf.seeds import seed_of
from rs_lowconf.settings import Settings
from rs_lowconf.target.segment_evaluate import SegmentationReport, evaluate_segmenter
from rs_lowconf.target.segment_train import calibrate_segmenter, train_segmenter
from rs_lowconf.target.segmenter import Segmenter, save_segmenter


def train_target(settings: Settings) -> None:
    """Train a segmenter, calibrate it, measure it on the test split, write and report."""
    device = choose_device(settings.run)
    own = settings.segmenter
    train, val = open_masks(settings.data, "train"), open_masks(settings.data, "val")
    test = open_masks(settings.data, "test")
    augment = mask_augmentation(settings.augment)
    path = settings.run.dir / "target"
    folder = RunFolder(path, settings)
    folder.trim_log("epoch", 0)
    seed = seed_of(settings.run.seed, "target")
    best = None
    with progress("training the target", own.epochs) as bar:
        for record in train_segmenter(train, val, own, augment, seed, device):
            best = record.best or best
            bar.update(record.epoch, f"validation mIoU {record.val_mean_iou:.3f}")
            folder.log(
                {
                    "epoch": record.epoch,
                    "train_loss": record.train_loss,
                    "val_loss": record.val_loss,
                    "val_mean_iou": record.val_mean_iou,
                    "learning_rate": record.learning_rate,
                    "seconds": record.seconds,
                }
            )
    # The first epoch is better than none, so there is a best one.
    segmenter = calibrate_segmenter(cast("Segmenter", best), val)
    report = evaluate_segmenter(segmenter, test, test.blocks, seed=seed_of(seed, "bootstrap"))
    segmenter.figures = report.to_json()
    save_segmenter(path / "target.safetensors", segmenter)
    write_json(
        path / "report.json",
        {"split": "test", "temperature": segmenter.temperature, **segmenter.figures},
    )
    _tell(report, segmenter.temperature, path / "target.safetensors")


def _tell(report: SegmentationReport, temperature: float, path: Path) -> None:
    low, high = report.mean_iou_95
    print(
        f"target: mIoU {report.mean_iou:.3f} (95 % interval {low:.3f} .. {high:.3f}) on "
        f"{report.tiles} test tiles in {report.blocks} blocks; {report.floor_class} everywhere "
        f"has {report.floor_mean_iou:.3f}"
    )
    for name, value in report.iou.items():
        interval = report.iou_95[name]
        if value is not None and interval is not None:
            floor = report.floor_iou[name] or 0.0
            print(
                f"  IoU of {name}: {value:.3f} ({interval[0]:.3f} .. {interval[1]:.3f}), "
                f"floor {floor:.3f}"
            )
    low, high = report.pixel_accuracy_95
    print(
        f"  pixels right: {report.pixel_accuracy:.1%} ({low:.1%} .. {high:.1%}), floor "
        f"{report.floor_pixel_accuracy:.1%}; calibration error {report.ece:.3f}, temperature "
        f"{temperature:.2f}; {path}"
    )
    if report.note:
        print(f"  {report.note}")
