/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What one call costs, in a program that does nothing else: calls DISK FILE.
 *
 * Prints "name nanoseconds" for a bare pread of 4 KiB at random places of FILE, the same of DISK
 * through the library, and an empty call, in turn, round after round; then the same reads in a
 * thread that Python has not seen before.
 */

#define _GNU_SOURCE
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

#include "vixDiskLib.h"

enum { CALLS = 100000, ROUNDS = 7, SECTORS = 8 };

static VixDiskLibHandle disk;
static uint64 places;
static int file;

static double now(void)
{
   struct timespec t;
   clock_gettime(CLOCK_MONOTONIC, &t);
   return (double)t.tv_sec * 1e9 + (double)t.tv_nsec;
}

static void need(int right, const char *what)
{
   if (!right) {
      fprintf(stderr, "calls: %s failed\n", what);
      exit(1);
   }
}

static uint64 place(unsigned i)
{
   return (uint64)i * 7919 % places * SECTORS;
}

static void round_of(const char *suffix)
{
   static __thread uint8 buffer[SECTORS * VIXDISKLIB_SECTOR_SIZE];
   double begin = now();
   for (unsigned i = 0; i < CALLS; i++) {
      need(pread(file, buffer, sizeof buffer, (off_t)place(i) << 9) == sizeof buffer, "pread");
   }
   double bare = now();
   for (unsigned i = 0; i < CALLS; i++) {
      need(VixDiskLib_Read(disk, place(i), SECTORS, buffer) == VIX_OK, "Read");
   }
   double read = now();
   for (unsigned i = 0; i < CALLS; i++) {
      need(VixDiskLib_Wait(disk) == VIX_OK, "Wait");
   }
   double empty = now();
   printf("pread%s %.1f\nread%s %.1f\nempty%s %.1f\n", suffix, (bare - begin) / CALLS, suffix,
          (read - bare) / CALLS, suffix, (empty - read) / CALLS);
}

static void *in_thread(void *unused)
{
   (void)unused;
   for (int i = 0; i < ROUNDS; i++) {
      round_of("-thread");
   }
   return NULL;
}

int main(int argc, char **argv)
{
   VixDiskLibConnection connection;
   VixDiskLibInfo *info;
   pthread_t thread;
   need(argc == 3, "usage: calls DISK FILE");
   need(VixDiskLib_InitEx(6, 7, NULL, NULL, NULL, NULL, NULL) == VIX_OK, "InitEx");
   need(VixDiskLib_Connect(NULL, &connection) == VIX_OK, "Connect");
   need(VixDiskLib_Open(connection, argv[1], VIXDISKLIB_FLAG_OPEN_READ_ONLY, &disk) == VIX_OK,
        "Open");
   need(VixDiskLib_GetInfo(disk, &info) == VIX_OK, "GetInfo");
   places = info->capacity / SECTORS;
   VixDiskLib_FreeInfo(info);
   file = open(argv[2], O_RDONLY);
   need(file >= 0, "open");
   round_of("-warm");
   for (int i = 0; i < ROUNDS; i++) {
      round_of("");
   }
   need(pthread_create(&thread, NULL, in_thread, NULL) == 0, "pthread_create");
   pthread_join(thread, NULL);
   VixDiskLib_Close(disk);
   VixDiskLib_Disconnect(connection);
   VixDiskLib_Exit();
   return 0;
}
