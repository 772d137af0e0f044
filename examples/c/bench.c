/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Commands that move much data: benchmarks, and copies by several threads.
 *
 * VDDK's rules are kept, which are stricter than diskkit's: one thread opens and closes, and each
 * thread that moves data has a handle of its own.
 */

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "vixdisk.h"

#define COPY_SECTORS 2048 /* in one step of a copy */
#define QUEUE 8           /* asynchronous requests under way */
#define MOST_THREADS 64
#define MOST_BLOCK_SECTORS 65536

static double now(void)
{
   struct timespec time;
   clock_gettime(CLOCK_MONOTONIC, &time);
   return (double)time.tv_sec + (double)time.tv_nsec / 1e9;
}

/* ---- Benchmarks -------------------------------------------------------------------------- */

typedef struct {
   VixDiskLibHandle disk;
   uint64 capacity, block; /* sectors */
   int writing;
   uint8 *buffers[QUEUE];
   VixError results[QUEUE];
} Bench;

static uint64 next_block(const Bench *bench, uint64 at)
{
   uint64 left = bench->capacity - at;
   return left < bench->block ? left : bench->block;
}

static VixError run_plain(Bench *bench)
{
   VixError code = VIX_OK;
   uint8 *buffer = bench->buffers[0];
   for (uint64 at = 0; at < bench->capacity && code == VIX_OK; at += bench->block) {
      uint64 count = next_block(bench, at);
      code = bench->writing ? VixDiskLib_Write(bench->disk, at, count, buffer)
                            : VixDiskLib_Read(bench->disk, at, count, buffer);
   }
   return code;
}

static void completed(void *result, VixError code)
{
   *(VixError *)result = code;
}

/* Start as many requests as there are buffers; returns where the next one begins. */
static uint64 start_some(Bench *bench, uint64 at)
{
   for (int i = 0; i < QUEUE; i++) {
      bench->results[i] = VIX_OK;
      if (at >= bench->capacity) {
         continue;
      }
      uint64 count = next_block(bench, at);
      void *result = &bench->results[i];
      VixError code =
         bench->writing ? VixDiskLib_WriteAsync(bench->disk, at, count, bench->buffers[i],
                                                completed, result)
                        : VixDiskLib_ReadAsync(bench->disk, at, count, bench->buffers[i],
                                               completed, result);
      if (code != VIX_ASYNC) {
         bench->results[i] = code; /* it was refused: nobody else will tell */
      }
      at += count;
   }
   return at;
}

static VixError run_async(Bench *bench)
{
   VixError code = VIX_OK;
   for (uint64 at = 0; at < bench->capacity && code == VIX_OK;) {
      at = start_some(bench, at);
      code = VixDiskLib_Wait(bench->disk);
      for (int i = 0; i < QUEUE && code == VIX_OK; i++) {
         code = bench->results[i];
      }
   }
   return code;
}

static VixError time_it(Bench *bench, VixError (*run)(Bench *))
{
   for (int i = 0; i < QUEUE; i++) {
      bench->buffers[i] = need(bench->block * SECTOR);
      memset(bench->buffers[i], (int)set.value, bench->block * SECTOR);
   }
   double before = now();
   VixError code = run(bench);
   if (code == VIX_OK && bench->writing) {
      code = VixDiskLib_Flush(bench->disk);
   }
   double seconds = now() - before, mib = (double)bench->capacity * SECTOR / (1 << 20);
   if (told(code, bench->writing ? "writing" : "reading", set.path) == VIX_OK) {
      printf("%s %llu sectors in %.3f s, %.0f MiB/s\n", bench->writing ? "wrote" : "read",
             (unsigned long long)bench->capacity, seconds, seconds > 0 ? mib / seconds : 0);
   }
   for (int i = 0; i < QUEUE; i++) {
      free(bench->buffers[i]);
   }
   return code;
}

VixError do_bench(VixDiskLibHandle disk)
{
   Bench bench = {.disk = disk, .writing = strstr(command->name, "write") != NULL};
   if (parse_number(set.first, &bench.block) != 0 || bench.block == 0 ||
       bench.block > MOST_BLOCK_SECTORS) {
      return told(VIX_E_INVALID_ARG, "a block cannot have this many sectors:", set.first);
   }
   VixError code = capacity_of(disk, set.path, &bench.capacity);
   int later = strstr(command->name, "async") != NULL;
   return code == VIX_OK ? time_it(&bench, later ? run_async : run_plain) : code;
}

/* ---- Many threads ------------------------------------------------------------------------ */

/* One copy of the disk, made by a thread of its own. */
typedef struct {
   char path[4096];
   VixDiskLibHandle from, to;
   uint64 capacity;
   VixError code;
   pthread_t thread;
} Copy;

static void *copy_disk(void *argument)
{
   Copy *copy = argument;
   uint8 *buffer = need(COPY_SECTORS * SECTOR);
   for (uint64 at = 0; at < copy->capacity && copy->code == VIX_OK; at += COPY_SECTORS) {
      uint64 left = copy->capacity - at, count = left < COPY_SECTORS ? left : COPY_SECTORS;
      copy->code = VixDiskLib_Read(copy->from, at, count, buffer);
      if (copy->code == VIX_OK) {
         copy->code = VixDiskLib_Write(copy->to, at, count, buffer);
      }
   }
   free(buffer);
   return NULL;
}

static VixError begin_copy(Copy *copy)
{
   VixError code = open_disk(set.path, READ_ONLY, &copy->from);
   if (code == VIX_OK) {
      code = capacity_of(copy->from, set.path, &copy->capacity);
   }
   if (code == VIX_OK) {
      VixDiskLibCreateParams params = new_disk(copy->capacity);
      code = VixDiskLib_Create(connection, copy->path, &params, NULL, NULL);
      told(code, "creating", copy->path);
   }
   if (code == VIX_OK) {
      code = open_disk(copy->path, 0, &copy->to);
   }
   if (code == VIX_OK && pthread_create(&copy->thread, NULL, copy_disk, copy) != 0) {
      code = told(VIX_E_FAIL, "starting a thread for", copy->path);
   }
   return code;
}

static VixError end_copy(Copy *copy, int running)
{
   VixError code = VIX_OK;
   if (running) {
      pthread_join(copy->thread, NULL);
      code = told(copy->code, "copying to", copy->path);
   }
   if (copy->to != NULL) {
      code = close_disk(copy->to, copy->path, code);
   }
   return copy->from != NULL ? close_disk(copy->from, set.path, code) : code;
}

VixError do_multithread(VixDiskLibHandle none)
{
   uint64 threads, begun = 0;
   (void)none;
   if (parse_number(set.first, &threads) != 0 || threads == 0 || threads > MOST_THREADS) {
      return told(VIX_E_INVALID_ARG, "this many threads cannot be had:", set.first);
   }
   Copy *copies = calloc(threads, sizeof *copies);
   VixError code = copies == NULL ? told(VIX_E_OUT_OF_MEMORY, "copying", set.path) : VIX_OK;
   for (; begun < threads && code == VIX_OK; begun++) {
      snprintf(copies[begun].path, sizeof copies[begun].path, "%s-thread%llu.vmdk", set.path,
               (unsigned long long)begun);
      code = begin_copy(&copies[begun]);
   }
   for (uint64 i = 0; i < begun; i++) {
      int running = i + 1 < begun || code == VIX_OK;
      VixError ended = end_copy(&copies[i], running);
      code = code != VIX_OK ? code : ended;
   }
   free(copies);
   if (code == VIX_OK) {
      printf("%llu threads made a copy each\n", (unsigned long long)threads);
   }
   return code;
}
