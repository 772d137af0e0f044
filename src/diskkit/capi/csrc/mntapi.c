/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The functions of VixMntapi. They call Python through libvixDiskLib, which is in the same folder and
 * whose InitEx comes first.
 */

#include <stdlib.h>
#include <string.h>

#include "../include/vixMntapi.h"
#include "python.h"

_Static_assert(sizeof(VixOsInfo) == 40, "the layout of 6.7");
_Static_assert(sizeof(VixVolumeInfo) == 32, "the layout of 6.7");
_Static_assert(sizeof(VixDiskSetInfo) == 16, "the layout of 6.7");

/* More disks than a virtual machine has in use together are a mistake. */
#define MOST_DISKS (MOST_ARGUMENTS - 2)

VixError VixMntapi_Init(uint32 majorVersion, uint32 minorVersion, VixDiskLibGenericLogFunc *log,
                        VixDiskLibGenericLogFunc *warn, VixDiskLibGenericLogFunc *panic,
                        const char *libDir, const char *configFile)
{
   Call call;
   (void)panic;
   (void)libDir;
   (void)configFile;
   VixError code = call_begin(&call, CALL_mnt_init);
   if (code != VIX_OK) {
      return code;
   }
   messages_also_to(log, warn);
   call_number(&call, majorVersion);
   call_number(&call, minorVersion);
   call_number(&call, messages_wanted());
   return call_end(&call);
}

void VixMntapi_Exit(void)
{
   Call call;
   if (call_begin(&call, CALL_mnt_exit) == VIX_OK) {
      call_end(&call);
   }
}

VixError VixMntapi_OpenDisks(VixDiskLibConnection connection, const char *diskNames[],
                             size_t numberOfDisks, uint32 openFlags, VixDiskSetHandle *handle)
{
   Call call;
   uint64_t number = 0;
   if (handle == NULL) {
      return VIX_E_INVALID_ARG;
   }
   *handle = NULL;
   if (diskNames == NULL || numberOfDisks == 0 || numberOfDisks > MOST_DISKS) {
      return VIX_E_INVALID_ARG;
   }
   VixError code = call_begin(&call, CALL_mnt_open);
   if (code != VIX_OK) {
      return code;
   }
   call_handle(&call, connection);
   call_number(&call, openFlags);
   for (size_t i = 0; i < numberOfDisks; i++) {
      call_text(&call, diskNames[i]);
   }
   code = call_end_into(&call, &number, sizeof number);
   if (code == VIX_OK) {
      *handle = (VixDiskSetHandle)(uintptr_t)number;
   }
   return code;
}

/* The answer of a call that is about one thing, behind `room` bytes; its end has a NUL. */
static VixError ask(CallName name, const void *handle, size_t room, char **answer, size_t *size)
{
   Call call;
   VixError code = call_begin(&call, name);
   if (code != VIX_OK) {
      return code;
   }
   call_handle(&call, handle);
   return call_end_bytes(&call, room, answer, size);
}

/* The text after this one; NULL if the answer ends before. */
static char *next_text(char *text, const char *end)
{
   char *next = text + strlen(text) + 1;
   return next < end ? next : NULL;
}

VixError VixMntapi_GetDiskSetInfo(VixDiskSetHandle handle, VixDiskSetInfo **diskSetInfo)
{
   enum { ROOM = sizeof(VixDiskSetInfo) };
   char *answer;
   size_t size;
   uint32 flags;
   if (diskSetInfo == NULL) {
      return VIX_E_INVALID_ARG;
   }
   *diskSetInfo = NULL;
   VixError code = ask(CALL_mnt_set_info, handle, ROOM, &answer, &size);
   if (code != VIX_OK) {
      return code;
   }
   if (size < sizeof flags) {
      free(answer);
      return VIX_E_FAIL;
   }
   memcpy(&flags, answer + ROOM, sizeof flags);
   VixDiskSetInfo *made = (VixDiskSetInfo *)answer;
   memset(made, 0, ROOM);
   made->openFlags = flags;
   made->mountPath = answer + ROOM + sizeof flags;
   *diskSetInfo = made;
   return VIX_OK;
}

void VixMntapi_FreeDiskSetInfo(VixDiskSetInfo *diskSetInfo)
{
   free(diskSetInfo);
}

static VixError about(CallName name, const void *handle)
{
   Call call;
   VixError code = call_begin(&call, name);
   if (code != VIX_OK) {
      return code;
   }
   call_handle(&call, handle);
   return call_end(&call);
}

VixError VixMntapi_CloseDiskSet(VixDiskSetHandle diskSet)
{
   return about(CALL_mnt_close, diskSet);
}

VixError VixMntapi_GetVolumeHandles(VixDiskSetHandle diskSet, size_t *numberOfVolumes,
                                    VixVolumeHandle *volumeHandles[])
{
   char *answer;
   size_t size;
   if (numberOfVolumes == NULL || volumeHandles == NULL) {
      return VIX_E_INVALID_ARG;
   }
   *numberOfVolumes = 0;
   *volumeHandles = NULL;
   _Static_assert(sizeof(VixVolumeHandle) == sizeof(uint64_t), "a handle is a number of 64 bits");
   VixError code = ask(CALL_mnt_volumes, diskSet, 0, &answer, &size);
   if (code == VIX_OK) {
      *numberOfVolumes = size / sizeof(VixVolumeHandle);
      *volumeHandles = (VixVolumeHandle *)answer;
   }
   return code;
}

void VixMntapi_FreeVolumeHandles(VixVolumeHandle *volumeHandles)
{
   free(volumeHandles);
}

VixError VixMntapi_GetOsInfo(VixDiskSetHandle diskSet, VixOsInfo **info)
{
   enum { ROOM = sizeof(VixOsInfo) };
   char *answer, *texts[3] = {NULL};
   size_t size;
   uint32 numbers[4];
   if (info == NULL) {
      return VIX_E_INVALID_ARG;
   }
   *info = NULL;
   VixError code = ask(CALL_mnt_os_info, diskSet, ROOM, &answer, &size);
   if (code != VIX_OK) {
      return code;
   }
   if (size > sizeof numbers) {
      texts[0] = answer + ROOM + sizeof numbers;
   }
   for (size_t i = 1; i < 3 && texts[i - 1] != NULL; i++) {
      texts[i] = next_text(texts[i - 1], answer + ROOM + size);
   }
   if (texts[2] == NULL) {
      free(answer);
      return VIX_E_FAIL;
   }
   memcpy(numbers, answer + ROOM, sizeof numbers);
   VixOsInfo *made = (VixOsInfo *)answer;
   memset(made, 0, ROOM);
   made->family = (VixOsFamily)numbers[0];
   made->majorVersion = numbers[1];
   made->minorVersion = numbers[2];
   made->osIs64Bit = numbers[3] != 0;
   made->vendor = texts[0];
   made->edition = texts[1];
   made->osFolder = texts[2];
   *info = made;
   return VIX_OK;
}

void VixMntapi_FreeOsInfo(VixOsInfo *info)
{
   free(info);
}

static VixError change(CallName name, VixVolumeHandle volumeHandle, Bool how)
{
   Call call;
   VixError code = call_begin(&call, name);
   if (code != VIX_OK) {
      return code;
   }
   call_handle(&call, volumeHandle);
   call_number(&call, how != 0);
   return call_end(&call);
}

VixError VixMntapi_MountVolume(VixVolumeHandle volumeHandle, Bool readOnly)
{
   return change(CALL_mnt_mount, volumeHandle, readOnly);
}

VixError VixMntapi_DismountVolume(VixVolumeHandle volumeHandle, Bool force)
{
   return change(CALL_mnt_dismount, volumeHandle, force);
}

VixError VixMntapi_GetVolumeInfo(VixVolumeHandle volumeHandle, VixVolumeInfo **info)
{
   char *answer;
   size_t size;
   uint32 numbers[3];
   if (info == NULL) {
      return VIX_E_INVALID_ARG;
   }
   *info = NULL;
   VixError code = ask(CALL_mnt_volume_info, volumeHandle, 0, &answer, &size);
   if (code != VIX_OK) {
      return code;
   }
   if (size <= sizeof numbers) {
      free(answer);
      return VIX_E_FAIL;
   }
   memcpy(numbers, answer, sizeof numbers);
   size_t points = numbers[2], head = sizeof(VixVolumeInfo) + points * sizeof(char *);
   VixVolumeInfo *made = points < size ? malloc(head + size + 1) : NULL;
   if (made == NULL) {
      free(answer);
      return VIX_E_OUT_OF_MEMORY;
   }
   memset(made, 0, head);
   char *texts = (char *)made + head, *end = texts + size, *text = texts + sizeof numbers;
   memcpy(texts, answer, size + 1);
   free(answer);
   made->type = (VixVolumeType)numbers[0];
   made->isMounted = numbers[1] != 0;
   made->symbolicLink = text;
   for (size_t i = 0; i < points; i++) {
      text = text != NULL ? next_text(text, end) : NULL;
      made->inGuestMountPoints[i] = text;
   }
   made->numGuestMountPoints = points;
   *info = made;
   return VIX_OK;
}

void VixMntapi_FreeVolumeInfo(VixVolumeInfo *info)
{
   free(info);
}
