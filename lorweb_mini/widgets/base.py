"""What every widget has in common: its page, its messages, pictures as HTML, a fallback figure.

``base.js``, the page's side, sends ``{"ask": ..., "value": ..., "id": ...}``, one message at a time; while it waits, a
newer value of the same control replaces the older one, so that the last picture belongs to the last value. The kernel
looks up what to do in the table ``asks``, writes parts and state, and then sets ``answered``.
"""

from __future__ import annotations

import base64
import inspect
import io
import threading
from abc import abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from html import escape
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Any, ClassVar

import anywidget
import matplotlib
import traitlets
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor

from ..errors import InputError
from ..images import to_pil

PNG = "data:image/png;base64,"
ONLY_BASE = "export default { render: (view) => openPage(view).close };"
# JupyterLab may deliver a page's messages on a second thread (a subshell): two frames must not be rendered at once.
TURN = threading.RLock()


def png_url(picture: Figure | Image.Image, dpi: float = 80) -> str:
    """A figure or a picture as a ``data:`` address, which needs no file."""
    file = io.BytesIO()
    if isinstance(picture, Figure):
        picture.savefig(file, format="png", dpi=dpi)
    else:
        picture.save(file, "PNG", compress_level=1)
    return PNG + base64.b64encode(file.getvalue()).decode()


def coloured(values: Any, colour_map: str) -> Image.Image:
    """Numbers from 0 to 1, [height, width], as a picture with a pixel each."""
    return Image.fromarray(matplotlib.colormaps[colour_map](values, bytes=True)[..., :3].copy())


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


def toolbar(name: str, css: str, buttons: Iterable[str]) -> str:
    """Buttons as one group for the keyboard."""
    return f"<div role='toolbar' aria-label='{escape(name)}' class='{css}'>{''.join(buttons)}</div>"


def options_html(options: Iterable[tuple[object, str]]) -> str:
    """Values and texts as the options of a menu."""
    return "".join(f"<option value='{escape(str(value))}'>{escape(text)}</option>" for value, text in options)


def grouped_options_html(options: Iterable[tuple[str, object, str]]) -> str:
    """As :func:`options_html`, in groups: the name of the group, value and text of each option, group by group."""
    groups = ((name, options_html(own[1:] for own in group)) for name, group in groupby(options, itemgetter(0)))
    return "".join(f"<optgroup label='{escape(name)}'>{inside}</optgroup>" for name, inside in groups)


def bar_html(key: str) -> str:
    """A share as a bar with its percentage; the page fills it in from the state's ``bars``."""
    return f"<span class='bar' data-bar='{escape(key)}'><i></i><b></b></span>"


def _text(module: str, kind: str) -> str:
    """The file of this kind beside a module, or nothing."""
    path = Path(module).with_suffix(f".{kind}")
    return path.read_text("utf-8") if path.exists() else ""


class Widget(anywidget.AnyWidget):
    """Base of all widgets. Where no kernel runs, a notebook shows :meth:`fallback` instead.

    A subclass in ``NAME.py`` may have ``NAME.html`` (its page), ``NAME.js`` and ``NAME.css`` beside it. It writes the
    elements ``data-part=PART`` of its page with :meth:`write`.

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
        own = inspect.getfile(type(self))
        self._esm = _text(__file__, "js") + (_text(own, "js") or ONLY_BASE)
        name, frame = type(self).__name__.lower(), _text(own, "html") or self.page
        # Of this class alone: those that another widget brings later would come after its own and win.
        self._css = _text(__file__, "css").replace(".lorweb ", f".lorweb-{name} ", 1) + _text(own, "css")
        super().__init__(name=name, frame=frame, part_names=list(self.parts))
        self.add_traits(**{f"part_{part}": traitlets.Unicode().tag(sync=True) for part in self.parts})
        self.on_msg(lambda _, message, buffers: self.receive(message, buffers))

    @abstractmethod
    def fallback(self) -> Figure:
        """The figure that a reader without a kernel sees."""

    def write(self, **parts: str) -> None:
        """Replaces the HTML of parts of the page."""
        with self.hold_sync():
            for part, html in parts.items():
                setattr(self, f"part_{part}", html)

    def tell(self, **state: Any) -> None:
        """Replaces some entries of the state."""
        self.state = {**self.state, **state}

    def receive(self, message: Mapping[str, Any], buffers: Sequence[Any] = ()) -> None:
        """Does what the page asks for, and answers; an :class:`InputError` becomes the message on the page."""
        ask, value, error = str(message.get("ask")), message.get("value"), ""
        with TURN:
            try:
                if buffers:
                    value = {**(value or {}), "content": b"".join(bytes(x) for x in buffers)}
                if ask not in self.asks:
                    raise InputError(f"expected one of {', '.join(self.asks)} to be asked for, got {ask!r}")
                self.asks[ask](self, value)
            except InputError as refused:
                error = f"Nothing was changed: {refused}."
            except Exception as failed:  # the kernel's log has the rest
                error = f"It failed: {type(failed).__name__}: {failed}."
                raise
            finally:
                self.answered = {"id": message.get("id", ""), "error": error}

    def _repr_mimebundle_(self, **named: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        """The live widget and the fallback figure, as Jupyter's data and metadata."""
        live = super()._repr_mimebundle_(**named)
        sentence = f"{self.title}, a static picture: the widget itself needs a running kernel"
        picture = png_url(self.fallback()).removeprefix(PNG)
        data = {**(live[0] if live else {}), "image/png": picture, "text/plain": sentence}
        return data, {"image/png": {"alt": sentence}}
