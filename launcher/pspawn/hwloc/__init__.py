"""hwloc for Python, as small as pspawn needs it: NUMA nodes, CPU sets, distances.

Bindings through cffi in API mode against the system's libhwloc 2.x. Two layers: Topology and Bitmap
here, and in pspawn.hwloc.lowlevel hwloc's own functions under their C names. Importing loads
the extension (ImportError if it or libhwloc is missing, or is not hwloc 2) and discovers nothing.
"""

from __future__ import annotations

from .bitmap import Bitmap
from .lowlevel import HwlocError
from .topology import PU, Core, Distances, Domain, NumaNode, Package, Topology

__all__ = ["PU", "Bitmap", "Core", "Distances", "Domain", "HwlocError", "NumaNode", "Package", "Topology"]
