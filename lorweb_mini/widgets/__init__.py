"""The interactive widgets of the notebooks, each with its page (.html, .js, .css) beside it."""
