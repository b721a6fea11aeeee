"""The command ``python -m lorweb_mini.train``; its code is in :mod:`~lorweb_mini.commands.train`."""
