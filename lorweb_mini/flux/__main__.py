"""``python -m lorweb_mini.flux``: see :mod:`~lorweb_mini.commands.flux`."""

from ..commands.flux import main

if __name__ == "__main__":
    main()
