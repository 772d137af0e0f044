/* SPDX-License-Identifier: Apache-2.0 */
/* Callbacks of every kind that call the library themselves: nothing waits for itself. */

#include "check.h"

#include <pthread.h>
#include <semaphore.h>

#define SECTORS 8192

static VixDiskLibConnection here;
static VixDiskLibHandle disk, other;
static int logged, progressed, inside;

/* Calls that need no disk, one that needs another, and one that needs the disk in use. */
static void call_in(void)
{
   uint8 sector[SECTOR];
   VixDiskLibInfo *info = NULL;
   if (inside) {
      return; /* what is said about these calls is not answered by more of them */
   }
   inside = 1;
   char *text = VixDiskLib_GetErrorText(VIX_E_FAIL, NULL);
   SO(text != NULL);
   VixDiskLib_FreeErrorText(text);
   SO(strcmp(VixDiskLib_ListTransportModes(), "file") == 0);
   if (other != NULL) {
      OK(VixDiskLib_Read(other, 0, 1, sector));
   }
   if (disk != NULL) {
      VixError code = VixDiskLib_GetInfo(disk, &info);
      SO(code == VIX_OK || code == VIX_E_OBJECT_IS_BUSY);
      SO((code == VIX_OK) == (info != NULL));
      VixDiskLib_FreeInfo(info);
      code = VixDiskLib_Read(disk, 0, 1, sector);
      SO(code == VIX_OK || code == VIX_E_OBJECT_IS_BUSY);
      code = VixDiskLib_Flush(disk);
      SO(code == VIX_OK || code == VIX_E_OBJECT_IS_BUSY);
      code = VixDiskLib_Shrink(disk, NULL, NULL);
      SO(code == VIX_OK || code == VIX_E_OBJECT_IS_BUSY || code == VIX_E_FILE_READ_ONLY);
   }
   inside = 0;
}

static Bool progress(void *data, int percent)
{
   (void)data;
   progressed += percent == 100;
   call_in();
   return TRUE;
}

static void say(const char *format, va_list arguments)
{
   take_line(format, arguments);
   logged++;
   call_in();
}

static void progress_calls(void)
{
   uint8 data[64 * SECTOR];
   memset(data, 7, sizeof data);
   for (uint64 at = 0; at < SECTORS; at += 256) {
      OK(VixDiskLib_Write(disk, at, 64, data));
   }
   OK(VixDiskLib_Shrink(disk, progress, NULL));
   OK(VixDiskLib_Defragment(disk, progress, NULL));
   OK(VixDiskLib_CreateChild(disk, "c.vmdk", VIXDISKLIB_DISK_MONOLITHIC_SPARSE, progress, NULL));
   OK(VixDiskLib_Clone(here, "n.vmdk", here, "c.vmdk", NULL, progress, NULL, FALSE));
   OK(VixDiskLib_Grow(here, "n.vmdk", SECTORS * 2, TRUE, progress, NULL));
   SO(progressed == 5);
}

/* ---- Waiting for callbacks of another thread ----------------------------------------------- */

static sem_t entered;
static int left;

static void slow_callback(void *data, VixError code)
{
   uint8 sector[SECTOR];
   (void)data;
   SO(code == VIX_OK);
   sem_post(&entered);
   for (int i = 0; i < 3000; i++) { /* longer than a call that does not wait */
      VixDiskLib_Read(other, 0, 1, sector);
   }
   __atomic_store_n(&left, 1, __ATOMIC_SEQ_CST);
}

static void *start_slow(void *argument)
{
   static uint8 sector[SECTOR];
   IS(VIX_ASYNC, VixDiskLib_ReadAsync(argument, 0, 1, sector, slow_callback, NULL));
   return NULL;
}

/* `finish_with` may not return before the callback of the other thread has. */
static void waits(VixDiskLibHandle handle, VixError (*finish_with)(VixDiskLibHandle))
{
   pthread_t thread;
   left = 0;
   pthread_create(&thread, NULL, start_slow, handle);
   sem_wait(&entered);
   OK(finish_with(handle));
   SO(__atomic_load_n(&left, __ATOMIC_SEQ_CST) == 1);
   pthread_join(thread, NULL);
}

static VixError exit_library(VixDiskLibHandle handle)
{
   (void)handle;
   VixDiskLib_Exit();
   return VIX_OK;
}

static void waiting(void)
{
   VixDiskLibHandle handle = NULL;
   sem_init(&entered, 0, 0);
   waits(disk, VixDiskLib_Wait);
   waits(disk, VixDiskLib_Flush);
   OK(make(here, "w.vmdk", VIXDISKLIB_DISK_MONOLITHIC_SPARSE, SECTORS));
   OK(VixDiskLib_Open(here, "w.vmdk", 0, &handle));
   waits(handle, VixDiskLib_Close);
   OK(VixDiskLib_Open(here, "w.vmdk", VIXDISKLIB_FLAG_OPEN_READ_ONLY, &handle));
   waits(handle, exit_library);
}

int main(void)
{
   alarm(60);
   OK(VixDiskLib_InitEx(7, 0, say, say, NULL, NULL, NULL));
   OK(VixDiskLib_Connect(NULL, &here));
   OK(make(here, "o.vmdk", VIXDISKLIB_DISK_MONOLITHIC_SPARSE, SECTORS));
   OK(VixDiskLib_Open(here, "o.vmdk", 0, &other));
   OK(make(here, "d.vmdk", VIXDISKLIB_DISK_MONOLITHIC_SPARSE, SECTORS));
   OK(VixDiskLib_Open(here, "d.vmdk", 0, &disk));
   progress_calls();
   waiting();
   SO(logged > 10);
   return finish();
}
