"""Checks LightGBM's text models, because the library trusts them.

It loops forever at a node that is its own child, reads and writes wherever a wrong index points,
and aborts the whole process on errors in reading all trees at once. The text has no checksum, but
gives the size of each tree, and the shape of a tree can be checked.
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
"""Fields of a tree's inner nodes."""
_CATEGORICAL = 1
"""The bit of `decision_type` that makes a threshold the number of a set of categories."""
_MOST_LINES = 22
"""Most lines of a tree that LightGBM reads; it takes more for the end of all trees."""
_NUMBER = re.compile(r"[-+.0-9a-z]+")
"""Python accepts more numbers than LightGBM, such as 1_0."""
_END = "end of trees"


class _DamageError(Exception):
    """A model text is damaged."""


@dataclass(frozen=True, kw_only=True)
class BoosterText:
    """A model whose trees have been checked."""

    text: str
    """Input for LightGBM, which reads it tree by tree; without the part after the trees, which only
    training needs and which may abort the process if damaged."""
    objective: str
    trees: int


def read_booster(path: Path) -> BoosterText:
    """Read and check the text of a model.

    Raises:
        ModelError: the file is not a LightGBM model, or is damaged.
    """
    content = path.read_bytes().replace(b"\r\n", b"\n")
    if not content.startswith(b"tree\n"):
        raise ModelError(f"{path} is not a LightGBM model", expected="output of Booster.save_model")
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
    # LightGBM reads all trees at once if it has their sizes.
    lines = [line for line in head.split("\n") if not line.startswith("tree_sizes=")]
    return BoosterText(
        text="\nTree=".join(["\n".join(lines), *blocks]) + f"\n{_END}\n",
        objective=objective,
        trees=len(blocks),
    )


def _check_sizes(header: Mapping[str, str], blocks: Sequence[str]) -> None:
    """Compare the trees with their sizes in bytes, if the model states these."""
    if "tree_sizes" not in header:
        return
    stated = [int(size) for size in header["tree_sizes"].split()]
    # Including the separators: the name of the tree, and the end of its last line.
    found = [len(f"Tree={block}\n".encode()) for block in blocks]
    _require(stated == found, "its trees do not have the stated sizes")


def _check_tree(number: int, block: str, features: int) -> None:
    name, *lines = block.split("\n")
    _require(int(name) == number, f"it is called {name}")
    fields = "\n".join(lines).rstrip("\n").split("\n")
    _require(all("=" in line for line in fields), "a line without a value")
    _require(len(fields) <= _MOST_LINES, "too many lines")
    tree = _values(fields)
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
    _require(
        all(0 <= one < features for one in feature), "a split by a feature that does not exist"
    )
    # Leaves are the negative numbers from -1 on; the root is no node's child.
    children = sorted(int(child) for child in (*left, *right))
    _require(
        children == [*range(-leaves, 0), *range(1, leaves - 1)], "a node that no other refers to"
    )
    _require_a_way_down(left, right)
    sets = [
        where for where, kind in zip(threshold, decision, strict=True) if int(kind) & _CATEGORICAL
    ]
    _require(all(0 <= one < categories for one in sets), "a set of categories that does not exist")
    if categories:
        bounds = _numbers(tree, "cat_boundaries", int, categories + 1)
        _require(bounds[0] == 0 and list(bounds) == sorted(bounds), "sets of categories overlap")
        _numbers(tree, "cat_threshold", int, int(bounds[-1]))


def _check_linear(tree: Mapping[str, str], leaves: int, features: int) -> None:
    """Check the linear model that each leaf has instead of a value."""
    _numbers(tree, "leaf_const", float, leaves)
    terms = sum(int(count) for count in _numbers(tree, "num_features", int, leaves))
    used = _numbers(tree, "leaf_features", int, terms)
    _numbers(tree, "leaf_coeff", float, terms)
    _require(all(0 <= one < features for one in used), "a leaf of a feature that does not exist")


def _require_a_way_down(left: Sequence[int | float], right: Sequence[int | float]) -> None:
    """Reject cycles of nodes, which cannot be reached from the root."""
    waiting, seen = [0], 0
    while waiting:
        node = waiting.pop()
        seen += 1
        waiting += [int(child) for child in (left[node], right[node]) if child > 0]
    _require(seen == len(left), "a cycle of nodes")


def _numbers(
    tree: Mapping[str, str], key: str, kind: type[int] | type[float], count: int
) -> Sequence[int | float]:
    words = tree.get(key, "").split(" ")
    _require(all(_NUMBER.fullmatch(word) for word in words if word), f"{key} are not numbers")
    values = [kind(word) for word in words if word]
    _require(len(values) == count, f"{len(values)} numbers of {key} for {count}")
    return values


def _values(lines: Sequence[str]) -> dict[str, str]:
    """Return the values of lines with an equals sign."""
    pairs = [line.split("=", 1) for line in lines if "=" in line]
    values = dict(pairs)
    _require(len(values) == len(pairs), "a key occurs twice")
    return values


def _require(fine: bool, what: str) -> None:
    if not fine:
        raise _DamageError(what)
