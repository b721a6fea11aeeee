"""Pictures beside controls: sliders and menus that are declared, and the page that Mixer and Pads have in common."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from html import escape
from typing import Any, ClassVar

from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor

from ..errors import InputError, finite_number, whole_number
from ..images import to_pil
from .base import Widget, button, figure_tag, options_html, plot_tag

PAGE = """
<div class="columns"><div><div class="pictures enlarged" data-part="pictures"></div><div data-part="below"></div></div>
<div class="controls"><div data-part="controls"></div><p data-part="numbers"></p></div></div>
<p class="pale" data-part="hint"></p>
"""


@dataclass(frozen=True)
class Slider:
    """A number between two ends.

    Attributes:
        start: the value at first. digits: after the decimal point, none for whole numbers. says: what a reader is told.
    """

    label: str
    low: float
    high: float
    step: float
    start: float
    digits: int = 0
    says: str = ""

    def check(self, value: Any) -> float | int:
        """The value as one that the slider can have; InputError if it is no such number or out of range."""
        if self.digits:
            return round(finite_number(value, self.label, self.low, self.high), self.digits)
        return whole_number(value, self.label, int(self.low), int(self.high))

    def html(self, key: str, unit: str = "") -> str:
        """The slider with its label and a read-out, which the page fills in."""
        name = escape(self.says or self.label)
        return (
            f"<label title='{name}'><span>{escape(self.label)}</span><input type='range' data-set='{escape(key)}' "
            f"min='{self.low:g}' max='{self.high:g}' step='{self.step:g}' value='{self.start:g}' "
            f"data-digits='{self.digits}' data-unit='{escape(unit)}' aria-label='{name}'><output></output></label>"
        )


@dataclass(frozen=True)
class Menu:
    """A choice: what the page shows, to the value behind it; the first one, or ``start``, is chosen at first."""

    label: str
    options: Mapping[str, Any]
    start: Any = None
    says: str = ""

    def __post_init__(self) -> None:
        if self.start is None:
            object.__setattr__(self, "start", self.values[0])

    @property
    def values(self) -> list[Any]:
        """The values; the page knows each by its position, so that values of any type survive it."""
        return list(self.options.values())

    def check(self, value: Any) -> Any:
        """The value if it is on the menu, else InputError."""
        if value not in self.values:
            raise InputError(f"expected {self.label} out of {self.values}, got {value!r}")
        return value

    def html(self, key: str) -> str:
        """The menu with its label."""
        name = escape(self.says or self.label)
        return (
            f"<label title='{name}'><span>{escape(self.label)}</span><select data-set='{escape(key)}' "
            f"aria-label='{name}'>{options_html(enumerate(self.options))}</select></label>"
        )


class Panel(Widget):
    """A widget with pictures on its left, controls on its right, and a button that takes the controls back.

    A subclass has the methods ``refresh`` (render, and tell the page where the controls stand), ``reset``, ``change``.

    Attributes:
        picture: the result, a PIL picture.
    """

    page = PAGE
    parts = ("pictures", "below", "controls", "numbers", "hint")
    asks: ClassVar = {"set": lambda self, pair: self.change(*pair), "reset": lambda self, _: self.reset()}
    back: ClassVar[str] = "Back to the start"
    side: ClassVar[int] = 192  # of a picture in CSS pixels
    picture: Image.Image

    def begin(self, controls: str, hint: str, below: str = "") -> None:
        """Builds the page and renders for the first time; ``controls`` and ``below`` are HTML."""
        controls += button("reset", "", self.back)
        self.write(controls=controls, below=below, hint=f"{hint} The controls need a running kernel.".strip())
        self.refresh()

    def show(self, b: Tensor, result: Tensor, name: str = "result", caption: str | None = None) -> str:
        """b and the result as HTML, the latter with a name and a caption; keeps it as ``picture``."""
        self.picture = to_pil(result)
        return figure_tag(b, "b", self.side) + figure_tag(self.picture, name, self.side, caption)

    @abstractmethod
    def refresh(self) -> None: ...


class Controls(Panel):
    """A panel whose controls are declared; its ``render`` writes the pictures for their values, by name.

    Attributes:
        values: where the controls stand, by name.
    """

    render: ClassVar[Callable[..., None]]

    def build(self, hint: str, **controls: Slider | Menu) -> None:
        self.controls = controls
        self.starts: dict[str, Any] = {key: control.check(control.start) for key, control in controls.items()}
        self.values = self.starts
        rows = "".join(f"<div class='row'>{control.html(key)}</div>" for key, control in controls.items())
        self.begin(rows, f"{hint} Tab and arrow keys work.")

    def set(self, **values: Any) -> None:
        """Moves controls, by name, and renders; InputError for a value that a control cannot have."""
        unknown = set(values) - set(self.controls)
        if unknown:
            raise InputError(f"expected controls out of {list(self.controls)}, got {sorted(unknown)}")
        before = self.values
        self.values = before | {key: self.controls[key].check(value) for key, value in values.items()}
        try:
            self.refresh()
        except BaseException:
            self.values = before  # as the page still shows
            raise

    def reset(self) -> None:
        self.set(**self.starts)

    def refresh(self) -> None:
        menus = {key: control for key, control in self.controls.items() if isinstance(control, Menu)}
        with self.hold_sync():
            self.render(**self.values)
            self.tell(values=self.values | {key: menu.values.index(self.values[key]) for key, menu in menus.items()})

    def change(self, key: str, value: Any) -> None:
        control = self.controls.get(key)
        self.set(**{key: control.values[int(value)] if isinstance(control, Menu) else value})


class Choice(Controls):
    """Menus, and the figure that they choose.

    Args:
        draw: from the chosen values, by name, to a figure.
        static: the fallback figure.
        menus: name to its options, what is shown to the value behind it.
    """

    title = "Choice"

    def __init__(self, draw: Callable[..., Figure], static: Figure, **menus: Mapping[str, Any]) -> None:
        super().__init__()
        self.draw, self.static = draw, static
        self.build("", **{name: Menu(name, options) for name, options in menus.items()})

    def render(self, **values: Any) -> None:
        self.write(pictures=plot_tag(self.draw(**values), ", ".join(map(str, values.values()))))

    def fallback(self) -> Figure:
        return self.static
