"""``python -m lorweb_mini.run``: see :mod:`~lorweb_mini.commands.run`."""

from ..commands.run import main

if __name__ == "__main__":
    main()
