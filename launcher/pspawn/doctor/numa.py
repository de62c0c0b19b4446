"""NUMA domains: what placement goes by on this node."""

from __future__ import annotations

from collections.abc import Iterator

from pspawn.doctor import Finding, Topic


def look() -> Iterator[Finding]:
    from pspawn.report import ranges

    topic = Topic("NUMA")
    try:
        from pspawn.hwloc import HwlocError, Topology
        from pspawn.hwloc.lowlevel import lib
    except ImportError as error:
        yield topic.note(str(error), "launches do not need it; 'import pspawn.hwloc' does")
        return
    version = lib.hwloc_get_api_version()
    yield topic.ok(f"hwloc {version >> 16}.{version >> 8 & 0xFF} (API)")
    try:
        with Topology.from_this_system() as topology:
            domains = topology.domains()
    except (HwlocError, OSError) as error:
        yield topic.problem(f"hwloc can't read this node: {error}", "run lstopo, which should say the same")
        return
    for domain in domains:
        cpus = ranges(domain.cpus) or "none"
        yield topic.ok(f"domain {domain.numa_node}: CPUs {cpus}")
    with_cpus = [domain for domain in domains if domain.cpus]
    if len(with_cpus) == 1:
        yield topic.note("one domain: all ranks of a program are forked from one proxy")
