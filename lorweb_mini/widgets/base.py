"""What every widget has in common: its page, its messages, pictures as HTML, a fallback figure.

``base.js`` is the page's side. The page sends ``{"ask": ..., "value": ..., "id": ...}``, one message at a time; while
it waits, a newer value of the same control replaces the older one, so at most one frame is ever waiting and the last
picture belongs to the last value. The kernel looks up what to do in the table ``asks``, writes parts and state, and
then sets ``answered``.
"""

from __future__ import annotations

import base64
import functools
import io
import sys
import threading
from abc import abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any, ClassVar

import anywidget
import traitlets
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor

from ..errors import InputError
from ..images import to_pil

ONLY_BASE = "export default { render: (view) => openPage(view).close };"
# JupyterLab may deliver a page's messages on a second thread (a subshell): two frames must not be rendered at once.
TURN = threading.RLock()


# --- HTML -----------------------------------------------------------------------------------------


def png_bytes(picture: Figure | Image.Image, dpi: float = 80) -> bytes:
    """A figure or a picture as the bytes of a PNG file."""
    file = io.BytesIO()
    if isinstance(picture, Figure):
        picture.savefig(file, format="png", dpi=dpi)
    else:
        picture.save(file, "PNG", compress_level=1)
    return file.getvalue()


def png_url(picture: Figure | Image.Image, dpi: float = 80) -> str:
    """A figure or a picture as a ``data:`` address, which needs no file."""
    return f"data:image/png;base64,{base64.b64encode(png_bytes(picture, dpi)).decode()}"


def picture_tag(picture: Tensor | Image.Image, alt: str, side: int) -> str:
    """A square picture as an ``img`` that is ``side`` CSS pixels wide and stored no larger."""
    image = picture if isinstance(picture, Image.Image) else to_pil(picture)
    if side < image.width:
        image = image.resize((side, side), Image.Resampling.LANCZOS)
    return f"<img alt='{escape(alt)}' width='{side}' height='{side}' src='{png_url(image)}'>"


def figure_tag(picture: Tensor | Image.Image, name: str, side: int, caption: str | None = None) -> str:
    """A picture with a caption (HTML; its name when None) below it."""
    caption = escape(name) if caption is None else caption
    return f"<figure>{picture_tag(picture, name, side)}<figcaption>{caption}</figcaption></figure>"


def plot_tag(figure: Figure, alt: str, dpi: int = 92) -> str:
    """A matplotlib figure as an ``img``, stored for screens of one and a half dots a pixel."""
    width, height = figure.get_size_inches() * dpi
    source = png_url(figure, 1.5 * dpi)
    return f"<img class='plot' alt='{escape(alt)}' width='{width:.0f}' height='{height:.0f}' src='{source}'>"


def button(ask: str, value: object, text: str, attributes: str = "") -> str:
    """A button that asks the kernel for something; ``text`` and ``attributes`` are HTML."""
    return f"<button data-ask='{ask}' data-value='{escape(str(value))}'{attributes}>{text}</button>"


def options_html(options: Iterable[tuple[object, str]]) -> str:
    """Values and texts as the options of a menu."""
    return "".join(f"<option value='{escape(str(value))}'>{escape(text)}</option>" for value, text in options)


def grouped_options_html(options: Iterable[tuple[str, object, str]]) -> str:
    """As :func:`options_html`, in groups: the name of the group, value and text of each option."""
    groups: dict[str, list[tuple[object, str]]] = {}
    for group, value, text in options:
        groups.setdefault(group, []).append((value, text))
    return "".join(f"<optgroup label='{escape(x)}'>{options_html(own)}</optgroup>" for x, own in groups.items())


# --- the widget -----------------------------------------------------------------------------------


@functools.cache
def _sources(module: str) -> dict[str, str]:
    """Page, script and style of the widgets of a module: the common ones, and those beside it."""
    own = Path(sys.modules[module].__file__ or "")
    files = {kind: own.with_suffix(f".{kind}") for kind in ("html", "js", "css")}
    text = {kind: path.read_text("utf-8") if path.exists() else "" for kind, path in files.items()}
    base = Path(__file__)
    text["js"] = base.with_suffix(".js").read_text("utf-8") + (text["js"] or ONLY_BASE)
    text["css"] = base.with_suffix(".css").read_text("utf-8") + text["css"]
    return text


class Widget(anywidget.AnyWidget):
    """Base of all widgets. Where no kernel runs, a notebook shows :meth:`fallback` instead.

    A subclass in ``NAME.py`` may have ``NAME.html`` (its page), ``NAME.js`` and ``NAME.css`` beside it. It sets
    ``title``, ``parts`` and ``asks``, and writes the elements ``data-part=PART`` of its page with :meth:`write`.

    Attributes:
        title: what it is, for readers who do not see the fallback figure.
        asks: what the page may ask for, to a function of the widget and the value that came with it.
        frame: HTML of the page. part_NAME: HTML of each part.
        state: ``chosen`` (which button of each kind is pressed), ``values`` (of controls), ``bars`` (shares by name),
            and whatever else the widget's own script reads.
        answered: the message that was answered last, and why it was refused if it was.
    """

    title: ClassVar[str]
    parts: ClassVar[tuple[str, ...]] = ()
    asks: ClassVar[Mapping[str, Callable[[Any, Any], object]]] = {}
    page: ClassVar[str] = ""

    name = traitlets.Unicode().tag(sync=True)
    frame = traitlets.Unicode().tag(sync=True)
    part_names: traitlets.List = traitlets.List().tag(sync=True)
    state: traitlets.Dict = traitlets.Dict().tag(sync=True)
    answered: traitlets.Dict = traitlets.Dict().tag(sync=True)

    def __init__(self) -> None:
        sources = _sources(type(self).__module__)
        self._esm, self._css = sources["js"], sources["css"]
        super().__init__(
            name=type(self).__name__.lower(), frame=sources["html"] or self.page, part_names=list(self.parts)
        )
        self.add_traits(**{f"part_{part}": traitlets.Unicode().tag(sync=True) for part in self.parts})
        self.on_msg(lambda _, message, buffers: self.receive(message, buffers))

    @abstractmethod
    def fallback(self) -> Figure:
        """The figure that a reader without a kernel sees."""

    def write(self, **parts: str) -> None:
        """Replaces the HTML of some parts of the page."""
        with self.hold_sync():
            for part, html in parts.items():
                setattr(self, f"part_{part}", html)

    def tell(self, **state: Any) -> None:
        """Replaces some entries of the state."""
        self.state = {**self.state, **state}

    def receive(self, message: Mapping[str, Any], buffers: Sequence[Any] = ()) -> None:
        """Does what the page asks for, and answers; an :class:`InputError` becomes the message on the page."""
        ask, value, error = str(message.get("ask")), message.get("value"), ""
        if buffers:
            value = {**(value or {}), "content": b"".join(bytes(x) for x in buffers)}
        with TURN:
            try:
                if ask not in self.asks:
                    raise InputError(f"expected one of {', '.join(self.asks)} to be asked for, got {ask!r}")
                self.asks[ask](self, value)
            except InputError as refused:
                error = f"Nothing was changed. {refused}."
            except Exception as failed:  # the kernel's log has the rest
                error = f"It failed: {type(failed).__name__}: {failed}."
                raise
            finally:
                self.answered = {"id": message.get("id", ""), "error": error}

    def _repr_mimebundle_(self, **named: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        """The live widget and the fallback figure, as Jupyter's data and metadata."""
        live = super()._repr_mimebundle_(**named)
        sentence = f"{self.title}, a static picture: the widget itself needs a running kernel"
        picture = base64.b64encode(png_bytes(self.fallback())).decode()
        data = {**(live[0] if live else {}), "image/png": picture, "text/plain": sentence}
        return data, {"image/png": {"alt": sentence}}
