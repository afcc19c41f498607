"""Shows `Example:` in docstrings as code: griffe knows the heading in the plural only."""

from typing import Any

from griffe import Extension, Object


class Examples(Extension):
    """Puts the heading that griffe knows in the place of ours."""

    def on_object(self, *, obj: Object, **_: Any) -> None:
        """Change the docstring of an object once it is read."""
        if obj.docstring is not None:
            obj.docstring.value = obj.docstring.value.replace("\nExample:\n", "\nExamples:\n")
