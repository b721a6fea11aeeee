"""The interactive instruments of the notebooks, each with its page (.js, .css) beside it."""
