/*
 * topology.h - what pspawn-topology and the gatherer say to each other beside the XML.
 */
#ifndef PSPAWN_TOPOLOGY_H
#define PSPAWN_TOPOLOGY_H

#define TOPOLOGY_RAISES 3 /* exit code: to read the XML raises floating-point exceptions */

#endif
