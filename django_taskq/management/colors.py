"""NO_COLOR, at which Django does not look."""

from __future__ import annotations

import os
from typing import Any

from django.core.management.base import BaseCommand
from django.core.management.color import no_style


def is_color_unwanted() -> bool:
    """Say whether the environment asks for no colours: by any text in NO_COLOR."""
    return bool(os.environ.get("NO_COLOR"))


class ColorCommand(BaseCommand):
    """A command that writes in colours unless NO_COLOR is set; --force-color wins over that."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if is_color_unwanted():
            self.style = no_style()
            self.stderr.style_func = None
