"""Visual analogies by a basis of LoRAs, in miniature.

>>> import lorweb_mini as lw
>>> editor = lw.load("starter")
>>> analogy = lw.analogies(split="test", relation="edit/flip_horizontal", n=1)[0]
>>> editor.edit(analogy.a, analogy.a_prime, analogy.b).image
"""

from typing import TYPE_CHECKING, Any

from .core.editor import BasisConfig, Editor, EditResult, load
from .emoji.relations import Analogy, analogies, relations
from .emoji.sheets import load_emoji
from .errors import InputError

if TYPE_CHECKING:
    from .flux.load import load_flux

__all__ = [
    "Analogy",
    "BasisConfig",
    "EditResult",
    "Editor",
    "InputError",
    "analogies",
    "load",
    "load_emoji",
    "load_flux",
    "relations",
]


def __getattr__(name: str) -> Any:
    # Late: the real scale needs diffusers' whole pipeline, which costs the miniature seconds at every start.
    if name == "load_flux":
        from .flux.load import load_flux

        return load_flux
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
