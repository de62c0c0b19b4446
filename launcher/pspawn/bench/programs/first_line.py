import os
import sys
import time

import numpy

moment, cpu = time.monotonic_ns(), time.process_time_ns()
stamps = os.open(os.environ["PSPAWN_BENCH_STAMPS"], os.O_WRONLY | os.O_APPEND)
os.write(stamps, moment.to_bytes(8, sys.byteorder) + cpu.to_bytes(8, sys.byteorder))
assert numpy.arange(4).sum() == 6
if len(sys.argv) == 2:
    time.sleep(int(sys.argv[1]) / 1000)
