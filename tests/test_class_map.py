"""`target.class_map`: which classes of a target and of data mean the same, wherever they meet."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import geopandas
import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from rs_lowconf.batch.suspects import choose_suspects
from rs_lowconf.class_map import PLAIN, ClassMap
from rs_lowconf.errors import DataError, ModelError, SettingsError
from rs_lowconf.estimate.ladder import real_ladders
from rs_lowconf.estimate.scores import read_scores
from rs_lowconf.estimation import Pool
from rs_lowconf.settings import load, target_settings
from rs_lowconf.target.evaluate import evaluate_segmenter
from rs_lowconf.testset import evaluate_release, read_release
from rs_lowconf.vocabulary import Vocabulary, class_list, vocabulary
from tests.conftest import Run
from tests.fakes import FakePatches
from tests.review_samples import CLASSES
from tests.test_target_segmentation import Answers
from tests.test_testset_evaluate import COUNT, CornerTarget, answers
from tests.testset_samples import release, reviewed_tiles

DATA = ("Forest", "Pasture", "River", "SeaLake", "Highway")
COARSE = ("water", "built", "green")
#: A target that names fewer classes than the data, and one that names more.
FEWER = {
    **dict.fromkeys(("Forest", "Pasture"), "green"),
    **dict.fromkeys(("River", "SeaLake"), "water"),
    "Highway": "built",
}
MORE = {"Coniferous": "Forest", "Broadleaf": "Forest", "Sea": "SeaLake"}
FINE = ("Coniferous", "Broadleaf", "Pasture", "River", "Sea", "Highway")


def side(origin: str, names: tuple[str, ...]) -> Vocabulary:
    return class_list(origin, names)


@given(st.dictionaries(st.sampled_from("abcdefgh"), st.sampled_from("uvwxyz"), max_size=8))
def test_a_map_is_many_to_one_and_goes_one_step(names: dict[str, str]) -> None:
    """Common names stay; a label is right for the classes that a loop over the map finds."""
    own = ClassMap.of(names)
    for name in "abcdefghuvwxyz":
        assert own.common(own.common(name)) == own.common(name)
        wanted = [i for i, one in enumerate("uvwa") if own.common(one) == own.common(name)]
        assert list(own.places(name, tuple("uvwa"))) == wanted
    assert set(own.commons(tuple("abcdefgh"))) == {names.get(name, name) for name in "abcdefgh"}
    assert not PLAIN.names
    assert PLAIN.places("a", ("b", "a")) == (1,)
    assert PLAIN.same(None, None)
    assert not PLAIN.same(None, "a")


@pytest.mark.parametrize(
    ("names", "said"),
    [
        ({"River": "water", "River ": "built"}, "River is mapped twice; expected one common name"),
        ({"River": "?"}, "'River' is mapped to '?', and one of them stands for unknown"),
        ({" ": "water"}, "' ' is mapped to 'water', and one of them stands for unknown"),
        ({"River": "water", "water": "wet"}, "River is mapped to water, and water to wet; ex"),
        ({"River": "water", "SeaLake": "Water"}, "'Water' and 'water' in the common names differ"),
    ],
)
def test_maps_that_cannot_be_meant_are_refused(names: dict[str, str], said: str) -> None:
    """By the value object, and by the settings in one line with the key."""
    with pytest.raises(SettingsError) as refused:
        ClassMap.of(names)
    assert said in str(refused.value)
    with pytest.raises(SettingsError) as refused:
        target_settings({"class_map": names})
    assert f"setting target.class_map: {said}" in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("names", "said"),
    [
        ({**FEWER, "River": "wter"}, "maps River to wter, which the target does not name; "),
        ({**FEWER, "Rivr": "water"}, "maps Rivr, which none of the target, the generator, the d"),
        ({k: v for k, v in FEWER.items() if k != "River"}, "lacks River of the generator, and"),
        ({k: v for k, v in FEWER.items() if k != "Highway"}, "lacks Highway of the data, and"),
        (dict.fromkeys(COARSE, "River"), "lacks Forest, Pasture, SeaLake of the generator, and"),
    ],
)
def test_maps_that_do_not_fit_are_refused(names: dict[str, str], said: str) -> None:
    """Names that nobody has, and classes of the data without one, are told with what to do."""
    generator, data = side("the generator", DATA[:4]), side("the data", DATA[2:])
    with pytest.raises(SettingsError) as refused:
        ClassMap.of(names).meet_all((generator, data), side("the target", COARSE), error=ModelError)
    assert f"target.class_map {said}" in str(refused.value)
    assert "map" in str(refused.value).rpartition(";")[2] or "leave it out" in str(refused.value)


def test_a_class_that_the_target_has_not_is_mapped_to_itself() -> None:
    """It is listed, as it is without a map; a target's class without data is listed, too."""
    own = ClassMap.of({**FEWER, "Highway": "Highway"})
    found = own.meet(side("the data", DATA), side("the target", COARSE))
    assert found.both == ("green", "water")
    assert found.remark == "Classes: only the data name Highway; only the target name built."
    assert own.places("Highway", COARSE) == ()
    settled = ClassMap.of({"forest": "Forest"})
    assert settled.meet(side("a", ("forest",)), side("b", ("Forest",))).both == ("Forest",)
    with pytest.raises(DataError, match="differ only in case"):
        PLAIN.meet(side("a", ("forest",)), side("b", ("Forest",)))


def test_reviewers_choose_among_the_classes_of_the_data() -> None:
    """Instead of a coarse class those that it stands for; instead of fine ones their common one."""
    assert ClassMap.of(FEWER).in_words_of_data(COARSE, COARSE) == (
        *("River", "SeaLake", "Highway", "Forest", "Pasture"),
    )
    wanted = ("Forest", "Pasture", "River", "SeaLake", "Highway")
    assert ClassMap.of(MORE).in_words_of_data(FINE, FINE) == wanted
    assert PLAIN.in_words_of_data(COARSE, COARSE) == COARSE


def test_a_target_of_other_classes_is_measured_on_a_release(tmp_path: Path) -> None:
    """Every figure is that of a loop that translates by hand, for fewer classes and for more."""
    read = read_release(release(tmp_path / "v1", reviewed_tiles(tmp_path / "store", COUNT)))
    labels = {tile.sample_id: str(tile.class_name) for tile in read.tiles}
    coarse = {name: ("open", "dense")[i % 2] for i, name in enumerate(CLASSES)}
    fine = {f"{name} {part}": name for name in CLASSES for part in "AB"}
    for classes, names in ((("dense", "open"), coarse), (tuple(fine), fine)):
        own = ClassMap.of(names)
        report = evaluate_release(read, CornerTarget(classes), own)
        said = {name: word for name, (word, _) in answers(read, classes).items()}
        right = {
            name: names.get(said[name], said[name]) == names.get(label, label)
            for name, label in labels.items()
        }
        assert 0 < sum(right.values()) < len(right)
        assert report["evaluated"] == len(labels)
        assert report["accuracy"]["count"] == sum(right.values())
        for label, share in report["class_accuracy"].items():
            assert share["n"] == sum(one == label for one in labels.values())
            assert share["count"] == sum(
                right[name] for name, one in labels.items() if one == label
            )
        counted = Counter((labels[name], said[name]) for name in labels)
        assert {(a, b): n for a, row in report["confusion"].items() for b, n in row.items()} == {
            (a, b): counted[a, b] for a in report["confusion"] for b in classes
        }
        assert report["class_map"] == names
    lacking = {name: to for name, to in coarse.items() if name != CLASSES[0]}
    with pytest.raises(SettingsError, match=f"lacks {CLASSES[0]} of release v1"):
        evaluate_release(read, CornerTarget(("dense", "open")), ClassMap.of(lacking))
    # Without a map nothing is told of one.
    assert "class_map" not in evaluate_release(read, CornerTarget(CLASSES))


def test_a_release_tells_which_predictions_were_right(tmp_path: Path) -> None:
    """By the common names, which release.json and the datasheet hold."""
    tiles = reviewed_tiles(tmp_path / "store", 9)
    names = {tile.class_name: f"kind of {tile.class_name}" for tile in tiles}
    own = ClassMap.of({str(name): to for name, to in names.items()})
    folder = release(tmp_path / "v1", tiles, class_map=own)
    wrong = sum(names[tile.class_name] != names.get(tile.predicted) for tile in tiles)
    text = (folder / "DATASHEET.md").read_text()
    assert f"was wrong on {wrong} of 9" in text
    assert own.text in text
    assert json.loads((folder / "release.json").read_text())["class_map"] == own.names
    plain = release(tmp_path / "v2", tiles)
    assert "class_map" not in json.loads((plain / "release.json").read_text())
    assert "common name" not in (plain / "DATASHEET.md").read_text()


def test_a_segmenter_is_measured_by_common_names() -> None:
    """Its figures are those of masks and answers that were translated before."""
    source = FakePatches(4, seed=5)  # background, damage, cloud
    rng = torch.Generator().manual_seed(3)
    sure = F.one_hot(source.masks.clamp_max(2), 3).movedim(3, 1).float()
    logits = torch.randn(4, 4, 32, 32, generator=rng)
    logits[:, :3] += 2 * sure
    target = Answers(logits.log_softmax(1), ("ground", "ruin", "haze", "thick"))
    own = ClassMap.of({"background": "ground", "damage": "ruin", "haze": "cloud", "thick": "cloud"})
    report = evaluate_segmenter(target, source, source.ids, class_map=own)
    said = logits.argmax(1).clamp_max(2)
    known = source.masks < 3
    assert list(report.iou) == ["ground", "ruin", "cloud"]
    for k, name in enumerate(report.iou):
        both = int(((said == k) & (source.masks == k)).sum())
        either = int((((said == k) | (source.masks == k)) & known).sum())
        assert report.iou[name] == pytest.approx(both / either)
    assert report.pixel_accuracy == pytest.approx(
        float((said == source.masks)[known].float().mean())
    )
    with pytest.raises(SettingsError, match="lacks damage of the masks"):
        evaluate_segmenter(
            target, source, source.ids, class_map=ClassMap.of({"background": "ground",
                                                               "haze": "cloud"})
        )  # fmt: skip


def table(folder: Path, predicted: Any, label: Any) -> Path:
    """Write a table of scores."""
    rng = np.random.default_rng(7)
    frame = pd.DataFrame({"predicted": predicted, "label": label}).assign(
        id=[f"u{i}" for i in range(len(label))], confidence=0.4 + 0.6 * rng.random(len(label))
    )
    path = folder / f"{len(list(folder.iterdir()))}.parquet"
    frame.to_parquet(path)
    return path


def test_error_rates_are_those_of_tables_translated_by_hand(tmp_path: Path) -> None:
    """Pool, draw and report go by common names, whoever is coarser; labels come in both words."""
    rng = np.random.default_rng(8)
    label = rng.choice(DATA, 400)
    for names, classes in ((FEWER, COARSE), (MORE, FINE)):
        predicted = rng.choice(classes, 400)
        given = table(tmp_path, predicted, label)
        by_hand = table(
            tmp_path, [names.get(x, x) for x in predicted], [names.get(x, x) for x in label]
        )
        scores = read_scores(given, class_map=ClassMap.of(names))
        wanted = read_scores(by_hand)
        assert scores.error.tolist() == wanted.error.tolist()
        assert 0 < scores.error.mean() < 1
        reports = []
        for path, own in ((given, names), (by_hand, None)):
            draw = Pool.read(path, class_map=own).draw(labels=80, seed=1)
            truth = {name: label[int(name[1:])] for name in draw.ids}
            if own is None:
                truth = {name: names.get(one, one) for name, one in truth.items()}
            reports.append(draw.estimate(truth).to_json())
        assert reports[0] == reports[1]
    lacking = {name: to for name, to in FEWER.items() if name != "River"}
    with pytest.raises(SettingsError, match="lacks River of the labels of"):
        read_scores(table(tmp_path, rng.choice(COARSE, 400), label), class_map=ClassMap.of(lacking))


def test_a_draw_keeps_its_map(tmp_path: Path, rslow: Run) -> None:
    """Labels in the words of the data; another map than that of the draw is refused."""
    rng = np.random.default_rng(9)
    label = rng.choice(DATA, 300)
    predicted = np.where(rng.random(300) < 0.8, [FEWER[name] for name in label], "built")
    path = table(tmp_path, predicted, label)
    pd.read_parquet(path).drop(columns="label").to_csv(tmp_path / "t.csv", index=False)
    names = ", ".join(f"{name}: {to}" for name, to in FEWER.items())
    words = [
        *("--set", f"run.dir={tmp_path / 'run'}", "--set", f"estimate.scores={tmp_path / 't.csv'}"),
        *("--set", "estimate.budget=60", "--set"),
    ]
    given = f"target.class_map={{{names}}}"
    ran = rslow("estimate", "draw", *words, given)
    assert ran.code == 0, ran.err
    filled = tmp_path / "run" / "estimate" / "draw" / "labels-1.csv"
    frame = pd.read_csv(filled, dtype=str, keep_default_na=False)
    frame["label"] = [label[int(own[1:])] for own in frame["id"]]
    frame.to_csv(filled, index=False)
    refused = rslow("estimate", "report", *words, "target.class_map={}")
    assert refused.code == 3
    assert "was made with target.class_map {'Forest': 'green'" in refused.err
    assert len(refused.err.strip().splitlines()) == 1
    ran = rslow("estimate", "report", *words, given)
    assert ran.code == 0, ran.err
    report = json.loads((filled.parent / "report.json").read_text())
    wrong = sum(FEWER[label[int(i[1:])]] != predicted[int(i[1:])] for i in frame["id"])
    assert report["errors_found"] == wrong
    frame["label"] = "Ocean"
    frame.to_csv(filled, index=False)
    refused = rslow("estimate", "report", *words, given)
    assert refused.code == 4
    assert "has the unknown class 'Ocean'" in refused.err


def test_suspicious_labels_are_judged_by_common_names(tmp_path: Path) -> None:
    """A label has the probability of all classes that mean it; agreeing ones do not count."""
    rng = np.random.default_rng(2)
    label = [*rng.choice(DATA, 39), None]
    for names, classes in ((FEWER, COARSE), (MORE, FINE)):
        probability = rng.dirichlet(np.full(len(classes), 0.6), 40)
        said = [classes[k] for k in probability.argmax(1)]
        scores = geopandas.GeoDataFrame(
            {"id": [f"t{i:02d}" for i in range(40)], "label": label, "predicted": said,
             "probabilities": list(probability)},
            geometry=geopandas.points_from_xy(np.zeros(40), np.zeros(40)), crs=4326,
        ).assign(lon=0.0, lat=0.0)  # fmt: skip
        pairs = ", ".join(f"{name}: {to}" for name, to in names.items())
        settings = load(
            None, [f"run.dir={tmp_path}", f"target.class_map={{{pairs}}}", "review.max_samples=40"]
        )
        found = choose_suspects(scores, settings, classes)
        margins = {}
        for i in range(39):
            shares: Counter[str] = Counter()
            for name, share in zip(classes, probability[i].tolist(), strict=True):
                shares[names.get(name, name)] += share
            own = shares.pop(names.get(str(label[i]), str(label[i])), 0.0)
            margins[f"t{i:02d}"] = max(shares.values()) - own
        assert found.scores["id"].tolist() == sorted(margins, key=lambda i: (-margins[i], i))
        assert found.labelled == 39
        assert found.disagree == sum(
            names.get(str(a), str(a)) != names.get(b, b)
            for a, b in zip(label[:39], said[:39], strict=True)
        )
        # The labels stay the catalog's, for reviewers and quotas.
        assert set(found.labels) == set(label[:39])


def test_real_tiles_of_a_coarser_label_stand_beside_their_name() -> None:
    """Ladders are by label; disagreement is told of those that mean a class of the target."""
    overall, by_class = real_ladders(
        np.array([0.5, 0.6, 0.7]), ["water", "built", "built"], ["River", "SeaLake", "Tundra"],
        thresholds=(0.9,), classes=COARSE, class_map=ClassMap.of(FEWER),
    )  # fmt: skip
    assert set(by_class) == {"River", "SeaLake", "Tundra"}
    assert overall.disagreement is not None
    assert (overall.disagreement.found, overall.disagreement.of) == (1, 2)
    assert by_class["Tundra"].disagreement is None


def test_answers_do_not_depend_on_the_map() -> None:
    """A job that scored tiles is not of another target when a map is written after it."""
    plain, mapped = target_settings({}), target_settings({"class_map": FEWER})
    assert plain.answers == mapped.answers
    assert "class_map" not in plain.answers
    assert mapped.common_names == ClassMap.of(FEWER)
    assert vocabulary("labels", ["River ", None], class_map=mapped.class_map).names == ("water",)
