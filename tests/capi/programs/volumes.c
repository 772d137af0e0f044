/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Files of a volume through VixMntapi: volumes DISK [write]. The last volume of the disk holds the
 * file hello.txt with the text "hello", and a Debian. Asked to write, a file new.txt is added.
 */

#include "check.h"

#include "vixMntapi.h"

/* What a file begins with. */
static const char *begin_of(const char *folder, const char *name)
{
   static char text[16];
   char path[4096];
   snprintf(path, sizeof path, "%s/%s", folder, name);
   FILE *file = fopen(path, "r");
   memset(text, 0, sizeof text);
   if (file != NULL) {
      if (fgets(text, sizeof text, file) == NULL) {
         text[0] = 0;
      }
      fclose(file);
   }
   return text;
}

static void mount_and_look(VixVolumeHandle volume)
{
   VixVolumeInfo *info = NULL;
   char folder[4096];
   OK(VixMntapi_GetVolumeInfo(volume, &info));
   SO(info->type == VIXMNTAPI_BASIC_PARTITION && !info->isMounted && info->symbolicLink[0] == 0);
   VixMntapi_FreeVolumeInfo(info);
   IS(VIX_E_MNTAPI_VOLUME_NOT_MOUNTED, VixMntapi_DismountVolume(volume, FALSE));
   IS(VIX_E_MNTAPI_VOLUME_NOT_WRITABLE, VixMntapi_MountVolume(volume, FALSE));
   OK(VixMntapi_MountVolume(volume, TRUE));
   IS(VIX_E_MNTAPI_VOLUME_ALREADY_MOUNTED, VixMntapi_MountVolume(volume, TRUE));
   OK(VixMntapi_GetVolumeInfo(volume, &info));
   SO(info->isMounted && info->numGuestMountPoints == 2);
   SO(info->numGuestMountPoints == 2 && strcmp(info->inGuestMountPoints[0], "/") == 0);
   SO(info->numGuestMountPoints == 2 && strcmp(info->inGuestMountPoints[1], "/srv/a b") == 0);
   snprintf(folder, sizeof folder, "%s", info->symbolicLink);
   VixMntapi_FreeVolumeInfo(info);
   SO(strcmp(begin_of(folder, "hello.txt"), "hello\n") == 0);

   char path[4200];
   snprintf(path, sizeof path, "%s/hello.txt", folder);
   FILE *inside = fopen(path, "r");
   SO(inside != NULL);
   IS(VIX_E_MNTAPI_UMOUNT, VixMntapi_DismountVolume(volume, FALSE));
   SO(strcmp(begin_of(folder, "hello.txt"), "hello\n") == 0);
   fclose(inside);
   OK(VixMntapi_DismountVolume(volume, FALSE));
   SO(access(folder, F_OK) != 0);

   OK(VixMntapi_MountVolume(volume, TRUE));
   OK(VixMntapi_GetVolumeInfo(volume, &info));
   snprintf(path, sizeof path, "%s/hello.txt", info->symbolicLink);
   inside = fopen(path, "r");
   OK(VixMntapi_DismountVolume(volume, TRUE));
   SO(access(info->symbolicLink, F_OK) != 0);
   VixMntapi_FreeVolumeInfo(info);
   fclose(inside);
}

/* Write a file through the kernel's driver. */
static void write_a_file(VixDiskLibConnection here, const char **names)
{
   VixDiskSetHandle set = NULL;
   VixVolumeHandle *volumes = NULL;
   VixVolumeInfo *info = NULL;
   size_t count = 0;
   char path[4200];
   OK(VixMntapi_OpenDisks(here, names, 1, 0, &set));
   OK(VixMntapi_GetVolumeHandles(set, &count, &volumes));
   SO(count == 2);
   IS(VIX_E_NOT_SUPPORTED, VixMntapi_MountVolume(volumes[0], FALSE));
   OK(VixMntapi_MountVolume(volumes[1], FALSE));
   IS(VIX_E_MNTAPI_VOLUME_ALREADY_MOUNTED, VixMntapi_MountVolume(volumes[1], FALSE));
   OK(VixMntapi_GetVolumeInfo(volumes[1], &info));
   SO(info->isMounted);
   snprintf(path, sizeof path, "%s/new.txt", info->symbolicLink);
   FILE *inside = fopen(path, "w");
   SO(inside != NULL);
   fputs("written by C\n", inside);
   IS(VIX_E_MNTAPI_UMOUNT, VixMntapi_DismountVolume(volumes[1], FALSE));
   fclose(inside);
   SO(strcmp(begin_of(info->symbolicLink, "new.txt"), "written by C\n") == 0);
   SO(strcmp(begin_of(info->symbolicLink, "hello.txt"), "hello\n") == 0);
   OK(VixMntapi_DismountVolume(volumes[1], FALSE));
   SO(access(info->symbolicLink, F_OK) != 0);
   VixMntapi_FreeVolumeInfo(info);

   /* For reading it is the same file; what is left open is closed with the rest. */
   OK(VixMntapi_MountVolume(volumes[1], TRUE));
   OK(VixMntapi_GetVolumeInfo(volumes[1], &info));
   SO(strcmp(begin_of(info->symbolicLink, "new.txt"), "written by C\n") == 0);
   VixMntapi_FreeVolumeInfo(info);
   VixMntapi_FreeVolumeHandles(volumes);
   OK(VixMntapi_CloseDiskSet(set));
}

int main(int argc, char **argv)
{
   VixDiskLibConnection here = NULL;
   VixDiskSetHandle set = NULL;
   VixDiskSetInfo *disks = NULL;
   VixVolumeHandle *volumes = NULL;
   VixOsInfo *system = NULL;
   size_t count = 0;
   const char *names[] = {argc > 1 ? argv[1] : ""};
   OK(VixDiskLib_InitEx(6, 7, take_line, take_warning, NULL, NULL, NULL));
   OK(VixMntapi_Init(1, 0, take_line, take_warning, NULL, NULL, NULL));
   OK(VixDiskLib_Connect(NULL, &here));
   OK(VixMntapi_OpenDisks(here, names, 1, VIXDISKLIB_FLAG_OPEN_READ_ONLY, &set));
   OK(VixMntapi_GetDiskSetInfo(set, &disks));
   SO(disks->openFlags == VIXDISKLIB_FLAG_OPEN_READ_ONLY);
   SO(access(disks->mountPath, R_OK) == 0);
   OK(VixMntapi_GetVolumeHandles(set, &count, &volumes));
   SO(count == 2);
   OK(VixMntapi_GetOsInfo(set, &system));
   SO(system->family == VIXMNTAPI_OTHER && system->majorVersion == 12);
   SO(strcmp(system->vendor, "debian") == 0 && strcmp(system->osFolder, "/") == 0);
   VixMntapi_FreeOsInfo(system);
   IS(VIX_E_NOT_SUPPORTED, VixMntapi_MountVolume(volumes[0], TRUE));
   mount_and_look(volumes[1]);

   /* What is left open is closed with the rest. */
   OK(VixMntapi_MountVolume(volumes[1], TRUE));
   VixMntapi_FreeVolumeHandles(volumes);
   OK(VixMntapi_CloseDiskSet(set));
   SO(access(disks->mountPath, F_OK) != 0);
   VixMntapi_FreeDiskSetInfo(disks);
   if (argc > 2) {
      write_a_file(here, names);
   }
   OK(VixMntapi_OpenDisks(here, names, 1, 0, &set));
   OK(VixMntapi_GetDiskSetInfo(set, &disks));
   VixMntapi_Exit();
   SO(access(disks->mountPath, F_OK) != 0);
   VixMntapi_FreeDiskSetInfo(disks);
   OK(VixDiskLib_Disconnect(here));
   VixDiskLib_Exit();
   return finish();
}
