/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A call reads or writes and calls back in the thread that makes it, so there is nothing to wait
 * for but callbacks in other threads. Each call has a turn: what begins while somebody waits is
 * not waited for, or that might never end.
 */

#define _GNU_SOURCE
#include <pthread.h>

#include "later.h"

static Later *under_way;
static uint64_t turns;
static unsigned waiting;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t ended = PTHREAD_COND_INITIALIZER;

/* What this thread is calling back for; the newest, where callbacks call again. */
typedef struct Calling {
   const void *handle;
   const struct Calling *outer;
} Calling;

static __thread const Calling *calling;

/* The threads of the parent are not here, and will not end anything. */
static void child_begins(void)
{
   pthread_mutex_init(&lock, NULL);
   pthread_cond_init(&ended, NULL);
   under_way = NULL;
   waiting = 0;
}

__attribute__((constructor)) static void watch_forks(void)
{
   pthread_atfork(NULL, NULL, child_begins);
}

void later_begin(Later *later, const void *handle)
{
   later->handle = handle;
   pthread_mutex_lock(&lock);
   later->turn = ++turns;
   later->next = under_way;
   later->place = &under_way;
   if (under_way != NULL) {
      under_way->place = &later->next;
   }
   under_way = later;
   pthread_mutex_unlock(&lock);
}

void later_end(Later *later)
{
   pthread_mutex_lock(&lock);
   *later->place = later->next;
   if (later->next != NULL) {
      later->next->place = later->place;
   }
   if (waiting > 0) {
      pthread_cond_broadcast(&ended);
   }
   pthread_mutex_unlock(&lock);
}

void later_call(const Later *later, VixDiskLibCompletionCB callback, void *data, VixError code)
{
   Calling now = {later->handle, calling};
   calling = &now;
   callback(data, code);
   calling = now.outer;
}

int later_within(const void *handle)
{
   const Calling *one = calling;
   while (one != NULL && one->handle != handle) {
      one = one->outer;
   }
   return one != NULL;
}

static int has_begun(const void *handle, uint64_t until)
{
   const Later *one = under_way;
   while (one != NULL && (one->turn > until || (handle != NULL && one->handle != handle))) {
      one = one->next;
   }
   return one != NULL;
}

void later_wait(const void *handle)
{
   if (calling != NULL) {
      return;
   }
   pthread_mutex_lock(&lock);
   uint64_t until = turns;
   waiting++;
   while (has_begun(handle, until)) {
      pthread_cond_wait(&ended, &lock);
   }
   waiting--;
   pthread_mutex_unlock(&lock);
}
