"""Text models of LightGBM: what the library would follow for ever, or not survive, is refused."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightgbm
import numpy as np
import pytest

from rs_lowconf.errors import ModelError
from rs_lowconf.target.booster import read_booster

#: Few data are enough for a split by sets of categories.
QUIET: dict[str, Any] = {"verbose": -1, "num_threads": 1, "min_data_per_group": 5, "cat_smooth": 1}
CLASSES = {"objective": "multiclass", "num_class": 3}


def data() -> tuple[Any, Any]:
    rng = np.random.default_rng(0)
    x = rng.random((200, 4))
    x[:, 3] = rng.integers(0, 5, 200)
    return x, np.digitize(x[:, 0] + 0.3 * x[:, 1] + 0.8 * (x[:, 3] % 2), [0.7, 1.2])


def train(path: Path, **parameters: Any) -> lightgbm.Booster:
    x, y = data()
    chosen = {**QUIET, **(parameters or CLASSES)}
    y = y if "num_class" in chosen else y > 0
    categorical: Any = "auto" if chosen.get("linear_tree") else [3]
    booster = lightgbm.train(chosen, lightgbm.Dataset(x, y, categorical_feature=categorical), 4)
    booster.save_model(path)
    if not {"linear_tree", "min_data_in_leaf"} & {*chosen}:
        assert "cat_threshold" in path.read_text()
    return booster


@pytest.mark.parametrize(
    "parameters",
    [
        {},
        {"objective": "multiclassova", "num_class": 3},
        {"objective": "binary", "linear_tree": True},
        {"objective": "binary", "boosting": "rf", "bagging_freq": 1, "bagging_fraction": 0.5},
        {"objective": "binary", "min_data_in_leaf": 400},
    ],
    ids=["categories", "one against all", "linear", "forest", "no split"],
)
@pytest.mark.parametrize("ends", [b"\n", b"\r\n"], ids=["unix", "windows"])
def test_whole_models_are_what_lightgbm_saved(
    parameters: dict[str, Any], ends: bytes, tmp_path: Path
) -> None:
    """The text that is handed on predicts what the trained model does, to the last bit."""
    path = tmp_path / "model.txt"
    booster = train(path, **parameters)
    path.write_bytes(path.read_bytes().replace(b"\n", ends))
    model = read_booster(path)
    again = lightgbm.Booster(model_str=model.text)
    assert again.num_trees() == model.trees == booster.num_trees()
    assert model.objective.split()[0] == (parameters or CLASSES)["objective"]
    assert np.array_equal(
        np.asarray(again.predict(data()[0])), np.asarray(booster.predict(data()[0]))
    )


def test_what_follows_the_trees_is_not_handed_on(tmp_path: Path) -> None:
    """A damaged byte of the parameters of the training ended the process; no answer needs them."""
    path = tmp_path / "model.txt"
    booster = train(path)
    text = path.read_text()
    assert "\n[boosting: gbdt]\n" in text
    path.write_text(text.replace("\n[boosting: gbdt]\n", "\n[boosting gbdt\n"))
    model = read_booster(path)
    assert model.text.endswith("\nend of trees\n")
    again = lightgbm.Booster(model_str=model.text)
    assert np.array_equal(
        np.asarray(again.predict(data()[0])), np.asarray(booster.predict(data()[0]))
    )


def line(key: str, change: Callable[[list[str]], list[str]]) -> Callable[[str], str]:
    """Return a change of the numbers of the first line with a key."""

    def changed(text: str) -> str:
        return re.sub(
            rf"(?m)^{key}=(.*)$",
            lambda found: f"{key}=" + " ".join(change(found[1].split())),
            text,
            count=1,
        )

    return changed


def unsized(text: str) -> str:
    """Return a text that does not say how long its trees are."""
    return re.sub("(?m)^tree_sizes=.*\n", "", text)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (line("left_child", lambda own: ["0", *own[1:]]), "a node that no other refers to"),
        (line("right_child", lambda own: ["999", *own[1:]]), "a node that no other refers to"),
        (line("split_feature", lambda own: ["77", *own[1:]]), "feature that does not exist"),
        (line("cat_boundaries", lambda own: [own[0], "-5", *own[2:]]), "cat|sets of categories"),
        (line("leaf_value", lambda own: own[:-1]), "numbers of leaf_value"),
        (line("threshold", lambda own: ["1_0", *own[1:]]), "threshold are not numbers"),
        (line("num_leaves", lambda own: ["2147483647"]), "numbers of leaf_value"),
        (line("num_class", lambda own: ["2000000000"]), "2000000000 classes"),
        (line("max_feature_idx", lambda own: ["0"]), "feature that does not exist"),
        (lambda text: text.replace("Tree=1\n", "Tree=7\n"), "tree 1 .*called 7"),
        (lambda text: text.replace("\nshrinkage=", "\n\nshrinkage=", 1), "a line without a value"),
        (lambda text: text.replace("num_cat=", "num_cats=", 1), "num_cat"),
        (lambda text: text.replace("num_cat=", "num_leaves=", 1), "a key occurs twice"),
        (lambda text: text.replace("leaf_count=", "\0eaf_count=", 1), "zero byte"),
        (lambda text: text.replace("Tree=2\n", "", 1), "tree"),
    ],
)
def test_trees_that_cannot_be_followed_are_refused(
    change: Callable[[str], str], message: str, tmp_path: Path
) -> None:
    """One line with the file and the tree, before LightGBM sees anything of it."""
    path = tmp_path / "model.txt"
    train(path)
    text = unsized(path.read_text())
    path.write_text(text)
    read_booster(path)
    changed = change(text)
    assert changed != text
    path.write_text(changed)
    with pytest.raises(ModelError, match=rf"model\.txt is damaged: .*({message})") as caught:
        read_booster(path)
    assert "\n" not in str(caught.value)


def test_nodes_in_a_circle_are_refused(tmp_path: Path) -> None:
    """Each node has its place, but two of them lead to each other alone."""
    path = tmp_path / "model.txt"
    train(path, objective="binary")
    text = unsized(path.read_text())
    for key, numbers in (("left_child", "-1 2 1"), ("right_child", "-2 -3 -4")):
        text = re.sub(rf"(?m)^{key}=.*$", f"{key}={numbers}", text, count=1)
    for key, count in (("split_feature", 3), ("threshold", 3), ("decision_type", 3)):
        text = re.sub(rf"(?m)^{key}=.*$", f"{key}=" + " ".join(["0"] * count), text, count=1)
    text = re.sub("(?m)^leaf_value=.*$", "leaf_value=0 0 0 0", text, count=1)
    path.write_text(re.sub("(?m)^num_leaves=.*$", "num_leaves=4", text, count=1))
    with pytest.raises(ModelError, match="a cycle of nodes"):
        read_booster(path)


def test_sizes_of_trees_are_compared_with_the_trees(tmp_path: Path) -> None:
    """A digit more in a value that nothing else tells is found by the size of its tree."""
    path = tmp_path / "model.txt"
    train(path)
    text = path.read_text()
    path.write_text(text.replace("shrinkage=", "shrinkage=0", 1))
    with pytest.raises(ModelError, match="its trees do not have the stated sizes"):
        read_booster(path)
