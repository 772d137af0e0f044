/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The way to connect since 6.7: the library makes the parameters, so that it knows how large they
 * are, and everything works.
 *
 * usage: connect_new DISK
 */

#include <stdio.h>

#include "vixDiskLib.h"

static void warn(const char *format, va_list arguments)
{
   fputs("warning: ", stdout);
   vprintf(format, arguments);
}

static void show(const char *what, VixError code)
{
   printf("%s: %llu\n", what, (unsigned long long)code);
}

static void show_blocks(VixDiskLibHandle disk)
{
   VixDiskLibInfo *info = NULL;
   VixDiskLibBlockList *blocks = NULL;
   uint64 chunk = VIXDISKLIB_MIN_CHUNK_SIZE, whole = 0;
   if (VixDiskLib_GetInfo(disk, &info) == VIX_OK) {
      whole = info->capacity / chunk * chunk;
      VixDiskLib_FreeInfo(info);
   }
   show("allocated blocks", VixDiskLib_QueryAllocatedBlocks(disk, 0, whole, chunk, &blocks));
   for (uint32 i = 0; blocks != NULL && i < blocks->numBlocks; i++) {
      printf("  from %llu, %llu sectors\n", (unsigned long long)blocks->blocks[i].offset,
             (unsigned long long)blocks->blocks[i].length);
   }
   VixDiskLib_FreeBlockList(blocks);
}

int main(int argc, char **argv)
{
   VixDiskLibConnection connection = NULL;
   VixDiskLibHandle disk = NULL;
   uint8 sector[VIXDISKLIB_SECTOR_SIZE];

   VixDiskLibConnectParams *params = VixDiskLib_AllocateConnectParams();
   if (argc != 2 || params == NULL ||
       VixDiskLib_InitEx(6, 7, NULL, warn, NULL, NULL, NULL) != VIX_OK) {
      return 2;
   }
   show("connect", VixDiskLib_ConnectEx(params, TRUE, NULL, NULL, &connection));
   VixDiskLib_FreeConnectParams(params); /* everything was copied */
   show("open", VixDiskLib_Open(connection, argv[1], VIXDISKLIB_FLAG_OPEN_READ_ONLY, &disk));
   show("read", VixDiskLib_Read(disk, 0, 1, sector));
   show_blocks(disk);
   show("close", VixDiskLib_Close(disk));
   show("disconnect", VixDiskLib_Disconnect(connection));
   VixDiskLib_Exit();
   return 0;
}
