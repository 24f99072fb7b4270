"""What is going on: steps that long work says as it takes them, and bars that show them to whoever wants to see.

Work that takes seconds calls :func:`say`, or loops over :func:`track`. Nothing is printed: a step is a record on the
channel ``txgraph.progress`` of :mod:`logging`, which leads nowhere until somebody listens. So no function hands a
callback down, and nobody pays for what nobody sees.

:func:`show_progress` listens and draws bars. It is a context, and no argument of ``optimize()``, because the work need
not be done there: a model that is optimized without inputs is compiled at its first call, and again at new shapes. It
is off by default, as a library should be silent.
"""

from txgraph.progress.bars import show_progress
from txgraph.progress.channel import Step, listen, say, track

__all__ = ["Step", "listen", "say", "show_progress", "track"]
