"""What the module needs that knows nothing of 3D Slicer."""

from .program import ProgramError, Run, check_model, find_program

__all__ = ["ProgramError", "Run", "check_model", "find_program"]
