"""What settings and commands were called before; old names are refused with the new one."""

#: New key by old key; what is below an old section is below the new one.
KEYS = {
    "target.segmenter": "segmenter",
    "target.train": "classifier",
}


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
