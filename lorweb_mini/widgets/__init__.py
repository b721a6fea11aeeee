"""The interactive widgets of the notebooks, with the pages (.html, .js, .css) of those that need them."""
