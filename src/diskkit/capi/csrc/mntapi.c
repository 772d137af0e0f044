/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The functions of VixMntapi. Until diskkit finds the volumes of a disk for it, a disk set cannot
 * be opened: that is said plainly, and everything that needs one refuses its handle.
 */

#include <stddef.h>
#include <stdio.h>

#include "../include/vixMntapi.h"

_Static_assert(sizeof(VixOsInfo) == 40, "the layout of 6.7");
_Static_assert(sizeof(VixVolumeInfo) == 32, "the layout of 6.7");
_Static_assert(sizeof(VixDiskSetInfo) == 16, "the layout of 6.7");

static VixDiskLibGenericLogFunc *volatile client_warn;
static volatile int ready;

static void emit(VixDiskLibGenericLogFunc *function, const char *format, ...)
{
   va_list arguments;
   va_start(arguments, format);
   function(format, arguments);
   va_end(arguments);
}

static VixError refuse(const char *text)
{
   if (client_warn != NULL) {
      emit(client_warn, "%s", text);
   }
   return VIX_E_NOT_SUPPORTED;
}

VixError VixMntapi_Init(uint32 majorVersion, uint32 minorVersion, VixDiskLibGenericLogFunc *log,
                        VixDiskLibGenericLogFunc *warn, VixDiskLibGenericLogFunc *panic,
                        const char *libDir, const char *configFile)
{
   (void)log;
   (void)panic;
   (void)libDir;
   (void)configFile;
   client_warn = warn;
   if (majorVersion != VIXMNTAPI_MAJOR_VERSION || minorVersion != VIXMNTAPI_MINOR_VERSION) {
      return refuse("VixMntapi_Init: only version 1.0 is known\n");
   }
   ready = 1;
   return VIX_OK;
}

void VixMntapi_Exit(void)
{
   ready = 0;
   client_warn = NULL;
}

VixError VixMntapi_OpenDisks(VixDiskLibConnection connection, const char *diskNames[],
                             size_t numberOfDisks, uint32 openFlags, VixDiskSetHandle *handle)
{
   (void)connection;
   (void)openFlags;
   if (handle == NULL) {
      return VIX_E_INVALID_ARG;
   }
   *handle = NULL;
   if (!ready) {
      return VIX_E_DISK_NOINIT;
   }
   if (diskNames == NULL || numberOfDisks == 0) {
      return VIX_E_INVALID_ARG;
   }
   return refuse("VixMntapi_OpenDisks: volumes are not supported yet\n");
}

/* No handle was ever given out. */
static VixError no_handle(void)
{
   return ready ? VIX_E_INVALID_HANDLE : VIX_E_DISK_NOINIT;
}

VixError VixMntapi_GetDiskSetInfo(VixDiskSetHandle handle, VixDiskSetInfo **diskSetInfo)
{
   (void)handle;
   if (diskSetInfo != NULL) {
      *diskSetInfo = NULL;
   }
   return no_handle();
}

VixError VixMntapi_CloseDiskSet(VixDiskSetHandle diskSet)
{
   (void)diskSet;
   return no_handle();
}

VixError VixMntapi_GetVolumeHandles(VixDiskSetHandle diskSet, size_t *numberOfVolumes,
                                    VixVolumeHandle *volumeHandles[])
{
   (void)diskSet;
   if (numberOfVolumes != NULL) {
      *numberOfVolumes = 0;
   }
   if (volumeHandles != NULL) {
      *volumeHandles = NULL;
   }
   return no_handle();
}

VixError VixMntapi_GetOsInfo(VixDiskSetHandle diskSet, VixOsInfo **info)
{
   (void)diskSet;
   if (info != NULL) {
      *info = NULL;
   }
   return no_handle();
}

VixError VixMntapi_MountVolume(VixVolumeHandle volumeHandle, Bool readOnly)
{
   (void)volumeHandle;
   (void)readOnly;
   return no_handle();
}

VixError VixMntapi_DismountVolume(VixVolumeHandle volumeHandle, Bool force)
{
   (void)volumeHandle;
   (void)force;
   return no_handle();
}

VixError VixMntapi_GetVolumeInfo(VixVolumeHandle volumeHandle, VixVolumeInfo **info)
{
   (void)volumeHandle;
   if (info != NULL) {
      *info = NULL;
   }
   return no_handle();
}

/* Nothing was ever given out, so there is nothing to free. */
void VixMntapi_FreeDiskSetInfo(VixDiskSetInfo *diskSetInfo)
{
   (void)diskSetInfo;
}

void VixMntapi_FreeVolumeHandles(VixVolumeHandle *volumeHandles)
{
   (void)volumeHandles;
}

void VixMntapi_FreeOsInfo(VixOsInfo *info)
{
   (void)info;
}

void VixMntapi_FreeVolumeInfo(VixVolumeInfo *info)
{
   (void)info;
}
