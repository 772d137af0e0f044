/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Many threads do everything at once: on one disk that all write to, on one that all open and
 * read, and on disks of their own. What is read is compared with what must be there.
 */

#include "check.h"

#include <pthread.h>

#define THREADS 6
#define OWN 1024 /* sectors of the shared disk that one thread writes to */
#define SECTORS (THREADS * OWN)
#define STEPS 160
#define MOST 32

static VixDiskLibConnection here;
static VixDiskLibHandle shared;
static uint8 model[SECTORS * SECTOR], constant[SECTORS * SECTOR];
static volatile int stop;

typedef struct {
   int number;
   uint64_t seed;
   uint8 buffer[MOST * SECTOR];
   pthread_t thread;
} Worker;

static uint64_t random_below(Worker *worker, uint64_t limit)
{
   worker->seed = worker->seed * 6364136223846793005ull + 1442695040888963407ull;
   return (worker->seed >> 33) % limit;
}

/* A range among the sectors that only this thread writes. */
static uint64 own_range(Worker *worker, uint64 *count)
{
   *count = 1 + random_below(worker, MOST);
   return (uint64)worker->number * OWN + random_below(worker, OWN - *count);
}

static void write_own(Worker *worker)
{
   uint64 count, start = own_range(worker, &count);
   /* Zeros at times, so that there is something to shrink. */
   int zeros = random_below(worker, 3) == 0;
   for (uint64 i = 0; i < count * SECTOR; i++) {
      worker->buffer[i] = zeros ? 0 : (uint8)random_below(worker, 256);
   }
   OK(VixDiskLib_Write(shared, start, count, worker->buffer));
   memcpy(model + start * SECTOR, worker->buffer, count * SECTOR);
}

static void completed(void *data, VixError code)
{
   *(VixError *)data = code;
}

static void write_own_later(Worker *worker)
{
   uint64 count, start = own_range(worker, &count);
   VixError code = VIX_E_FAIL;
   memset(worker->buffer, (int)random_below(worker, 256), count * SECTOR);
   IS(VIX_ASYNC, VixDiskLib_WriteAsync(shared, start, count, worker->buffer, completed, &code));
   OK(VixDiskLib_Wait(shared));
   SO(code == VIX_OK);
   memcpy(model + start * SECTOR, worker->buffer, count * SECTOR);
}

static void read_own(Worker *worker)
{
   uint64 count, start = own_range(worker, &count);
   OK(VixDiskLib_Read(shared, start, count, worker->buffer));
   SO(memcmp(worker->buffer, model + start * SECTOR, count * SECTOR) == 0);
}

static void read_any(Worker *worker)
{
   OK(VixDiskLib_Read(shared, random_below(worker, SECTORS - MOST), MOST, worker->buffer));
   IS(VIX_E_DISK_OUTOFRANGE, VixDiskLib_Read(shared, SECTORS, 1, worker->buffer));
}

static void query(Worker *worker)
{
   VixDiskLibBlockList *list = NULL;
   uint64 end = 0;
   (void)worker;
   OK(VixDiskLib_QueryAllocatedBlocks(shared, 0, SECTORS, 128, &list));
   for (uint32 i = 0; list != NULL && i < list->numBlocks; i++) {
      SO(list->blocks[i].offset % 128 == 0 && (i == 0 || list->blocks[i].offset > end));
      end = list->blocks[i].offset + list->blocks[i].length;
   }
   SO(end <= SECTORS);
   VixDiskLib_FreeBlockList(list);
}

static void about(Worker *worker)
{
   VixDiskLibInfo *info = NULL;
   char key[32], text[64];
   snprintf(key, sizeof key, "key%d", worker->number);
   OK(VixDiskLib_GetInfo(shared, &info));
   SO(info != NULL && info->capacity == SECTORS);
   VixDiskLib_FreeInfo(info);
   OK(VixDiskLib_WriteMetadata(shared, key, key));
   OK(VixDiskLib_ReadMetadata(shared, key, text, sizeof text, NULL));
   SO(strcmp(text, key) == 0);
   OK(VixDiskLib_Flush(shared));
}

static void read_constant(Worker *worker)
{
   VixDiskLibHandle disk = NULL;
   OK(VixDiskLib_Open(here, "constant.vmdk", VIXDISKLIB_FLAG_OPEN_READ_ONLY, &disk));
   for (int i = 0; i < 8; i++) {
      uint64 start = random_below(worker, SECTORS - MOST);
      OK(VixDiskLib_Read(disk, start, MOST, worker->buffer));
      SO(memcmp(worker->buffer, constant + start * SECTOR, MOST * SECTOR) == 0);
   }
   OK(VixDiskLib_Close(disk));
   IS(VIX_E_DISK_INVAL, VixDiskLib_Read(disk, 0, 1, worker->buffer));
}

static void own_disk(Worker *worker)
{
   char path[32];
   VixDiskLibHandle disk = NULL;
   VixDiskLibConnection own = NULL;
   int value = (int)random_below(worker, 255) + 1;
   snprintf(path, sizeof path, "own%d.vmdk", worker->number);
   OK(VixDiskLib_Connect(NULL, &own));
   OK(make(own, path, 1 + (int)random_below(worker, 4), 2048));
   OK(VixDiskLib_Open(own, path, 0, &disk));
   memset(worker->buffer, value, SECTOR);
   OK(VixDiskLib_Write(disk, 1000, 1, worker->buffer));
   OK(VixDiskLib_Close(disk));
   OK(VixDiskLib_Open(own, path, VIXDISKLIB_FLAG_OPEN_READ_ONLY, &disk));
   OK(VixDiskLib_Read(disk, 999, 2, worker->buffer));
   SO(worker->buffer[SECTOR - 1] == 0 && worker->buffer[SECTOR] == value);
   OK(VixDiskLib_Close(disk));
   OK(VixDiskLib_Unlink(own, path));
   OK(VixDiskLib_Disconnect(own));
}

static void *work(void *argument)
{
   /* How often each is drawn. */
   static void (*const steps[])(Worker *) = {
      write_own, write_own, write_own, write_own, write_own_later, write_own_later, read_own,
      read_own,  read_own,  read_any,  read_any,  read_constant,   query,           query};
   Worker *worker = argument;
   for (int i = 0; i < STEPS; i++) {
      steps[random_below(worker, sizeof steps / sizeof steps[0])](worker);
      if (i % 50 == worker->number) {
         about(worker);
         own_disk(worker);
      }
   }
   return NULL;
}

static void *upkeep(void *argument)
{
   (void)argument;
   for (int i = 0; !stop; i++) {
      OK(i % 2 == 0 ? VixDiskLib_Shrink(shared, NULL, NULL)
                    : VixDiskLib_Defragment(shared, NULL, NULL));
   }
   return NULL;
}

static void make_disks(void)
{
   VixDiskLibHandle disk = NULL;
   for (size_t i = 0; i < sizeof constant; i++) {
      constant[i] = (uint8)(i * 2654435761u >> 13);
   }
   OK(make(here, "constant.vmdk", VIXDISKLIB_DISK_MONOLITHIC_FLAT, SECTORS));
   OK(VixDiskLib_Open(here, "constant.vmdk", 0, &disk));
   OK(VixDiskLib_Write(disk, 0, SECTORS, constant));
   OK(VixDiskLib_Close(disk));
   OK(make(here, "shared.vmdk", VIXDISKLIB_DISK_MONOLITHIC_SPARSE, SECTORS));
   OK(VixDiskLib_Open(here, "shared.vmdk", 0, &shared));
}

int main(void)
{
   static Worker workers[THREADS];
   static uint8 found[sizeof model];
   pthread_t keeper;
   alarm(100);
   OK(init());
   OK(VixDiskLib_Connect(NULL, &here));
   make_disks();
   pthread_create(&keeper, NULL, upkeep, NULL);
   for (int i = 0; i < THREADS; i++) {
      workers[i].number = i;
      workers[i].seed = (uint64_t)i * 77 + 1;
      pthread_create(&workers[i].thread, NULL, work, &workers[i]);
   }
   for (int i = 0; i < THREADS; i++) {
      pthread_join(workers[i].thread, NULL);
   }
   stop = 1;
   pthread_join(keeper, NULL);
   OK(VixDiskLib_Read(shared, 0, SECTORS, found));
   SO(memcmp(found, model, sizeof model) == 0);
   OK(VixDiskLib_Close(shared));
   OK(VixDiskLib_CheckRepair(here, "shared.vmdk", FALSE));
   OK(VixDiskLib_Open(here, "shared.vmdk", VIXDISKLIB_FLAG_OPEN_READ_ONLY, &shared));
   OK(VixDiskLib_Read(shared, 0, SECTORS, found));
   SO(memcmp(found, model, sizeof model) == 0);
   VixDiskLib_Exit();
   return finish();
}
