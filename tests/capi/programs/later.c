/* SPDX-License-Identifier: Apache-2.0 */
/* Asynchronous calls: each one that was accepted calls back once, and nothing else does. */

#include "check.h"

#include <pthread.h>

#define SECTORS 4096
#define THREADS 4
#define ROUNDS 200

static VixDiskLibConnection here;
static VixDiskLibHandle disk;

typedef struct {
   int times;
   VixError code;
} Result;

static void count(void *data, VixError code)
{
   Result *result = data;
   __atomic_add_fetch(&result->times, 1, __ATOMIC_SEQ_CST);
   result->code = code;
}

/* Calls back into the library, as clients do. */
static void call_back_in(void *data, VixError code)
{
   Result *result = data;
   uint8 sector[SECTOR];
   VixDiskLibInfo *info = NULL;
   OK(VixDiskLib_Read(disk, 0, 1, sector));
   OK(VixDiskLib_GetInfo(disk, &info));
   VixDiskLib_FreeInfo(info);
   char *text = VixDiskLib_GetErrorText(code, NULL);
   SO(text != NULL && text[0] != 0);
   VixDiskLib_FreeErrorText(text);
   VixError waited = VixDiskLib_Wait(disk); /* its own end: it cannot be waited for */
   SO(waited == VIX_OK || waited == VIX_E_OBJECT_IS_BUSY);
   count(result, code);
}

static VixDiskLibHandle to_close;

static void close_in(void *data, VixError code)
{
   VixError closed = VixDiskLib_Close(to_close);
   SO(closed == VIX_OK || closed == VIX_E_OBJECT_IS_BUSY);
   count(data, code);
}

static void start_another(void *data, VixError code)
{
   static uint8 sector[SECTOR];
   static Result inner;
   IS(VIX_ASYNC, VixDiskLib_ReadAsync(disk, 1, 1, sector, count, &inner));
   count(data, code);
}

static void accepted_and_refused(void)
{
   uint8 sector[SECTOR] = {0};
   Result result = {0, 99};
   IS(VIX_ASYNC, VixDiskLib_WriteAsync(disk, 0, 1, sector, count, &result));
   OK(VixDiskLib_Wait(disk));
   SO(result.times == 1 && result.code == VIX_OK);
   IS(VIX_E_DISK_OUTOFRANGE, VixDiskLib_ReadAsync(disk, SECTORS, 1, sector, count, &result));
   IS(VIX_E_INVALID_ARG, VixDiskLib_ReadAsync(disk, 0, 0, sector, count, &result));
   IS(VIX_E_INVALID_ARG, VixDiskLib_WriteAsync(disk, 0, 1, NULL, count, &result));
   VixDiskLibHandle reading = NULL;
   OK(make(here, "r.vmdk", VIXDISKLIB_DISK_MONOLITHIC_SPARSE, SECTORS));
   OK(VixDiskLib_Open(here, "r.vmdk", VIXDISKLIB_FLAG_OPEN_READ_ONLY, &reading));
   IS(VIX_E_FILE_READ_ONLY, VixDiskLib_WriteAsync(reading, 0, 1, sector, count, &result));
   OK(VixDiskLib_Wait(reading));
   OK(VixDiskLib_Close(reading));
   OK(VixDiskLib_Wait(disk));
   SO(result.times == 1);
}

/* A disk whose file is cut: the call is accepted or refused, and in either case told once. */
static void failing(void)
{
   uint8 sector[SECTOR] = {0};
   Result result = {0, 99};
   VixDiskLibHandle cut = NULL;
   OK(make(here, "f.vmdk", VIXDISKLIB_DISK_MONOLITHIC_FLAT, SECTORS));
   OK(VixDiskLib_Open(here, "f.vmdk", VIXDISKLIB_FLAG_OPEN_READ_ONLY, &cut));
   SO(truncate("f-flat.vmdk", 1000) == 0);
   VixError code = VixDiskLib_ReadAsync(cut, 100, 1, sector, count, &result);
   OK(VixDiskLib_Wait(cut));
   if (code == VIX_ASYNC) {
      SO(result.times == 1 && result.code == VIX_E_HOST_FILE_ERROR_EOF);
   } else {
      IS(VIX_E_HOST_FILE_ERROR_EOF, code);
      SO(result.times == 0);
   }
   OK(VixDiskLib_Close(cut));
}

static void calling_in(void)
{
   uint8 sector[SECTOR] = {0};
   Result result = {0, 99};
   IS(VIX_ASYNC, VixDiskLib_ReadAsync(disk, 0, 1, sector, call_back_in, &result));
   IS(VIX_ASYNC, VixDiskLib_ReadAsync(disk, 0, 1, sector, start_another, &result));
   OK(VixDiskLib_Wait(disk));
   SO(result.times == 2);
   OK(make(here, "x.vmdk", VIXDISKLIB_DISK_MONOLITHIC_SPARSE, SECTORS));
   OK(VixDiskLib_Open(here, "x.vmdk", 0, &to_close));
   IS(VIX_ASYNC, VixDiskLib_WriteAsync(to_close, 0, 1, sector, close_in, &result));
   VixError code = VixDiskLib_Close(to_close);
   SO(code == VIX_OK || code == VIX_E_DISK_INVAL);
   SO(result.times == 3);
}

static void *many(void *argument)
{
   uint64 first = (uint64)(uintptr_t)argument * 16;
   uint8 *buffers = malloc(16 * SECTOR);
   Result results[16];
   for (int round = 0; round < ROUNDS; round++) {
      memset(results, 0, sizeof results);
      for (uint64 i = 0; i < 16; i++) {
         memset(buffers + i * SECTOR, (int)(first + i + (uint64)round), SECTOR);
         IS(VIX_ASYNC, VixDiskLib_WriteAsync(disk, first + i, 1, buffers + i * SECTOR, count,
                                             &results[i]));
      }
      OK(VixDiskLib_Wait(disk));
      memset(buffers, 0, 16 * SECTOR);
      Result read = {0, 99};
      IS(VIX_ASYNC, VixDiskLib_ReadAsync(disk, first, 16, buffers, count, &read));
      OK(VixDiskLib_Wait(disk));
      int right = read.times == 1 && read.code == VIX_OK;
      for (uint64 i = 0; i < 16; i++) {
         right = right && results[i].times == 1 && results[i].code == VIX_OK;
         for (uint64 at = 0; at < SECTOR; at++) {
            right = right && buffers[i * SECTOR + at] == (uint8)(first + i + (uint64)round);
         }
      }
      SO(right);
   }
   free(buffers);
   return NULL;
}

int main(void)
{
   pthread_t threads[THREADS];
   OK(init());
   OK(VixDiskLib_Connect(NULL, &here));
   OK(make(here, "d.vmdk", VIXDISKLIB_DISK_MONOLITHIC_SPARSE, SECTORS));
   OK(VixDiskLib_Open(here, "d.vmdk", 0, &disk));
   accepted_and_refused();
   failing();
   calling_in();
   for (uintptr_t i = 0; i < THREADS; i++) {
      pthread_create(&threads[i], NULL, many, (void *)i);
   }
   for (int i = 0; i < THREADS; i++) {
      pthread_join(threads[i], NULL);
   }
   OK(VixDiskLib_Close(disk));
   VixDiskLib_Exit();
   return finish();
}
