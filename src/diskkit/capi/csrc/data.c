/* SPDX-License-Identifier: Apache-2.0 */
/* The functions of VixDiskLib: bytes read and written, and which are allocated. */

#define _GNU_SOURCE
#include <stdlib.h>
#include <string.h>

#include "later.h"
#include "parts.h"

_Static_assert(sizeof(VixDiskLibBlockList) == 24, "the layout of 6.7");

static uint64_t transfer(CallName name, VixDiskLibHandle diskHandle, uint64 start, uint64 count,
                         const uint8 *buffer, int access)
{
   Call call;
   VixError code = call_begin(&call, name);
   if (code != VIX_OK) {
      return code;
   }
   call_handle(&call, diskHandle);
   call_number(&call, start);
   call_number(&call, count);
   call_buffer(&call, buffer, count, access);
   call_number(&call, (uintptr_t)buffer % VIXDISKLIB_SECTOR_SIZE);
   return call_end_number(&call);
}

static int read_at_once(VixDiskLibHandle diskHandle, uint64 start, uint64 count, uint8 *buffer)
{
   return python_usable() && stretch_read((uintptr_t)diskHandle, start, count, buffer);
}

static int write_at_once(VixDiskLibHandle diskHandle, uint64 start, uint64 count,
                         const uint8 *buffer)
{
   return python_usable() && stretch_write((uintptr_t)diskHandle, start, count, buffer);
}

VixError VixDiskLib_Read(VixDiskLibHandle diskHandle, VixDiskLibSectorType startSector,
                         VixDiskLibSectorType numSectors, uint8 *readBuffer)
{
   if (read_at_once(diskHandle, startSector, numSectors, readBuffer)) {
      return VIX_OK;
   }
   return transfer(CALL_read, diskHandle, startSector, numSectors, readBuffer, BUFFER_WRITE);
}

VixError VixDiskLib_Write(VixDiskLibHandle diskHandle, VixDiskLibSectorType startSector,
                          VixDiskLibSectorType numSectors, const uint8 *writeBuffer)
{
   if (write_at_once(diskHandle, startSector, numSectors, writeBuffer)) {
      return VIX_OK;
   }
   return transfer(CALL_write, diskHandle, startSector, numSectors, writeBuffer, BUFFER_READ);
}

/*
 * Local disks are read and written at once; only the answer takes the way of a later one. A call
 * that is refused has a plain code; one that was begun has VIX_ASYNC below and its code above.
 */
static VixError transfer_later(CallName name, VixDiskLibHandle diskHandle, uint64 start,
                               uint64 count, const uint8 *buffer, VixDiskLibCompletionCB callback,
                               void *cbData)
{
   Later later;
   uint64_t answer = VIX_ASYNC;
   int reading = name == CALL_read_later, done;
   if (callback == NULL) {
      return VIX_E_INVALID_ARG;
   }
   later_begin(&later, diskHandle);
   done = reading ? read_at_once(diskHandle, start, count, (uint8 *)buffer)
                  : write_at_once(diskHandle, start, count, buffer);
   if (!done) {
      answer = transfer(name, diskHandle, start, count, buffer,
                        reading ? BUFFER_WRITE : BUFFER_READ);
   }
   if ((uint32)answer == VIX_ASYNC) {
      later_call(&later, callback, cbData, answer >> 32);
      answer = VIX_ASYNC;
   }
   later_end(&later);
   return answer;
}

VixError VixDiskLib_ReadAsync(VixDiskLibHandle diskHandle, VixDiskLibSectorType startSector,
                              VixDiskLibSectorType numSectors, uint8 *readBuffer,
                              VixDiskLibCompletionCB callback, void *cbData)
{
   return transfer_later(CALL_read_later, diskHandle, startSector, numSectors, readBuffer,
                         callback, cbData);
}

VixError VixDiskLib_WriteAsync(VixDiskLibHandle diskHandle, VixDiskLibSectorType startSector,
                               VixDiskLibSectorType numSectors, const uint8 *writeBuffer,
                               VixDiskLibCompletionCB callback, void *cbData)
{
   return transfer_later(CALL_write_later, diskHandle, startSector, numSectors, writeBuffer,
                         callback, cbData);
}

VixError VixDiskLib_Flush(VixDiskLibHandle diskHandle)
{
   later_wait(diskHandle);
   return about_disk(CALL_flush, diskHandle);
}

VixError VixDiskLib_Wait(VixDiskLibHandle diskHandle)
{
   VixError code = about_disk(CALL_wait, diskHandle);
   if (code == VIX_OK && later_within(diskHandle)) {
      return VIX_E_OBJECT_IS_BUSY; /* its own end cannot be waited for */
   }
   if (code == VIX_OK) {
      later_wait(diskHandle);
   }
   return code;
}

VixError VixDiskLib_QueryAllocatedBlocks(VixDiskLibHandle diskHandle,
                                         VixDiskLibSectorType startSector,
                                         VixDiskLibSectorType numSectors,
                                         VixDiskLibSectorType chunkSize,
                                         VixDiskLibBlockList **blockList)
{
   enum { HEAD = offsetof(VixDiskLibBlockList, blocks) };
   Call call;
   char *answer;
   size_t size;
   if (blockList == NULL) {
      return VIX_E_INVALID_ARG;
   }
   *blockList = NULL;
   VixError code = call_begin(&call, CALL_allocated_blocks);
   if (code != VIX_OK) {
      return code;
   }
   call_handle(&call, diskHandle);
   call_number(&call, startSector);
   call_number(&call, numSectors);
   call_number(&call, chunkSize);
   /* A list that is empty has room for a block all the same, as its type says. */
   code = call_end_bytes(&call, HEAD, &answer, &size);
   if (code != VIX_OK) {
      return code;
   }
   if (size == 0) {
      free(answer);
      answer = malloc(sizeof(VixDiskLibBlockList));
      if (answer == NULL) {
         return VIX_E_OUT_OF_MEMORY;
      }
   }
   memset(answer, 0, HEAD);
   *blockList = (VixDiskLibBlockList *)answer;
   (*blockList)->numBlocks = (uint32)(size / sizeof(VixDiskLibBlock));
   return VIX_OK;
}

VixError VixDiskLib_FreeBlockList(VixDiskLibBlockList *blockList)
{
   free(blockList);
   return VIX_OK;
}
