"""What the tests of the widgets share: messages as a page sends them, pictures as a page shows them."""

from __future__ import annotations

import base64
import io
import itertools
import re

import numpy as np
import torch
from PIL import Image
from torch import nn

from lorweb_mini.widgets.base import Widget

SOURCE = re.compile(r"src='data:image/png;base64,([^']+)'")
NUMBERS = itertools.count(1)


def ask(widget: Widget, what: str, value: object = None, *buffers: bytes) -> str:
    """Sends a message as it arrives from a page, checks that it is answered, and returns why it was refused."""
    name = f"page:{next(NUMBERS)}"
    widget._handle_custom_msg({"ask": what, "value": value, "id": name}, [memoryview(x) for x in buffers])
    assert widget.answered["id"] == name
    return widget.answered["error"]


def press(widget: Widget, what: str, value: object = None, *buffers: bytes) -> None:
    """Sends a message that must not be refused."""
    assert ask(widget, what, value, *buffers) == ""


def with_large_weights(base: nn.Module) -> None:
    """Fresh output and modulation weights are small: without this a picture hardly depends on anything."""
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in base.parameters():
            if parameter.ndim == 2:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) / parameter.shape[1] ** 0.5)


def grey_levels(first: object, second: object) -> int:
    """The largest difference of two pictures; two renderers may round to neighbouring grey levels."""
    return int(np.abs(np.asarray(first, int) - np.asarray(second, int)).max())


def part(widget: Widget, name: str) -> str:
    """The HTML of a part of the page."""
    return getattr(widget, f"part_{name}")


def images(html: str) -> list[np.ndarray]:
    """The pictures inside HTML, [height, width, 3] from 0 to 255."""
    files = (io.BytesIO(base64.b64decode(source)) for source in SOURCE.findall(html))
    return [np.asarray(Image.open(file).convert("RGB"), int) for file in files]


def image(widget: Widget, name: str = "result") -> np.ndarray:
    """The picture with this alternative text on the whole page."""
    html = "".join(part(widget, x) for x in widget.parts)
    (tag,) = re.findall(f"<img alt='{name}'[^>]*>", html)
    return images(tag)[0]


def fallback(widget: Widget, width: int, size: int) -> Image.Image:
    """Checks what a notebook shows without a kernel; the picture."""
    data, metadata = widget._repr_mimebundle_()
    assert "application/vnd.jupyter.widget-view+json" in data
    assert "needs a running kernel" in metadata["image/png"]["alt"] == data["text/plain"]
    picture = Image.open(io.BytesIO(base64.b64decode(data["image/png"])))
    assert picture.width > width and len(data["image/png"]) < size
    assert len(np.unique(np.asarray(picture.convert("RGB")).reshape(-1, 3), axis=0)) > 20, "blank"
    return picture
