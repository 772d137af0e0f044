/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The ceiling: the functions that nbdkit's vddk plugin needs, over one plain file, with nothing else
 * in the way. bench/capi.py serves the same bytes through this and through diskkit's library.
 */

#define _GNU_SOURCE
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "vixDiskLib.h"

struct VixDiskLibHandleStruct {
   int file;
   uint64 sectors;
};

VixError VixDiskLib_InitEx(uint32 major, uint32 minor, VixDiskLibGenericLogFunc *log,
                           VixDiskLibGenericLogFunc *warn, VixDiskLibGenericLogFunc *panic,
                           const char *folder, const char *config)
{
   (void)major, (void)minor, (void)log, (void)warn, (void)panic, (void)folder, (void)config;
   return VIX_OK;
}

void VixDiskLib_Exit(void) {}

const char *VixDiskLib_ListTransportModes(void)
{
   return "file";
}

char *VixDiskLib_GetErrorText(VixError err, const char *locale)
{
   (void)err, (void)locale;
   return strdup("failed");
}

void VixDiskLib_FreeErrorText(char *text)
{
   free(text);
}

VixDiskLibConnectParams *VixDiskLib_AllocateConnectParams(void)
{
   return calloc(1, sizeof(VixDiskLibConnectParams));
}

void VixDiskLib_FreeConnectParams(VixDiskLibConnectParams *params)
{
   free(params);
}

VixError VixDiskLib_ConnectEx(const VixDiskLibConnectParams *params, Bool read_only,
                              const char *snapshot, const char *modes,
                              VixDiskLibConnection *connection)
{
   (void)params, (void)read_only, (void)snapshot, (void)modes;
   *connection = (VixDiskLibConnection)1;
   return VIX_OK;
}

VixError VixDiskLib_Disconnect(VixDiskLibConnection connection)
{
   (void)connection;
   return VIX_OK;
}

VixError VixDiskLib_Open(const VixDiskLibConnection connection, const char *path, uint32 flags,
                         VixDiskLibHandle *handle)
{
   struct stat found;
   VixDiskLibHandle made = malloc(sizeof *made);
   (void)connection;
   made->file = open(path, flags & VIXDISKLIB_FLAG_OPEN_READ_ONLY ? O_RDONLY : O_RDWR);
   if (made->file < 0 || fstat(made->file, &found) != 0) {
      free(made);
      return VIX_E_FILE_NOT_FOUND;
   }
   made->sectors = (uint64)found.st_size / VIXDISKLIB_SECTOR_SIZE;
   *handle = made;
   return VIX_OK;
}

VixError VixDiskLib_Close(VixDiskLibHandle handle)
{
   close(handle->file);
   free(handle);
   return VIX_OK;
}

const char *VixDiskLib_GetTransportMode(VixDiskLibHandle handle)
{
   (void)handle;
   return "file";
}

VixError VixDiskLib_GetInfo(VixDiskLibHandle handle, VixDiskLibInfo **info)
{
   *info = calloc(1, sizeof **info);
   (*info)->capacity = handle->sectors;
   (*info)->numLinks = 1;
   (*info)->logicalSectorSize = (*info)->physicalSectorSize = VIXDISKLIB_SECTOR_SIZE;
   return VIX_OK;
}

void VixDiskLib_FreeInfo(VixDiskLibInfo *info)
{
   free(info);
}

VixError VixDiskLib_Create(const VixDiskLibConnection connection, const char *path,
                           const VixDiskLibCreateParams *params, VixDiskLibProgressFunc progress,
                           void *data)
{
   (void)connection, (void)path, (void)params, (void)progress, (void)data;
   return VIX_E_NOT_SUPPORTED;
}

VixError VixDiskLib_Read(VixDiskLibHandle handle, uint64 start, uint64 count, uint8 *buffer)
{
   ssize_t size = (ssize_t)count << 9;
   return pread(handle->file, buffer, (size_t)size, (off_t)start << 9) == size ? VIX_OK
                                                                               : VIX_E_FAIL;
}

VixError VixDiskLib_Write(VixDiskLibHandle handle, uint64 start, uint64 count, const uint8 *buffer)
{
   ssize_t size = (ssize_t)count << 9;
   return pwrite(handle->file, buffer, (size_t)size, (off_t)start << 9) == size ? VIX_OK
                                                                                : VIX_E_FAIL;
}

VixError VixDiskLib_ReadAsync(VixDiskLibHandle handle, uint64 start, uint64 count, uint8 *buffer,
                              VixDiskLibCompletionCB callback, void *data)
{
   callback(data, VixDiskLib_Read(handle, start, count, buffer));
   return VIX_ASYNC;
}

VixError VixDiskLib_WriteAsync(VixDiskLibHandle handle, uint64 start, uint64 count,
                               const uint8 *buffer, VixDiskLibCompletionCB callback, void *data)
{
   callback(data, VixDiskLib_Write(handle, start, count, buffer));
   return VIX_ASYNC;
}

VixError VixDiskLib_Flush(VixDiskLibHandle handle)
{
   return fdatasync(handle->file) == 0 ? VIX_OK : VIX_E_FAIL;
}

VixError VixDiskLib_Wait(VixDiskLibHandle handle)
{
   (void)handle;
   return VIX_OK;
}
