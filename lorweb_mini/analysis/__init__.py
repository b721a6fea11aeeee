"""Measures of results and of the learned space. No drawing, no widget."""
