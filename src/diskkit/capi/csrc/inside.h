/* SPDX-License-Identifier: Apache-2.0 */
/* What the files that speak to Python share, and nobody else needs. */

#ifndef DISKKIT_INSIDE_H
#define DISKKIT_INSIDE_H

#include "python.h"

/* Functions of calls.py, by `CallName`; they can be called once `started` is set. */
extern Object *functions[CALL_COUNT];
extern const char *const names[CALL_COUNT];
extern volatile int started;
/* This is the child of a fork after the start: Python's threads are in the parent. */
extern volatile int forked;

/* How to leave Python: either this, or what PyGILState_Ensure said. */
#define STICKY (-1)

/* Take Python's lock in this thread; returns how to leave. */
int enter(void);
void leave(int kept);
/* This thread has started Python: its state outlives it. */
void this_thread_is_main(void);

/* A new reference. */
static inline Object *none(void)
{
   py.Py_IncRef(py.none);
   return py.none;
}

#endif
