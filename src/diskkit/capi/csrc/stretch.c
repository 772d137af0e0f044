/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Long stretches of disks that lie as they are in one file, and stay there: where they are.
 *
 * Python decides where bytes lie, and tells this table of a stretch when it has read or written
 * there. The next read inside is one pread, and where Python has done all that comes before a first
 * write, the next write one pwrite. What fails here, or is cut short, is done again by Python, which
 * knows what to say. Before the files of a disk are closed or change places, and after a failure,
 * Python lets all its stretches be forgotten, which waits for what is under way.
 */

#define _GNU_SOURCE
#include <errno.h>
#include <pthread.h>
#include <unistd.h>

#include "inside.h"

/* A stretch is found by its handle and by the 256 MiB that a read begins in. */
#define PIECE_SHIFT 28
#define SLOTS 1024

typedef struct {
   pthread_rwlock_t lock;
   uint64_t handle; /* 0: empty */
   uint64_t begin, end;
   int64_t shift; /* from a place on the disk to one in the file */
   int file;
   int writable;
} Slot;

static Slot slots[SLOTS] = {[0 ... SLOTS - 1] = {.lock = PTHREAD_RWLOCK_INITIALIZER}};
static volatile uint64_t leaving; /* the handle that is being forgotten: let it go */

static Slot *slot_of(uint64_t handle, uint64_t offset)
{
   return &slots[(handle * 37 + (offset >> PIECE_SHIFT)) % SLOTS];
}

static int transfer(uint64_t handle, uint64_t sector, uint64_t count, void *buffer, int writing)
{
   /* Sizes that overflow, and mistakes, are Python's to explain. */
   if (handle == 0 || buffer == NULL || count == 0 || count > (1u << 22) || sector >> 54 != 0) {
      return 0;
   }
   uint64_t offset = sector << 9, size = count << 9;
   Slot *slot = slot_of(handle, offset);
   if (leaving == handle || pthread_rwlock_tryrdlock(&slot->lock) != 0) {
      return 0;
   }
   int done = 0;
   if (slot->handle == handle && offset >= slot->begin && offset + size <= slot->end) {
      off_t at = (off_t)((int64_t)offset + slot->shift);
      if (!writing) {
         done = pread(slot->file, buffer, size, at) == (ssize_t)size;
      } else if (slot->writable) {
         done = pwrite(slot->file, buffer, size, at) == (ssize_t)size;
      }
   }
   pthread_rwlock_unlock(&slot->lock);
   return done;
}

int stretch_read(uint64_t handle, uint64_t sector, uint64_t count, void *buffer)
{
   return transfer(handle, sector, count, buffer, 0);
}

int stretch_write(uint64_t handle, uint64_t sector, uint64_t count, const void *buffer)
{
   return transfer(handle, sector, count, (void *)buffer, 1);
}

/* keep(handle, begin, end, file, position, writable); the position is that of `begin`. */
static Object *keep(Object *self, Object *const *arguments, ssize_t count)
{
   unsigned long long values[6] = {0};
   (void)self;
   for (ssize_t i = 0; i < 6 && i < count; i++) {
      values[i] = py.PyLong_AsUnsignedLongLong(arguments[i]);
   }
   py.PyErr_Clear();
   uint64_t begin = values[1];
   /* `begin` was cut to the 256 MiB that were read from. */
   Slot *slot = slot_of(values[0], begin);
   if (count == 6 && pthread_rwlock_trywrlock(&slot->lock) == 0) {
      slot->handle = values[0];
      slot->begin = begin;
      slot->end = values[2];
      slot->file = (int)values[3];
      slot->shift = (int64_t)(values[4] - begin);
      slot->writable = values[5] != 0;
      pthread_rwlock_unlock(&slot->lock);
   }
   return none();
}

/* forget(handle): returns when no read of it is under way here. */
static Object *forget(Object *self, Object *number)
{
   uint64_t handle = py.PyLong_AsUnsignedLongLong(number);
   (void)self;
   py.PyErr_Clear();
   void *state = py.PyEval_SaveThread();
   leaving = handle;
   for (size_t i = 0; i < SLOTS; i++) {
      /* Nobody keeps anything for this handle now; locks of others are not waited for. */
      if (__atomic_load_n(&slots[i].handle, __ATOMIC_SEQ_CST) != handle) {
         continue;
      }
      pthread_rwlock_wrlock(&slots[i].lock);
      if (slots[i].handle == handle) {
         slots[i].handle = 0;
      }
      pthread_rwlock_unlock(&slots[i].lock);
   }
   leaving = 0;
   py.PyEval_RestoreThread(state);
   return none();
}

Object *make_keep(void)
{
   static Method method = {"keep", (void *)keep, METHOD_FAST, NULL};
   return py.PyCFunction_NewEx(&method, NULL, NULL);
}

Object *make_forget(void)
{
   static Method method = {"forget", (void *)forget, METHOD_ONE_ARGUMENT, NULL};
   return py.PyCFunction_NewEx(&method, NULL, NULL);
}
