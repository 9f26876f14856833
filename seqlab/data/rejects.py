"""Stands in for the module of the same name until it is merged: the sources here reject nothing."""

from __future__ import annotations


class Rejects:
    """Rows that cannot be used."""
