"""Checks LightGBM's text models, because the library trusts them.

It follows a node that is its own child for ever, reads and writes wherever a wrong index points,
and what it finds wrong while it reads all trees at once ends the whole process. The text has no
checksum, but the size of each tree, and a tree has a shape that can be checked.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rs_lowconf.errors import ModelError

_NUMBERS = {
    "split_feature": int,
    "left_child": int,
    "right_child": int,
    "decision_type": int,
    "threshold": float,
}
"""What a tree says of its inner nodes."""
_CATEGORICAL = 1
"""The bit of `decision_type` with which a threshold is the number of a set of categories."""
_MOST_LINES = 22
"""Of a tree that LightGBM reads; it takes what follows for the end of all trees."""
_NUMBER = re.compile(r"[-+.0-9a-z]+")
"""Python reads more as numbers than LightGBM does, such as 1_0."""
_END = "end of trees"


class _DamageError(Exception):
    """What is wrong with a text."""


@dataclass(frozen=True, kw_only=True)
class BoosterText:
    """A model whose trees can be followed."""

    text: str
    """For LightGBM, which reads it tree after tree; without what follows the trees, which only
    training needs and damage of which may end the process."""
    objective: str
    trees: int


def read_booster(path: Path) -> BoosterText:
    """Read and check the text of a model.

    Raises:
        ModelError: the file is no model of LightGBM, or is damaged.
    """
    content = path.read_bytes().replace(b"\r\n", b"\n")
    if not content.startswith(b"tree\n"):
        raise ModelError(f"{path} is no LightGBM model", expected="what Booster.save_model wrote")
    if f"\n{_END}\n".encode() not in content:
        raise ModelError(f"{path} is damaged: it ends before its last tree")
    try:
        return _checked(content.decode())
    except (_DamageError, ValueError, LookupError) as error:
        raise ModelError(
            f"{path} is damaged: {error}", remedy="save the model again with Booster.save_model"
        ) from error


def _checked(text: str) -> BoosterText:
    if "\0" in text:
        raise _DamageError("it has a zero byte")
    trees, _ = text.split(f"\n{_END}\n", 1)
    head, *blocks = trees.split("\nTree=")
    header = _values(head.split("\n"))
    _check_sizes(header, blocks)
    objective = header.get("objective", "none")
    classes = int(header["num_class"])
    named = [word.partition(":")[2] for word in objective.split() if word.startswith("num_class:")]
    _require(
        int(header["num_tree_per_iteration"]) == classes
        and all(int(word) == classes for word in named),
        f"it has {classes} classes and the objective {objective}",
    )
    _require(
        0 < classes <= len(blocks) and len(blocks) % classes == 0,
        f"it has {len(blocks)} trees for {classes} classes",
    )
    features = int(header["max_feature_idx"]) + 1
    for number, block in enumerate(blocks):
        try:
            _check_tree(number, block, features)
        except (_DamageError, ValueError, LookupError) as error:
            raise _DamageError(f"tree {number} cannot be followed ({error})") from error
    # With the sizes LightGBM reads the trees at once.
    lines = [line for line in head.split("\n") if not line.startswith("tree_sizes=")]
    return BoosterText(
        text="\nTree=".join(["\n".join(lines), *blocks]) + f"\n{_END}\n",
        objective=objective,
        trees=len(blocks),
    )


def _check_sizes(header: Mapping[str, str], blocks: Sequence[str]) -> None:
    """Compare the trees with the sizes in bytes that the model says they have, if it does."""
    if "tree_sizes" not in header:
        return
    said = [int(size) for size in header["tree_sizes"].split()]
    # With what the text was split at: the name of the tree, and the end of its last line.
    found = [len(f"Tree={block}\n".encode()) for block in blocks]
    _require(said == found, "its trees have other sizes than it says")


def _check_tree(number: int, block: str, features: int) -> None:
    name, *lines = block.split("\n")
    _require(int(name) == number, f"it is called {name}")
    said = "\n".join(lines).rstrip("\n").split("\n")
    _require(all("=" in line for line in said), "a line that says nothing")
    _require(len(said) <= _MOST_LINES, "too many lines")
    tree = _values(said)
    leaves, categories = int(tree["num_leaves"]), int(tree["num_cat"])
    _require(leaves >= 1, f"{leaves} leaves")
    _numbers(tree, "leaf_value", float, leaves)
    if tree.get("is_linear", "0") != "0":
        _check_linear(tree, leaves, features)
    if leaves == 1:
        return
    feature, left, right, decision, threshold = (
        _numbers(tree, key, kind, leaves - 1) for key, kind in _NUMBERS.items()
    )
    _require(all(0 <= one < features for one in feature), "a split by a feature that is not there")
    # Leaves are the negative numbers from -1 on; the root is nobody's child.
    children = sorted(int(child) for child in (*left, *right))
    _require(children == [*range(-leaves, 0), *range(1, leaves - 1)], "a node without its place")
    _require_a_way_down(left, right)
    sets = [
        where for where, kind in zip(threshold, decision, strict=True) if int(kind) & _CATEGORICAL
    ]
    _require(all(0 <= one < categories for one in sets), "a set of categories that is not there")
    if categories:
        bounds = _numbers(tree, "cat_boundaries", int, categories + 1)
        _require(bounds[0] == 0 and list(bounds) == sorted(bounds), "sets of categories overlap")
        _numbers(tree, "cat_threshold", int, int(bounds[-1]))


def _check_linear(tree: Mapping[str, str], leaves: int, features: int) -> None:
    """Check the line that each leaf holds in place of a value."""
    _numbers(tree, "leaf_const", float, leaves)
    terms = sum(int(count) for count in _numbers(tree, "num_features", int, leaves))
    used = _numbers(tree, "leaf_features", int, terms)
    _numbers(tree, "leaf_coeff", float, terms)
    _require(all(0 <= one < features for one in used), "a leaf of a feature that is not there")


def _require_a_way_down(left: Sequence[int | float], right: Sequence[int | float]) -> None:
    """Refuse nodes in a circle, which none of the root's ways leads to."""
    waiting, seen = [0], 0
    while waiting:
        node = waiting.pop()
        seen += 1
        waiting += [int(child) for child in (left[node], right[node]) if child > 0]
    _require(seen == len(left), "nodes in a circle")


def _numbers(
    tree: Mapping[str, str], key: str, kind: type[int] | type[float], count: int
) -> Sequence[int | float]:
    words = tree.get(key, "").split(" ")
    _require(all(_NUMBER.fullmatch(word) for word in words if word), f"{key} are no numbers")
    values = [kind(word) for word in words if word]
    _require(len(values) == count, f"{len(values)} numbers of {key} for {count}")
    return values


def _values(lines: Sequence[str]) -> dict[str, str]:
    """Return what lines with an equals sign say."""
    pairs = [line.split("=", 1) for line in lines if "=" in line]
    values = dict(pairs)
    _require(len(values) == len(pairs), "it says something twice")
    return values


def _require(fine: bool, what: str) -> None:
    if not fine:
        raise _DamageError(what)
