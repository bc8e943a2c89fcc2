"""The error of everything that reads recipes; on its own, so that each part of that may raise it."""

from __future__ import annotations


class RecipeError(ValueError):
    """A recipe or an override that cannot be used; the message is one sentence for the user."""
