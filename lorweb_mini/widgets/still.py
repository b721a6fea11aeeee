"""What an instrument shows where no kernel runs: a still picture, and a sentence that says what is missing."""

from __future__ import annotations

import base64
import io
from typing import Any

from ipywidgets import DOMWidget
from matplotlib.figure import Figure

Bundle = tuple[dict[str, Any], dict[str, Any]]
NO_ANSWER = "No answer from the kernel: it is busy or has stopped. Run this cell again to bring it back."


def with_still(widget: DOMWidget, figure: Figure, name: str) -> Bundle:
    """The live widget for who has a kernel, and a still picture for who has none, as Jupyter's data and metadata.

    Args:
        figure: the still picture.
        name: the instrument's, for whoever does not see the picture: it becomes the picture's alternative text.
    """
    found = widget._repr_mimebundle_() or {}
    data = dict(found[0] if isinstance(found, tuple) else found)
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=80)
    sentence = f"{name}, a still picture: the instrument itself needs a running kernel"
    data["image/png"] = base64.b64encode(file.getvalue()).decode()
    data["text/plain"] = sentence
    return data, {"image/png": {"alt": sentence}}
