/*
 * spank.h - what the SPANK plugin and the stub that it puts in the application's place say to each other.
 *
 * Slurm 23.11 and later let a plugin put words in front of a task's (spank_prepend_task_argv). Before, only argv[0] can be
 * replaced: then the same words come in a variable, one a line, and behind them the true argv[0].
 */
#ifndef PSPAWN_SPANK_H
#define PSPAWN_SPANK_H

#define SPANK_WORDS "PSPAWN_SPANK_WORDS"

/* A variable too, in all releases, since other users can read command lines: 32 hexadecimal digits, random and the same for all
 * tasks of a step on a node. The name of the gatherer's socket is made of it, so that nobody can take that beforehand. */
#define SPANK_SECRET "PSPAWN_SPANK_SECRET"

/* =N[,ADDRESS]: started by the plugin for a step with N tasks on this node; the mover listens at that abstract address. */
#define SPANK_OPTION "--pspawn-spank"

#endif
