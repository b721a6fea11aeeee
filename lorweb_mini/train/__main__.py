"""``python -m lorweb_mini.train``: see :mod:`~lorweb_mini.commands.train`."""

from ..commands.train import main

if __name__ == "__main__":
    main()
