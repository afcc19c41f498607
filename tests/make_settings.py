"""The fewest settings that make a section complete, whatever its kind."""

from pydantic import BaseModel

from rs_lowconf.settings import kinds_of

_VALUES = {
    "architecture": "resnet18",
    "bands": "[B04, B03]",
    "classes": "[a, b]",
    "command": "[program]",
    "encoder": "resnet18",
    "images": "images",
    "mask_classes": "{0: a, 1: b}",
    "masks": "masks",
    "path": "file",
    "python": "module:function",
    "reflectance": "[0, 0.3]",
}


def needed(section: type[BaseModel], name: str, kind: str = "") -> list[str]:
    """Return overrides that make a section complete.

    Args:
        section: class of the section.
        name: of the section.
        kind: which of its kinds; the first when empty.
    """
    kinds = kinds_of(section)
    words = [f"{name}.kind={kind or kinds[0]}"] if kinds else []
    required = [field for field, about in section.model_fields.items() if about.is_required()]
    return words + [f"{name}.{field}={_VALUES[field]}" for field in required if field != "kind"]
