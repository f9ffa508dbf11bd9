"""The sandbox: the only place where foreign code runs.

Programs run in warm worker processes, each in namespaces of its own: another user, no
processes, files or network of the host; under limits of processor time, memory, processes,
files and output; behind a list of allowed system calls. `isoflop doctor --sandbox` shows
which layers this machine allows; where it refuses the namespaces, programs are refused.
Linux only.
"""

from isoflop.sandbox.config import WORKERS_DIED, Layer, Limits, Outcome, OutcomeVerdict, Program
from isoflop.sandbox.pool import Sandbox

__all__ = ["WORKERS_DIED", "Layer", "Limits", "Outcome", "OutcomeVerdict", "Program", "Sandbox"]
