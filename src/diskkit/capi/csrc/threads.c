/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Threads and forks. A thread that Python does not know gets a thread state at its first call and
 * keeps it until it ends: making one takes far longer than a read.
 */

#define _GNU_SOURCE
#include <pthread.h>

#include "inside.h"

volatile int started;
volatile int forked;

static __thread void *own_state; /* the state that this library made for this thread */
static pthread_key_t ending;
static int has_ending;

/* A thread that has a state of ours ends. */
static void thread_ends(void *state)
{
   if (forked || !py.Py_IsInitialized()) {
      return;
   }
   own_state = NULL;
   py.PyEval_RestoreThread(state);
   py.PyThreadState_Clear(state);
   py.PyThreadState_DeleteCurrent();
}

static void child_begins(void)
{
   if (started) {
      forked = 1;
   }
}

/* Python makes its keys later than this, and keys are cleared in the order of their making. */
__attribute__((constructor)) static void library_is_loaded(void)
{
   has_ending = pthread_key_create(&ending, thread_ends) == 0;
   pthread_atfork(NULL, NULL, child_begins);
}

int enter(void)
{
   if (own_state != NULL) {
      py.PyEval_RestoreThread(own_state);
      return STICKY;
   }
   int known = py.PyGILState_GetThisThreadState() != NULL;
   int said = py.PyGILState_Ensure();
   if (known || !has_ending) {
      return said;
   }
   own_state = py.PyGILState_GetThisThreadState();
   pthread_setspecific(ending, own_state);
   return STICKY;
}

void leave(int kept)
{
   if (kept == STICKY) {
      py.PyEval_SaveThread();
   } else {
      py.PyGILState_Release(kept);
   }
}

void this_thread_is_main(void)
{
   own_state = py.PyGILState_GetThisThreadState();
}
