/* SPDX-License-Identifier: Apache-2.0 */
/* The functions of VixDiskLib: disks made, copied, and changed in how they are stored. */

#define _GNU_SOURCE
#include "parts.h"

_Static_assert(sizeof(VixDiskLibCreateParams) == 32, "the layout of 7.0");

/* Five arguments, whatever the client gave. */
static void call_create_params(Call *call, const VixDiskLibCreateParams *params)
{
   /* Clients that do not know these fields leave anything in them; that is taken for 512. */
   int large = params != NULL && asked_major >= 7 && params->logicalSectorSize == 4096;
   call_number(call, params != NULL ? (uint32)params->diskType : 0);
   call_number(call, params != NULL ? (uint32)params->adapterType : 0);
   call_number(call, params != NULL ? params->hwVersion : 0);
   call_number(call, params != NULL ? params->capacity : 0);
   call_number(call, large ? 4096 : 0);
}

VixError VixDiskLib_Create(const VixDiskLibConnection connection, const char *path,
                           const VixDiskLibCreateParams *createParams,
                           VixDiskLibProgressFunc progressFunc, void *progressCallbackData)
{
   Call call;
   VixError code = call_begin(&call, CALL_create);
   if (code != VIX_OK) {
      return code;
   }
   call_handle(&call, connection);
   call_text(&call, path);
   call_number(&call, createParams != NULL);
   call_create_params(&call, createParams);
   call_progress(&call, progressFunc, progressCallbackData);
   return call_end(&call);
}

VixError VixDiskLib_CreateChild(VixDiskLibHandle diskHandle, const char *childPath,
                                VixDiskLibDiskType diskType, VixDiskLibProgressFunc progressFunc,
                                void *progressCallbackData)
{
   Call call;
   VixError code = call_begin(&call, CALL_create_child);
   if (code != VIX_OK) {
      return code;
   }
   call_handle(&call, diskHandle);
   call_text(&call, childPath);
   call_number(&call, (uint32)diskType);
   call_progress(&call, progressFunc, progressCallbackData);
   return call_end(&call);
}

VixError VixDiskLib_Unlink(VixDiskLibConnection connection, const char *path)
{
   Call call;
   VixError code = call_begin(&call, CALL_unlink);
   if (code != VIX_OK) {
      return code;
   }
   call_handle(&call, connection);
   call_text(&call, path);
   return call_end(&call);
}

VixError VixDiskLib_Rename(const char *srcFileName, const char *dstFileName)
{
   Call call;
   VixError code = call_begin(&call, CALL_rename);
   if (code != VIX_OK) {
      return code;
   }
   call_text(&call, srcFileName);
   call_text(&call, dstFileName);
   return call_end(&call);
}

VixError VixDiskLib_Grow(VixDiskLibConnection connection, const char *path,
                         VixDiskLibSectorType capacity, Bool updateGeometry,
                         VixDiskLibProgressFunc progressFunc, void *progressCallbackData)
{
   Call call;
   VixError code = call_begin(&call, CALL_grow);
   if (code != VIX_OK) {
      return code;
   }
   call_handle(&call, connection);
   call_text(&call, path);
   call_number(&call, capacity);
   call_number(&call, updateGeometry != 0);
   call_progress(&call, progressFunc, progressCallbackData);
   return call_end(&call);
}

static VixError tidy(CallName name, VixDiskLibHandle diskHandle,
                     VixDiskLibProgressFunc progressFunc, void *progressCallbackData)
{
   Call call;
   VixError code = call_begin(&call, name);
   if (code != VIX_OK) {
      return code;
   }
   call_handle(&call, diskHandle);
   call_progress(&call, progressFunc, progressCallbackData);
   return call_end(&call);
}

VixError VixDiskLib_Shrink(VixDiskLibHandle diskHandle, VixDiskLibProgressFunc progressFunc,
                           void *progressCallbackData)
{
   return tidy(CALL_shrink, diskHandle, progressFunc, progressCallbackData);
}

VixError VixDiskLib_Defragment(VixDiskLibHandle diskHandle, VixDiskLibProgressFunc progressFunc,
                               void *progressCallbackData)
{
   return tidy(CALL_defragment, diskHandle, progressFunc, progressCallbackData);
}

VixError VixDiskLib_Clone(const VixDiskLibConnection dstConnection, const char *dstPath,
                          const VixDiskLibConnection srcConnection, const char *srcPath,
                          const VixDiskLibCreateParams *vixCreateParams,
                          VixDiskLibProgressFunc progressFunc, void *progressCallbackData,
                          Bool overWrite)
{
   Call call;
   VixError code = call_begin(&call, CALL_clone);
   if (code != VIX_OK) {
      return code;
   }
   call_handle(&call, dstConnection);
   call_text(&call, dstPath);
   call_handle(&call, srcConnection);
   call_text(&call, srcPath);
   call_number(&call, overWrite != 0);
   call_number(&call, vixCreateParams != NULL);
   call_create_params(&call, vixCreateParams);
   call_progress(&call, progressFunc, progressCallbackData);
   return call_end(&call);
}

VixError VixDiskLib_SpaceNeededForClone(VixDiskLibHandle diskHandle,
                                        VixDiskLibDiskType cloneDiskType, uint64 *spaceNeeded)
{
   Call call;
   if (spaceNeeded == NULL) {
      return VIX_E_INVALID_ARG;
   }
   VixError code = call_begin(&call, CALL_space_needed);
   if (code != VIX_OK) {
      return code;
   }
   call_handle(&call, diskHandle);
   call_number(&call, (uint32)cloneDiskType);
   return call_end_into(&call, spaceNeeded, sizeof *spaceNeeded);
}

VixError VixDiskLib_CheckRepair(const VixDiskLibConnection connection, const char *filename,
                                Bool repair)
{
   Call call;
   VixError code = call_begin(&call, CALL_check_repair);
   if (code != VIX_OK) {
      return code;
   }
   call_handle(&call, connection);
   call_text(&call, filename);
   call_number(&call, repair != 0);
   return call_end(&call);
}

static VixError about_two(CallName name, VixDiskLibHandle parent, VixDiskLibHandle child)
{
   Call call;
   VixError code = call_begin(&call, name);
   if (code != VIX_OK) {
      return code;
   }
   call_handle(&call, parent);
   call_handle(&call, child);
   return call_end(&call);
}

VixError VixDiskLib_IsAttachPossible(VixDiskLibHandle parent, VixDiskLibHandle child)
{
   return about_two(CALL_is_attach_possible, parent, child);
}

VixError VixDiskLib_Attach(VixDiskLibHandle parent, VixDiskLibHandle child)
{
   return about_two(CALL_attach, parent, child);
}
