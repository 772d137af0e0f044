/* SPDX-License-Identifier: Apache-2.0 */
/* The functions of VixDiskLib: disks opened and described, and their metadata. */

#define _GNU_SOURCE
#include <stdlib.h>
#include <string.h>

#include "later.h"
#include "parts.h"

_Static_assert(sizeof(VixDiskLibInfo) == 64, "the layout of 7.0");

static const char *const modes[] = {"file", "san", "hotadd", "nbdssl", "nbd"};

VixError VixDiskLib_Open(const VixDiskLibConnection connection, const char *path, uint32 flags,
                         VixDiskLibHandle *diskHandle)
{
   Call call;
   if (diskHandle == NULL) {
      return VIX_E_INVALID_ARG;
   }
   *diskHandle = NULL;
   VixError code = call_begin(&call, CALL_open);
   if (code != VIX_OK) {
      return code;
   }
   call_handle(&call, connection);
   call_text(&call, path);
   call_number(&call, flags);
   return end_handle(&call, (void **)diskHandle);
}

VixError VixDiskLib_Close(VixDiskLibHandle diskHandle)
{
   later_wait(diskHandle);
   return about_disk(CALL_close, diskHandle);
}

/* The fixed part of the answer of `get_info`; two texts follow, each with a NUL. */
typedef struct {
   uint32 geometries[6];
   uint64 capacity;
   int32 adapter;
   int32 links;
   uint32 sector_sizes[2];
   uint32 has_parent;
   uint32 has_uuid;
} InfoAnswer;

VixError VixDiskLib_GetInfo(VixDiskLibHandle diskHandle, VixDiskLibInfo **info)
{
   Call call;
   InfoAnswer found;
   char *answer;
   size_t size;
   if (info == NULL) {
      return VIX_E_INVALID_ARG;
   }
   *info = NULL;
   VixError code = call_begin(&call, CALL_get_info);
   if (code != VIX_OK) {
      return code;
   }
   call_handle(&call, diskHandle);
   code = call_end_bytes(&call, sizeof(VixDiskLibInfo), &answer, &size);
   if (code != VIX_OK) {
      return code;
   }
   char *at = answer + sizeof(VixDiskLibInfo);
   size_t parent = size > sizeof found ? strlen(at + sizeof found) + 1 : 0;
   if (size < sizeof found + 2 || sizeof found + parent >= size || at[size - 1] != 0) {
      free(answer);
      return VIX_E_FAIL;
   }
   memcpy(&found, at, sizeof found);
   VixDiskLibInfo *made = (VixDiskLibInfo *)answer;
   memset(made, 0, sizeof *made);
   memcpy(&made->biosGeo, found.geometries, sizeof made->biosGeo);
   memcpy(&made->physGeo, found.geometries + 3, sizeof made->physGeo);
   made->capacity = found.capacity;
   made->adapterType = (VixDiskLibAdapterType)found.adapter;
   made->numLinks = found.links;
   made->parentFileNameHint = found.has_parent ? at + sizeof found : NULL;
   made->uuid = found.has_uuid ? at + sizeof found + parent : NULL;
   made->logicalSectorSize = found.sector_sizes[0];
   made->physicalSectorSize = found.sector_sizes[1];
   *info = made;
   return VIX_OK;
}

void VixDiskLib_FreeInfo(VixDiskLibInfo *info)
{
   free(info);
}

const char *VixDiskLib_GetTransportMode(VixDiskLibHandle diskHandle)
{
   Call call;
   uint64_t which;
   if (call_begin(&call, CALL_get_transport_mode) != VIX_OK) {
      return NULL;
   }
   call_handle(&call, diskHandle);
   if (call_end_into(&call, &which, sizeof which) != VIX_OK ||
       which >= sizeof modes / sizeof modes[0]) {
      return NULL;
   }
   return modes[which];
}

/* ---- Metadata ---------------------------------------------------------------------------- */

/* Hand over a text whose last NUL the answer has not. */
static VixError hand_over(char *answer, size_t size, char *buf, size_t room, size_t *requiredLen)
{
   VixError code = VIX_OK;
   if (requiredLen != NULL) {
      *requiredLen = size + 1;
   }
   if (buf == NULL || room < size + 1) {
      code = VIX_E_BUFFER_TOOSMALL;
   } else {
      memcpy(buf, answer, size + 1);
   }
   free(answer);
   return code;
}

VixError VixDiskLib_ReadMetadata(VixDiskLibHandle diskHandle, const char *key, char *buf,
                                 size_t bufLen, size_t *requiredLen)
{
   Call call;
   char *answer;
   size_t size;
   VixError code = call_begin(&call, CALL_read_metadata);
   if (code != VIX_OK) {
      return code;
   }
   call_handle(&call, diskHandle);
   call_text(&call, key);
   code = call_end_bytes(&call, 0, &answer, &size);
   return code == VIX_OK ? hand_over(answer, size, buf, bufLen, requiredLen) : code;
}

VixError VixDiskLib_WriteMetadata(VixDiskLibHandle diskHandle, const char *key, const char *val)
{
   Call call;
   VixError code = call_begin(&call, CALL_write_metadata);
   if (code != VIX_OK) {
      return code;
   }
   call_handle(&call, diskHandle);
   call_text(&call, key);
   call_text(&call, val);
   return call_end(&call);
}

VixError VixDiskLib_GetMetadataKeys(VixDiskLibHandle diskHandle, char *keys, size_t maxLen,
                                    size_t *requiredLen)
{
   Call call;
   char *answer;
   size_t size;
   VixError code = call_begin(&call, CALL_metadata_keys);
   if (code != VIX_OK) {
      return code;
   }
   call_handle(&call, diskHandle);
   code = call_end_bytes(&call, 0, &answer, &size);
   return code == VIX_OK ? hand_over(answer, size, keys, maxLen, requiredLen) : code;
}
