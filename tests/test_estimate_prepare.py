"""From tables of scores to pools: reading, other models, and which error predictor is taken."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.stats import entropy

from rs_lowconf.errors import DataError, SettingsError
from rs_lowconf.estimate.prepare import prepare
from rs_lowconf.estimate.scores import Scores, read_scores, surrogate_doubts
from rs_lowconf.estimate.stored import read_labels


def table(path: Path, n: int = 400, seed: int = 0, **columns: object) -> Path:
    """Write scores whose confidence is calibrated, with labels."""
    dice = np.random.default_rng(seed)
    g = dice.beta(0.4, 2, n)
    wrong = dice.random(n) < g
    pd.DataFrame(
        {
            "id": [f"{seed}-{i}" for i in range(n)],
            "predicted": "a",
            "confidence": 1 - g,
            "label": np.where(wrong, "b", "a"),
            **columns,
        }
    ).to_parquet(path)
    return path


class TestReading:
    """What a table may hold."""

    def test_missing_labels_are_no_errors(self, tmp_path: Path) -> None:
        """None and NaN are unknown, in Parquet and in CSV."""
        path = table(tmp_path / "t.parquet")
        frame = pd.read_parquet(path)
        frame.loc[frame.index[::3], "label"] = None
        frame.to_parquet(path)
        frame.to_csv(tmp_path / "t.csv", index=False)
        wrong = ((frame["label"] != frame["predicted"]) & frame["label"].notna()).to_numpy()
        for name in ("t.parquet", "t.csv"):
            scores = read_scores(tmp_path / name)
            assert scores.labelled.sum() == frame["label"].notna().sum()
            assert np.array_equal(scores.error, wrong)
        assert not scores.take(~scores.labelled).error.any()

    def test_a_class_may_be_called_na(self, tmp_path: Path) -> None:
        """Text of a CSV stays as it is."""
        (tmp_path / "t.csv").write_text(
            "id,predicted,confidence,label\n01,NA,0.5,NA\n02,1,0.25,2\n"
        )
        scores = read_scores(tmp_path / "t.csv")
        assert scores.ids.tolist() == ["01", "02"]
        assert scores.error.tolist() == [False, True]

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("id,predicted,confidence,predicted\n1,a,0.5,b\n", "more than one column predicted"),
            ("id,label,predicted,confidence,label\n1,a,b,0.5,\n", "more than one column label"),
            ("id,predicted,confidence\n1,2,a,0.5\n", "more values than the header has columns"),
            ("id,predicted,confidence\n1,a,0.5,\n2,a,0.5,\n", "more values than the header"),
        ],
    )
    def test_columns_of_a_csv_are_those_of_its_header(
        self, text: str, message: str, tmp_path: Path
    ) -> None:
        """Of two columns of a name none is taken, and no value moves into another column."""
        (tmp_path / "t.csv").write_text(text)
        with pytest.raises(DataError, match=message):
            read_scores(tmp_path / "t.csv")

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("id,label,label\n1,a,b\n", "more than one column label"),
            ("id,label\n1,1,a\n", "more values than the header has columns"),
            ("id,label\n1,a\0\n", "a byte of 0"),
        ],
    )
    def test_columns_of_labels_are_those_of_their_header(
        self, text: str, message: str, tmp_path: Path
    ) -> None:
        """The same of labels that people fill in."""
        (tmp_path / "labels.csv").write_text(text)
        with pytest.raises(DataError, match=message):
            read_labels(tmp_path / "labels.csv", ["1"], ["a", "b"])

    def test_margin_and_entropy_need_probabilities(self, tmp_path: Path) -> None:
        """They are those of the lists; without lists they are refused."""
        dice = np.random.default_rng(1)
        p = dice.dirichlet(np.ones(4), 50)
        path = table(tmp_path / "t.parquet", 50, probabilities=p.tolist())
        expected = entropy(p, axis=1) / np.log(4)
        np.testing.assert_allclose(read_scores(path, "entropy").doubt, expected, atol=1e-6)
        two = np.sort(p)[:, -2:]
        np.testing.assert_allclose(
            read_scores(path, "margin").doubt, two[:, 0] / two.sum(1), atol=1e-6
        )
        plain = table(tmp_path / "plain.parquet")
        with pytest.raises(DataError, match="no lists of probabilities, which margin needs"):
            read_scores(plain, "margin")

    def test_generated_samples_are_read_by_their_names(self, tmp_path: Path) -> None:
        """sample_id and condition stand for id and label."""
        frame = pd.read_parquet(table(tmp_path / "t.parquet"))
        frame.rename(columns={"id": "sample_id", "label": "condition"}).to_parquet(
            tmp_path / "s.parquet"
        )
        ours, theirs = (read_scores(tmp_path / name) for name in ("t.parquet", "s.parquet"))
        assert np.array_equal(ours.ids, theirs.ids)
        assert np.array_equal(ours.error, theirs.error)


class TestSurrogates:
    """Other models' scores."""

    def test_what_they_give_the_targets_class(self, tmp_path: Path) -> None:
        """Their doubt where both agree, the rest where not, averaged, in any order of rows."""
        scores = read_scores(table(tmp_path / "t.parquet", 3))
        for name, said in (("x", ["a", "b", "a"]), ("y", ["a", "a", "b"])):
            frame = pd.DataFrame(
                {"id": scores.ids, "predicted": said, "confidence": [0.9, 0.7, 0.6]}
            )
            frame.iloc[::-1].to_parquet(tmp_path / f"{name}.parquet")
        both = [tmp_path / "x.parquet", tmp_path / "y.parquet"]
        expected = [(0.1 + 0.1) / 2, (0.7 + 0.3) / 2, (0.4 + 0.6) / 2]
        np.testing.assert_allclose(surrogate_doubts(scores, both), expected)

    def test_units_that_they_lack(self, tmp_path: Path) -> None:
        """All units have to be scored by all models."""
        scores = read_scores(table(tmp_path / "t.parquet", 5))
        pd.read_parquet(tmp_path / "t.parquet").iloc[1:].to_parquet(tmp_path / "x.parquet")
        with pytest.raises(DataError, match=r"lacks 1 units of .* such as 0-0"):
            surrogate_doubts(scores, [tmp_path / "x.parquet"])


class TestChoice:
    """Which error predictor the pool gets."""

    def scores(self, folder: Path, seed: int, n: int = 3_000) -> Scores:
        """Return labelled scores."""
        return read_scores(table(folder / f"{seed}.parquet", n, seed))

    def test_nothing_validated(self, tmp_path: Path) -> None:
        """The models are taken at their word, and nothing is chosen."""
        scores = self.scores(tmp_path, 0)
        prepared = prepare(scores)
        assert np.array_equal(prepared.pool.g, scores.doubt)
        assert prepared.choice is None
        assert prepared.validation is None

    def test_a_hint_that_knows_more_is_taken(self, tmp_path: Path) -> None:
        """One that tells errors apart wins, noise does not, and the check half is not fitted to."""
        pool, validation = self.scores(tmp_path, 0), self.scores(tmp_path, 1)
        dice = np.random.default_rng(3)

        def knows(own: Scores) -> np.ndarray:
            return np.clip(0.7 * own.error + 0.3 * dice.random(len(own)), 0.01, 0.99)

        hints = {
            "noise": (dice.random(len(validation)), dice.random(len(pool))),
            "oracle": (knows(validation), knows(pool)),
        }
        prepared = prepare(pool, validation=validation, hints=hints)
        assert prepared.choice is not None
        assert prepared.choice.name == "oracle"
        assert prepared.choice.gain > 2
        assert prepared.pool.g[pool.error].mean() > 5 * prepared.pool.g[~pool.error].mean()
        assert prepared.validation is not None
        assert len(prepared.validation.g) == 1_500
        del hints["oracle"]
        prepared = prepare(pool, validation=validation, hints=hints)
        assert prepared.choice is not None
        assert prepared.choice.name == "confidence"

    def test_generated_tiles_are_gated_by_validation(self, tmp_path: Path) -> None:
        """A curve from generated tiles that err elsewhere is not taken, and never unchecked."""
        pool, validation = self.scores(tmp_path, 0), self.scores(tmp_path, 1)
        frame = pd.read_parquet(tmp_path / "1.parquet")
        frame["label"] = np.where(frame["confidence"] > 0.9, "b", "a")
        frame.to_parquet(tmp_path / "bad.parquet")
        bad = read_scores(tmp_path / "bad.parquet")
        prepared = prepare(pool, validation=validation, generated=bad)
        assert set(prepared.predictors) == {"confidence", "generated"}
        assert prepared.choice is not None
        assert prepared.choice.name == "confidence"
        with pytest.raises(SettingsError, match="that nothing validates"):
            prepare(pool, generated=bad)

    def test_halves_are_of_whole_tiles(self, tmp_path: Path) -> None:
        """Pixels of a tile fit or check, never both."""
        groups = np.repeat(np.arange(30), 10).astype(str)
        path = table(tmp_path / "v.parquet", 300, 5, group=groups)
        validation = read_scores(path)
        prepared = prepare(self.scores(tmp_path, 0), validation=validation)
        assert prepared.validation is not None
        assert prepared.validation.group is not None
        _, count = np.unique(prepared.validation.group, return_counts=True)
        assert (count == 10).all()
        assert len(count) == 15

    def test_labels_that_validate_nothing(self, tmp_path: Path) -> None:
        """Too few, and some that are missing."""
        pool = self.scores(tmp_path, 0)
        few = read_scores(table(tmp_path / "few.parquet", 49, 2))
        with pytest.raises(DataError, match="has 49 labels; expected 50 at least"):
            prepare(pool, validation=few)
        frame = pd.read_parquet(table(tmp_path / "some.parquet", 60, 2))
        frame.loc[3, "label"] = None
        frame.to_parquet(tmp_path / "some.parquet")
        with pytest.raises(DataError, match="1 of 60 rows have no label"):
            prepare(pool, validation=read_scores(tmp_path / "some.parquet"))
