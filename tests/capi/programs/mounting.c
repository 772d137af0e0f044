/* SPDX-License-Identifier: Apache-2.0 */
/* The 14 functions of VixMntapi: an empty disk, and wrong use. volumes.c has the right one. */

#include "check.h"

#include "vixMntapi.h"

#define POISON ((void *)0xAAAAAAAAAAAAAAAA)

/* Every function that needs a handle. */
static void with_handles(VixDiskSetHandle set, VixVolumeHandle volume, VixError code)
{
   VixDiskSetInfo *info = POISON;
   VixVolumeHandle *volumes = POISON;
   VixOsInfo *system = POISON;
   VixVolumeInfo *about = POISON;
   size_t count = 77;
   IS(code, VixMntapi_GetDiskSetInfo(set, &info));
   IS(code, VixMntapi_GetVolumeHandles(set, &count, &volumes));
   IS(code, VixMntapi_GetOsInfo(set, &system));
   IS(code, VixMntapi_MountVolume(volume, TRUE));
   IS(code, VixMntapi_DismountVolume(volume, TRUE));
   IS(code, VixMntapi_GetVolumeInfo(volume, &about));
   IS(code, VixMntapi_CloseDiskSet(set));
   SO(info == NULL && volumes == NULL && system == NULL && about == NULL && count == 0);
}

static void nulls(void)
{
   VixError code = VixMntapi_GetDiskSetInfo(NULL, NULL);
   SO(code != VIX_OK && code != VIX_E_FAIL);
   SO(VixMntapi_GetVolumeHandles(NULL, NULL, NULL) != VIX_OK);
   SO(VixMntapi_GetOsInfo(NULL, NULL) != VIX_OK);
   SO(VixMntapi_GetVolumeInfo(NULL, NULL) != VIX_OK);
   SO(VixMntapi_OpenDisks(NULL, NULL, 0, 0, NULL) == VIX_E_INVALID_ARG);
   VixMntapi_FreeDiskSetInfo(NULL);
   VixMntapi_FreeVolumeHandles(NULL);
   VixMntapi_FreeOsInfo(NULL);
   VixMntapi_FreeVolumeInfo(NULL);
}

int main(void)
{
   VixDiskLibConnection here = NULL;
   VixDiskSetHandle set = POISON;
   const char *names[] = {"d.vmdk"};
   VixMntapi_Exit();
   with_handles(NULL, NULL, VIX_E_DISK_NOINIT);
   IS(VIX_E_DISK_NOINIT, VixMntapi_OpenDisks(NULL, names, 1, 0, &set));
   SO(set == NULL);
   OK(init());
   OK(VixDiskLib_Connect(NULL, &here));
   OK(make(here, "d.vmdk", VIXDISKLIB_DISK_MONOLITHIC_SPARSE, 2048));
   IS(VIX_E_MNTAPI_INCOMPATIBLE_VERSION, VixMntapi_Init(2, 0, NULL, NULL, NULL, NULL, NULL));
   OK(VixMntapi_Init(VIXMNTAPI_MAJOR_VERSION, VIXMNTAPI_MINOR_VERSION, take_line, take_warning,
                     NULL, NULL, NULL));
   nulls();
   IS(VIX_E_INVALID_ARG, VixMntapi_OpenDisks(here, NULL, 1, 0, &set));
   IS(VIX_E_INVALID_ARG, VixMntapi_OpenDisks(here, names, 0, 0, &set));
   IS(VIX_E_INVALID_ARG, VixMntapi_OpenDisks(here, names, 1, 0, NULL));
   SO(set == NULL);
   with_handles(NULL, NULL, VIX_E_INVALID_HANDLE);
   with_handles((VixDiskSetHandle)here, (VixVolumeHandle)here, VIX_E_INVALID_HANDLE);
   with_handles((VixDiskSetHandle)names, (VixVolumeHandle)names, VIX_E_INVALID_HANDLE);
   const char *missing[] = {"none.vmdk"};
   set = POISON;
   IS(VIX_E_FILE_NOT_FOUND, VixMntapi_OpenDisks(here, missing, 1, 0, &set));
   SO(set == NULL && strstr(last_warning, "VixMntapi_OpenDisks: none.vmdk") != NULL);
   OK(VixMntapi_OpenDisks(here, names, 1, VIXDISKLIB_FLAG_OPEN_READ_ONLY, &set));
   VixOsInfo *system = NULL;
   OK(VixMntapi_GetOsInfo(set, &system));
   SO(system->family == VIXMNTAPI_NO_OS && system->vendor[0] == 0);
   VixMntapi_FreeOsInfo(system);
   OK(VixMntapi_CloseDiskSet(set));
   with_handles(set, (VixVolumeHandle)set, VIX_E_INVALID_HANDLE);
   VixMntapi_Exit();
   with_handles(NULL, NULL, VIX_E_DISK_NOINIT);
   VixMntapi_Exit();
   OK(VixDiskLib_Disconnect(here));
   VixDiskLib_Exit();
   return finish();
}
