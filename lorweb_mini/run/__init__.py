"""The command ``python -m lorweb_mini.run``; its code is in :mod:`~lorweb_mini.commands.run`."""
