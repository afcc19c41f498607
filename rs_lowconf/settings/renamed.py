"""What settings and commands were called before; old names are refused with the new one."""

#: New key by old key; what is below an old section is below the new one.
KEYS = {
    "estimate.generated": "estimate.generated_samples",
    "estimate.labels": "estimate.budget",
    "estimate.rare.classes": "estimate.rare.conditions",
    "review.label": "review.mode",
    "search.classes": "search.conditions",
    "target.embedded": "target.model",
    "target.segmenter": "segmenter",
    "target.train": "classifier",
}

#: New value by key and old value.
VALUES = {
    "estimate.design": {
        "asi": "active",
        "is": "importance",
        "olofsson": "by_class",
        "strat": "stratified",
    },
}

#: New command by old command.
COMMANDS = {"estimate generated": "estimate random-latents", "loop": "status"}


def renamed(key: str) -> str:
    """Return what a key is called now; empty where it was never renamed.

    Example:
        >>> renamed("target.train.epochs")
        'classifier.epochs'
    """
    for old, new in KEYS.items():
        if key == old or key.startswith(f"{old}."):
            return new + key.removeprefix(old)
    return ""
