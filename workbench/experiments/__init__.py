"""Asking whether what the paper claims holds: its experiments and claims (`paper`), their runs (`trials`), what attention follows in a
trained network (`correspondence`), and the tests and verdicts of all of these (`significance`)."""

from . import correspondence, paper, significance, trials

__all__ = ["correspondence", "paper", "significance", "trials"]
