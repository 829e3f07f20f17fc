"""Made clips: real H.264/AAC files of a sounding object among silent ones, for trying things out.

Neither ear nor eye alone can tell the classes apart: see :mod:`mcil.data.synthetic.table` for how that comes about
and :func:`probe` for by how much.
"""

from mcil.data.synthetic.generate import make
from mcil.data.synthetic.measure import probe
from mcil.data.synthetic.table import MAX_CLASSES, MadeClass, class_table

__all__ = ["MAX_CLASSES", "MadeClass", "class_table", "make", "probe"]
