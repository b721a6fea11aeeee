"""Visual analogies by a basis of LoRAs, in miniature.

>>> import lorweb_mini as lw
>>> editor = lw.load("starter")
>>> analogy = lw.analogies(split="test", relation="edit/flip_horizontal", n=1)[0]
>>> editor.edit(analogy.a, analogy.a_prime, analogy.b).image
"""

from .editor import BasisConfig, Editor, EditResult, load
from .images import InputError, load_emoji
from .relations import Analogy, analogies, relations

__all__ = [
    "Analogy",
    "BasisConfig",
    "EditResult",
    "Editor",
    "InputError",
    "analogies",
    "load",
    "load_emoji",
    "relations",
]
