"""The command lines; ``python -m lorweb_mini.run``, ``.train`` and ``.flux`` start them."""
