/* SPDX-License-Identifier: Apache-2.0 */
/* Asynchronous calls that are under way, so that other threads can wait for their callbacks. */

#ifndef DISKKIT_LATER_H
#define DISKKIT_LATER_H

#include "python.h"

/* One call; lies on the stack of the thread that makes it. */
typedef struct Later {
   const void *handle;
   uint64_t turn;
   struct Later *next, **place;
} Later;

void later_begin(Later *later, const void *handle);
void later_end(Later *later);

/* Call back; `later_within` knows of it meanwhile. */
void later_call(const Later *later, VixDiskLibCompletionCB callback, void *data, VixError code);

/* Whether this thread is in a callback of that handle. */
int later_within(const void *handle);

/*
 * Return when the calls of a handle (NULL: all) that have begun until now have called back. A
 * thread that is in a callback itself does not wait: two of them would wait for each other.
 */
void later_wait(const void *handle);

#endif
