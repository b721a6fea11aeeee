"""The method, equation by equation: basis, router, layout, and the editor that puts them together."""
